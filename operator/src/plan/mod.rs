//! Plan: a spec and a model's facts become a request, and the planner's answer becomes what the
//! engine is told, or the words of a refusal. Pure.

mod requests;

use plimsoll_crds::names::{MESSAGE_CHARS, NAME_CHARS};
use plimsoll_crds::v1alpha1::boot::BootSplit;
use plimsoll_crds::v1alpha1::convert::{self, ConvertError};
use plimsoll_crds::v1alpha1::engine::PlanStatus;
use plimsoll_crds::v1alpha1::{Boot, InferenceDeployment, ModelFacts, Reason};
use plimsoll_planner::refusal::Reason as RefusalReason;
use plimsoll_planner::{
    Bytes, MEMORY_LIMIT, Plan, Refusal, Request, cpu_memory_limit, plan as planner_plan,
    plan_within, refit_within, table,
};

use crate::build::{self, Documents};
use crate::outcome::ContainerMemory;

/// Where a user writes the container's memory limit.
const LIMIT_FIELD: &str = "spec.template.engine.resources.limits.memory";

/// A plan that fits, and what follows from it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Accepted {
    pub(crate) documents: Documents,
    pub(crate) plan: PlanStatus,
    /// Memory of the engine's container.
    pub(crate) container: ContainerMemory,
    /// The plan's figures in a sentence, for a condition and an Event.
    pub(crate) summary: String,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// The spec cannot be used as it is.
    Invalid(String),
    /// It is too big for what it may use.
    Refused { reason: Reason, message: String },
}

/// What can be said of a spec before the model is known.
///
/// # Errors
/// A name that no Service can carry.
pub(crate) fn check_name(object: &InferenceDeployment) -> Result<(), Rejected> {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let label = name.len() <= NAME_CHARS
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    match label {
        true => Ok(()),
        false => Err(Rejected::Invalid(format!(
            "metadata.name: {name:?} has {} characters; its Service needs at most {NAME_CHARS} \
             lower-case letters, digits and '-', a letter first: create it under another name",
            name.len()
        ))),
    }
}

/// A spec and a model as the planner is asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked<'a> {
    object: &'a InferenceDeployment,
    model: &'a ModelFacts,
    request: Request,
    /// The container's memory limit, where the user wrote one.
    limit: Option<Bytes>,
}

impl<'a> Asked<'a> {
    /// # Errors
    /// [`Rejected::Invalid`]: the spec makes no request.
    pub(crate) fn new(
        object: &'a InferenceDeployment,
        model: &'a ModelFacts,
    ) -> Result<Asked<'a>, Rejected> {
        Ok(Asked {
            object,
            model,
            request: convert::request(&object.spec, model).map_err(|error| invalid(&error))?,
            limit: written_limit(object).map_err(|error| invalid(&error))?,
        })
    }

    /// Plans it anew.
    ///
    /// # Errors
    /// [`Rejected`], in words for the user of at most 1,000 characters.
    pub(crate) fn plan(&self) -> Result<Accepted, Rejected> {
        let planned = plan_within(&self.request, self.limit);
        let (request, plan) = planned.map_err(|refusal| refused(&refusal))?;
        let split = convert::boot_split(&request, &plan);
        self.accept((&request, &plan), split)
    }

    /// Plans it with the split of engines that run.
    ///
    /// # Errors
    /// As [`Asked::plan`], with the numbers of that split.
    pub(crate) fn keep(&self, split: &BootSplit) -> Result<Accepted, Rejected> {
        let shards = convert::shards(split).map_err(|error| invalid(&error))?;
        let planned = refit_within(&self.request, self.limit, &shards, split.max_model_len);
        let (request, plan) = planned.map_err(|refusal| refused(&refusal))?;
        self.accept((&request, &plan), split.clone())
    }

    /// What an engine with this split would be started with.
    pub(crate) fn boot(&self, split: BootSplit) -> Boot {
        build::boot(self.object, self.model, &self.request, split)
    }

    /// Whether a split is what its engine will find it to be: a plan for the budgets that it says it
    /// was made for.
    pub(crate) fn believes(&self, split: &BootSplit) -> bool {
        let boot = self.boot(split.clone());
        let request = convert::split_request(&boot, self.request.shape.clone());
        planner_plan(&request).is_ok_and(|plan| convert::boot_split(&request, &plan) == *split)
    }

    fn accept(
        &self,
        (request, plan): (&Request, &Plan),
        split: BootSplit,
    ) -> Result<Accepted, Rejected> {
        let needed = cpu_memory_limit(request).unwrap_or(Bytes::ZERO);
        let container = ContainerMemory {
            limit: self.limit.unwrap_or(needed).max(needed).get(),
            needed: needed.get(),
            written: self.limit.is_some(),
        };
        requests::check(self.object, container.limit)
            .map_err(|message| Rejected::Invalid(short(&message)))?;
        Ok(Accepted {
            summary: summary(request, plan),
            documents: Documents {
                boot: self.boot(split),
                target: build::target(self.object, request, plan),
            },
            plan: convert::plan_status(plan),
            container,
        })
    }
}

/// Whether the user wrote how much memory the engine's container asks its node for.
pub(crate) fn requests_memory(object: &InferenceDeployment) -> bool {
    let template = object.spec.template.as_ref();
    let engine = template.and_then(|template| template.engine.as_ref());
    let resources = engine.and_then(|engine| engine.resources.as_ref());
    resources.is_some_and(|resources| resources.requests.contains_key("memory"))
}

/// Whether the memory limit of the engine's container is the user's.
pub(crate) fn writes_limit(object: &InferenceDeployment) -> bool {
    !matches!(written_limit(object), Ok(None))
}

/// `spec.template.engine.resources.limits.memory`, if it is written.
fn written_limit(object: &InferenceDeployment) -> Result<Option<Bytes>, ConvertError> {
    let engine = object
        .spec
        .template
        .as_ref()
        .and_then(|template| template.engine.as_ref());
    let resources = engine.and_then(|engine| engine.resources.as_ref());
    let Some(limit) = resources.and_then(|resources| resources.limits.get("memory")) else {
        return Ok(None);
    };
    convert::quantity_bytes(LIMIT_FIELD, &limit.0).map(Some)
}

fn invalid(error: &ConvertError) -> Rejected {
    Rejected::Invalid(short(&error.to_string()))
}

fn refused(refusal: &Refusal) -> Rejected {
    // The planner does not know where in the spec the container's limit is written.
    let message = refusal.message().replace(MEMORY_LIMIT, LIMIT_FIELD);
    let message = short(&message);
    let reason = match &refusal.reason {
        RefusalReason::Invalid { .. } => return Rejected::Invalid(message),
        RefusalReason::ContextTooLong => Reason::ContextTooLong,
        RefusalReason::KvCacheTooSmall => Reason::KVCacheTooSmall,
        RefusalReason::QuotaTooSmall => Reason::QuotaTooSmall,
        RefusalReason::MemoryTooSmall => Reason::MemoryTooSmall,
        RefusalReason::HostMemoryTooSmall { .. } => Reason::HostMemoryInsufficient,
    };
    Rejected::Refused { reason, message }
}

/// The first characters of a text, as many as conditions and Events hold.
pub(crate) fn short(text: &str) -> String {
    text.chars().take(MESSAGE_CHARS).collect()
}

fn summary(request: &Request, plan: &Plan) -> String {
    let ranks = plan.ranks.iter().map(|rank| {
        let heads = &rank.shard.kv_heads;
        format!(
            "rank {}: {} of {} planned, KV heads {}-{}",
            rank.rank,
            rank.total(),
            rank.budget,
            heads.start,
            heads.end.saturating_sub(1).max(heads.start),
        )
    });
    let ranks: Vec<String> = ranks.collect();
    short(&format!(
        "{}; {} tokens of KV cache, maxModelLen {}, weights {}",
        ranks.join("; "),
        plan.kv_tokens,
        plan.max_model_len,
        table::weights(request)
    ))
}

#[cfg(test)]
mod tests;
