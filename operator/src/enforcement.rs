//! Who keeps the ranks within their quotas. Pure.

use plimsoll_crds::v1alpha1::Reason;
use plimsoll_crds::v1alpha1::conditions::ConditionStatus::{self, False, True};
use plimsoll_planner::Bytes;

use crate::facts::Facts;
use crate::outcome::{ContainerMemory, Outcome, Planned};

/// Who sees to what, with the values.
pub(crate) fn enforced(facts: &Facts, outcome: &Outcome) -> (ConditionStatus, Reason, String) {
    let quotas = &facts.object.spec.memory.gpu_quotas;
    if quotas.is_empty() {
        let text = "spec.memory.gpuQuotas has no rows; budgets follow the utilization";
        return (False, Reason::NoQuotas, text.to_owned());
    }
    let quotas = quotas
        .iter()
        .map(|row| format!("rank {}: {}", row.rank, row.limit.0));
    let engine = format!(
        "the engine keeps each rank within its quota ({})",
        quotas.collect::<Vec<_>>().join(", ")
    );
    let bytes = Bytes::measured;
    let Planned::Fits {
        container:
            ContainerMemory {
                limit,
                needed,
                written: _,
            },
        revision,
        ..
    } = &outcome.planned
    else {
        let text =
            format!("{engine}; the container's limit follows from a plan, and none fits yet");
        return (True, Reason::EngineAlone, text);
    };
    let (limit, needed) = (*limit, *needed);
    if let Some((pod, more)) = looser(facts, revision, limit) {
        let (above, more, needed) = (
            bytes(more.saturating_sub(needed)),
            bytes(more),
            bytes(needed),
        );
        let text = format!(
            "{engine}, and nobody else does in pod {pod}: its container's memory limit in force is \
             {more}, which is {above} above the sum of the budgets and the host's reserve, {needed}, \
             and is to be {}",
            bytes(limit)
        );
        return (True, Reason::EngineAlone, text);
    }
    let above = bytes(limit.saturating_sub(needed));
    let (limit, needed) = (bytes(limit), bytes(needed));
    match above {
        Bytes::ZERO => (
            True,
            Reason::EngineAndMemoryLimit,
            format!(
                "{engine}; the kernel keeps the engine's container within its memory limit of \
                 {limit}, the sum of the budgets and the host's reserve"
            ),
        ),
        above => (
            True,
            Reason::EngineAlone,
            format!(
                "{engine}, and nobody else does: the kernel keeps the engine's container within \
                 its memory limit of {limit}, which is {above} above the sum of the budgets and \
                 the host's reserve, {needed}"
            ),
        ),
    }
}

/// The pod of a revision whose container has the most above its planned memory limit, by its node's word.
fn looser<'a>(facts: &'a Facts, revision: &str, limit: u64) -> Option<(&'a str, u64)> {
    let pods = facts.live_pods().filter(|pod| pod.revision == revision);
    let in_force = pods.filter_map(|pod| Some((&*pod.name, pod.limit.in_force?)));
    in_force
        .filter(|(_, bytes)| *bytes > limit)
        .max_by_key(|(_, bytes)| *bytes)
}
