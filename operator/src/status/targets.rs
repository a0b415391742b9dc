//! Rows of `status.memory.targets`: what an engine holds to, and what the newest target leads to.

use plimsoll_crds::v1alpha1::target::TargetRow;

use super::planned_budgets;
use crate::facts::Facts;
use crate::outcome::{Outcome, Planned};

/// The row with the figures before and after.
pub(super) fn with_figures(facts: &Facts, outcome: &Outcome, row: TargetRow) -> TargetRow {
    let pod = facts.pods.iter().find(|pod| pod.name == row.pod);
    let report = pod.and_then(|pod| facts.report(pod));
    let budgets = |report: &plimsoll_crds::v1alpha1::report::MemoryReport| {
        report.ranks.iter().map(|rank| rank.budget_bytes).sum()
    };
    let (wanted, limit) = match &outcome.planned {
        // Other revisions are not told.
        Planned::Fits {
            plan,
            container,
            revision,
            ..
        } if pod.is_some_and(|pod| pod.revision == *revision) => (
            Some(planned_budgets(plan)),
            (!container.written).then_some(container.limit),
        ),
        Planned::Fits { .. }
        | Planned::Unresolved
        | Planned::Invalid(_)
        | Planned::Refused { .. } => (None, None),
    };
    TargetRow {
        budget_bytes: report.map(budgets).or(row.budget_bytes),
        wanted_budget_bytes: wanted,
        limit_bytes: pod.and_then(|pod| pod.limit.in_force),
        wanted_limit_bytes: limit,
        ..row
    }
}
