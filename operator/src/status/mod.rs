//! The status that should stand: told from facts and outcome. Pure.

mod targets;
pub(crate) mod unreadable;

use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::engine::PlanStatus;
use plimsoll_crds::v1alpha1::report::{Effective, MemoryReport};
use plimsoll_crds::v1alpha1::status::{
    GpuRow, HostRow, MemoryStatus, MemorySummary, RowOrigin, State,
};
use plimsoll_crds::v1alpha1::target::TargetRow;
use plimsoll_crds::v1alpha1::{InferenceDeploymentStatus, Reason};
use plimsoll_planner::Account;

use crate::build::served_names;
use crate::conditions::{conditions, whole_seconds};
use crate::facts::Facts;
use crate::inspect::Model;
use crate::outcome::{Outcome, Planned};
use crate::plan::short;
use crate::pods::PodFacts;
use crate::progress::slowest;
use crate::sleepers;
use crate::weights;

/// The status of a resource, all of it.
pub(crate) fn status(facts: &Facts, outcome: &Outcome) -> InferenceDeploymentStatus {
    let before = &facts.status;
    let live: Vec<&PodFacts> = facts.live_pods().collect();
    let (model, inspection) = match &outcome.model {
        Model::Known(model, inspection) => (Some((**model).clone()), Some(inspection.clone())),
        // What runs still runs the model read before.
        Model::Inspecting(_) | Model::Held(..) | Model::Unavailable(_) | Model::Failed(_) => {
            (before.model.clone(), before.inspection.clone())
        }
    };
    let (plan, restart, update_revision) = match &outcome.planned {
        Planned::Fits {
            plan,
            revision,
            restart,
            ..
        } => (Some(plan.clone()), *restart, Some(revision.clone())),
        // A refused spec leaves the pods alone, and with them the plan they run.
        Planned::Refused { .. } | Planned::Invalid(_) | Planned::Unresolved => (
            before
                .memory
                .as_ref()
                .and_then(|memory| memory.plan.clone()),
            before.memory.as_ref().and_then(|memory| memory.restart),
            before.update_revision.clone(),
        ),
    };
    let conditions = conditions(facts, outcome);
    let ready_reason = conditions
        .first()
        .and_then(|ready| Reason::parse(&ready.reason));
    let updated = live
        .iter()
        .filter(|pod| Some(&pod.revision) == update_revision.as_ref())
        .count();
    InferenceDeploymentStatus {
        observed_generation: Some(facts.identity.generation),
        state: Some(state(facts, outcome, ready_reason)),
        replicas: count(live.len()),
        ready_replicas: count(live.iter().filter(|pod| pod.ready).count()),
        updated_replicas: count(updated),
        selector: Some(format!(
            "{}={},{}={}",
            names::LABEL_DEPLOYMENT,
            facts.identity.name,
            names::LABEL_ROLE,
            names::ROLE_ENGINE
        )),
        current_revision: current_revision(facts, update_revision.as_deref()),
        update_revision,
        served_name: served_names(&facts.object).into_iter().next(),
        endpoint: Some(format!(
            "http://{}.{}.svc:{}",
            facts.identity.name,
            facts.identity.namespace,
            names::PORT_HTTP
        )),
        backend: Some(facts.object.spec.backend.resolve()),
        model,
        inspection,
        effective: effective(facts),
        progress: slowest(facts),
        memory: Some(MemoryStatus {
            restart,
            ..memory(facts, outcome, plan)
        }),
        weights: weights::status(facts, outcome),
        conditions,
    }
}

fn count(items: usize) -> u32 {
    u32::try_from(items).unwrap_or(u32::MAX)
}

fn state(facts: &Facts, outcome: &Outcome, ready: Option<Reason>) -> State {
    let answering = facts.live_pods().filter(|pod| pod.ready).count();
    let wanted = facts.wanted() as usize;
    match &outcome.planned {
        _ if outcome.taken.is_some() => return State::Refused,
        Planned::Refused { .. } | Planned::Invalid(_) => return State::Refused,
        Planned::Unresolved if sleepers::all_asleep(facts) => return State::Sleeping,
        Planned::Unresolved if answering == 0 => {
            return match &outcome.model {
                Model::Failed(_) | Model::Unavailable(_) => State::Failed,
                Model::Inspecting(_) => State::Inspecting,
                Model::Held(..) | Model::Known(..) => State::Pending,
            };
        }
        Planned::Unresolved | Planned::Fits { .. } => {}
    }
    match (answering, ready) {
        (_, Some(Reason::WakesOnRequest)) => State::Sleeping,
        (0, _) if wanted == 0 => State::Stopped,
        (0, Some(Reason::PodFailed | Reason::ProgressDeadlineExceeded)) => State::Failed,
        (0, Some(Reason::Loading)) => State::Loading,
        (0, Some(Reason::EngineSilent)) => State::Silent,
        (0, Some(Reason::Sleeping | Reason::GoingToSleep)) => State::Sleeping,
        (0, Some(Reason::Waking)) => State::Waking,
        (0, _) if facts.live_pods().any(|pod| pod.engine.running) => State::Loading,
        (0, _) => State::Pending,
        // Who sleeps by its own clock is where it should be.
        _ if answering < wanted && ready != Some(Reason::Serving) => State::Degraded,
        _ if outcome.resizing => State::Resizing,
        _ => State::Serving,
    }
}

/// The revision that answers requests: of those that do, the one with most pods, and rather the
/// one from before than a newer one with as many.
fn current_revision(facts: &Facts, update: Option<&str>) -> Option<String> {
    let answering = |revision: &str| {
        facts
            .live_pods()
            .filter(|pod| pod.ready && pod.revision == revision)
            .count()
    };
    let before = facts.status.current_revision.as_deref();
    let mut best: Option<(&str, usize)> = before.map(|revision| (revision, answering(revision)));
    for pod in facts.live_pods() {
        let pods = answering(&pod.revision);
        if pods > best.map_or(0, |(_, most)| most) {
            best = Some((&pod.revision, pods));
        }
    }
    // None answers: the last that did, while it exists; then none has.
    match best {
        Some((revision, 1..)) => Some(revision.to_owned()),
        Some((revision, 0)) if Some(revision) != update && !exists(facts, revision) => None,
        Some((revision, 0)) => Some(revision.to_owned()),
        None => None,
    }
}

fn exists(facts: &Facts, revision: &str) -> bool {
    facts
        .replica_sets
        .iter()
        .any(|set| set.revision == revision)
}

/// What the engines of the wanted revision say is in force; any engine while none of those does.
fn effective(facts: &Facts) -> Option<Effective> {
    let mut reports: Vec<(&PodFacts, &MemoryReport)> = facts
        .live_pods()
        .filter_map(|pod| Some((pod, facts.report(pod)?)))
        .collect();
    reports.sort_by_key(|(pod, _)| (std::cmp::Reverse(pod.created), &pod.name));
    let told = reports
        .into_iter()
        .find_map(|(_, report)| report.effective.clone());
    told.or_else(|| {
        facts
            .live_pods()
            .next()
            .and_then(|_| facts.status.effective.clone())
    })
}

/// Planned and measured memory: rows of every pod that still exists, at most 64, and totals of all.
fn memory(facts: &Facts, outcome: &Outcome, plan: Option<PlanStatus>) -> MemoryStatus {
    // Pods that ended for good hold nothing any more.
    let holding: Vec<&PodFacts> = facts.pods.iter().filter(|pod| !pod.finished()).collect();
    let told: Vec<(&PodFacts, Option<Rows>)> = holding
        .into_iter()
        .map(|pod| (pod, rows_of(facts, pod)))
        .collect();
    let quiet = |(pod, rows): &&(&PodFacts, Option<Rows>)| rows.is_none() && !pod.leaving();
    let unheard = told.iter().filter(quiet).count();
    let rows: Vec<Rows> = told.into_iter().filter_map(|(_, rows)| rows).collect();
    let gpus = rows.iter().flat_map(|rows| &rows.gpus);
    let used: u64 = gpus.clone().map(|row| row.driver_bytes).sum();
    let quota: u64 = gpus
        .clone()
        .map(|row| row.quota_bytes.unwrap_or(row.budget_bytes))
        .sum();
    let planned: u64 = gpus
        .clone()
        .flat_map(|row| &row.accounts)
        .filter(|account| on_device(&account.name))
        .map(|account| account.planned_bytes)
        .sum();
    // Pods that have not reported yet, and those that are still to be made, count as planned. One
    // that leaves before it reported never will.
    let to_be_made = (facts.wanted() as usize).saturating_sub(rows.len());
    let silent = u64::from(count(unheard.max(to_be_made)));
    let to_come = |bytes: fn(&PlanStatus) -> u64| {
        plan.as_ref()
            .map_or(0, |plan| bytes(plan).saturating_mul(silent))
    };
    let shown = |bytes: u64| (!rows.is_empty() || plan.is_some()).then(|| quantity(bytes));
    let summary = MemorySummary {
        used: (!rows.is_empty()).then(|| quantity(used)),
        quota: shown(quota + to_come(planned_budgets)),
        planned: shown(planned + to_come(planned_bytes)),
        kv_used_percent: kv_used(facts),
    };
    let targets = rows.iter().filter_map(|rows| rows.target.clone());
    let targets = targets.take(names::STATUS_ROWS);
    let targets = targets
        .map(|row| targets::with_figures(facts, outcome, row))
        .collect();
    MemoryStatus {
        summary: Some(summary),
        plan,
        restart: None,
        gpus: rows
            .iter()
            .flat_map(|r| r.gpus.clone())
            .take(names::STATUS_ROWS)
            .collect(),
        hosts: rows
            .into_iter()
            .filter_map(|r| r.host)
            .take(names::STATUS_ROWS)
            .collect(),
        targets,
    }
}

fn kv_used(facts: &Facts) -> Option<String> {
    let reports = facts.live_pods().filter_map(|pod| facts.report(pod));
    let fullest = reports.map(|report| report.kv_used_percent).max();
    // After a restart of the operator the last figure stands until an engine reports.
    match fullest {
        Some(percent) => Some(percent.to_string()),
        None => {
            let before = facts
                .status
                .memory
                .as_ref()?
                .summary
                .as_ref()?
                .kv_used_percent
                .clone();
            facts.live_pods().next().and(before)
        }
    }
}

struct Rows {
    gpus: Vec<GpuRow>,
    host: Option<HostRow>,
    target: Option<TargetRow>,
}

/// The rows of one pod: of its newest report, or those that status has from before.
fn rows_of(facts: &Facts, pod: &PodFacts) -> Option<Rows> {
    let known = facts.reports.get(&pod.name);
    let stale = known.is_some_and(|known| known.stale);
    let Some(report) = known.and_then(|known| known.report.as_deref()) else {
        let before = facts.status.memory.as_ref()?;
        let mut gpus = before.gpus.clone();
        gpus.retain(|row| row.pod == pod.name);
        gpus.iter_mut().for_each(|row| row.stale = stale);
        let mut host = before.hosts.iter().find(|row| row.pod == pod.name).cloned();
        host.iter_mut().for_each(|row| row.stale = stale);
        let mut targets = before.targets.iter();
        let target = targets.find(|row| row.pod == pod.name).cloned();
        let target = target.map(bounded);
        return (!gpus.is_empty()).then_some(Rows { gpus, host, target });
    };
    let origin = RowOrigin {
        pod: pod.name.clone(),
        node: pod.node.clone(),
        reported_at: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(whole_seconds(
            report.time.0,
        )),
        stale,
    };
    let gpus = report
        .ranks
        .iter()
        .map(|rank| GpuRow::new(&origin, rank.clone()))
        .collect();
    Some(Rows {
        gpus,
        host: Some(HostRow::new(&origin, report.host.clone())),
        target: report.target.clone().map(|told| {
            let alone = report.sleep.as_ref().map(|sleep| sleep.generation);
            bounded(TargetRow {
                sleep_generation: alone.filter(|of| *of > told.generation),
                ..TargetRow::new(&pod.name, told)
            })
        }),
    })
}

/// An engine's words are as long as it likes, and a status is not.
fn bounded(mut row: TargetRow) -> TargetRow {
    row.message = short(&row.message);
    row
}

fn planned_budgets(plan: &PlanStatus) -> u64 {
    plan.ranks.iter().map(|rank| rank.budget_bytes).sum()
}

fn planned_bytes(plan: &PlanStatus) -> u64 {
    plan.ranks
        .iter()
        .flat_map(|rank| &rank.accounts)
        .filter(|account| on_device(&account.name))
        .map(|account| account.planned_bytes)
        .sum()
}

/// Offloaded weights are host memory: they are in no total of the ranks.
fn on_device(account: &str) -> bool {
    account != Account::Offload.name()
}

/// Bytes as a short quantity, for display: `712Mi`, `1.9Gi`.
#[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
pub(crate) fn quantity(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] = [
        (1 << 40, "Ti"),
        (1 << 30, "Gi"),
        (1 << 20, "Mi"),
        (1 << 10, "Ki"),
    ];
    match UNITS.iter().find(|(size, _)| bytes >= *size) {
        Some((size, unit)) => {
            let value = bytes as f64 / *size as f64;
            match value < 10.0 {
                true => format!("{value:.1}{unit}"),
                false => format!("{value:.0}{unit}"),
            }
        }
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests;
