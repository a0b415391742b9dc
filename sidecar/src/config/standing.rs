//! What stands while an engine lives: the split and the longest sequence. Other budgets give its ranks
//! another KV cache, which is computed here.

use plimsoll_crds::v1alpha1::{Target, convert};
use plimsoll_planner::{Backend, Bytes, Refusal, Request, Shard, cpu_memory_limit, refit};

use super::Planned;
use super::documents::target_difference;
use crate::error::OverLimit;

/// Pages of a cgroup's limit: the kernel rounds it down to them.
const PAGE: u64 = 4096;

/// The plan that an engine was started with.
#[derive(Clone, Debug)]
pub struct Standing(Planned);

impl Standing {
    pub fn new(planned: Planned) -> Standing {
        Standing(planned)
    }

    /// The plan of a request with this engine's split.
    ///
    /// # Errors
    /// The planner's refusal.
    pub fn refit(&self, request: Request) -> Result<Planned, Box<Refusal>> {
        let Planned { plan, .. } = &self.0;
        let ranks = plan.ranks.iter();
        let shards: Vec<Shard> = ranks.map(|rank| rank.shard.clone()).collect();
        let plan = refit(&request, &shards, plan.max_model_len)?;
        Ok(Planned { request, plan })
    }

    /// The plan of a target.
    ///
    /// # Errors
    /// Why this engine cannot follow it, with the numbers: what it asks for does not fit, or is not what
    /// this engine computes for it.
    pub fn told(&self, target: &Target) -> Result<Planned, String> {
        let request = convert::retarget(&self.0.request, target).map_err(|it| it.to_string())?;
        let planned = self.refit(request).map_err(|it| it.to_string())?;
        let asked = (target.generation, target.gpu_memory_utilization);
        let ours = convert::target(&planned.request, &planned.plan, asked);
        match target_difference(target, &ours) {
            None => Ok(planned),
            Some(difference) => Err(format!(
                "the plan differs from the operator's: {difference}; both must be of one version"
            )),
        }
    }
}

impl Planned {
    /// Whether a container (or machine) of this much memory holds the plan; a GPU's is elsewhere.
    ///
    /// # Errors
    /// [`OverLimit`] with both numbers.
    pub fn within(&self, limit: Option<Bytes>) -> Result<(), OverLimit> {
        let needed = match self.request.backend {
            Backend::Cpu => cpu_memory_limit(&self.request),
            Backend::Cuda => None,
        };
        match (needed, limit) {
            // The kernel keeps a limit in whole pages, and drops the rest.
            (Some(needed), Some(limit)) if needed.get() / PAGE > limit.get() / PAGE => {
                Err(OverLimit { needed, limit })
            }
            _ => Ok(()),
        }
    }
}
