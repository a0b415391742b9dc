//! How far the engine pods are from what the spec asks for, and what holds them up. Pure.

use plimsoll_crds::v1alpha1::Reason;
use plimsoll_crds::v1alpha1::report::{EngineState, LoadProgress};

use crate::facts::Facts;
use crate::outcome::Outcome;
use crate::pods::PodFacts;

/// Load progress is told in steps of this many percent, so that it writes little.
const PERCENT_STEP: u64 = 10;

/// Where the pods stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// As many pods of the wanted revision as asked for answer, and no others exist.
    Done,
    /// What it waits for.
    Waits(Reason, String),
}

/// Where the pods of an accepted spec stand.
pub(crate) fn progress(facts: &Facts, outcome: &Outcome) -> Progress {
    let wanted = facts.wanted() as usize;
    let revision = outcome.revision().unwrap_or_default();
    let (new, old): (Vec<&PodFacts>, Vec<&PodFacts>) = facts
        .pods
        .iter()
        .filter(|pod| !pod.finished())
        .partition(|pod| pod.revision == revision);
    let live: Vec<&PodFacts> = new.iter().copied().filter(|pod| pod.counts()).collect();
    let answering = live.iter().filter(|pod| pod.ready).count();
    let old_live = old.iter().filter(|pod| pod.counts()).count();

    if let Some(trouble) = &outcome.trouble {
        return Progress::Waits(Reason::WaitingForPods, trouble.clone());
    }
    if answering == wanted && live.len() == wanted && old_live == 0 {
        return match facts.pods.iter().any(PodFacts::leaving) && wanted == 0 {
            true => Progress::Waits(
                Reason::Draining,
                "engines are finishing their requests".to_owned(),
            ),
            false => Progress::Done,
        };
    }
    let set = facts
        .replica_sets
        .iter()
        .find(|set| set.revision == revision);
    if let Some(failure) = set
        .and_then(|set| set.failure.as_ref())
        .filter(|_| live.len() < wanted)
    {
        return Progress::Waits(Reason::WaitingForPods, failure.clone());
    }
    if let Some((reason, message)) = hold_up(facts, &live) {
        return Progress::Waits(reason, message);
    }
    if old_live > 0 {
        let how = match &outcome.step {
            Some(step) if step.replacing => "; no room for a pod more, so old ones make way first",
            _ => "",
        };
        return Progress::Waits(
            Reason::RollingOut,
            format!("{answering} of {wanted} replicas run revision {revision}{how}"),
        );
    }
    if live.len() > wanted {
        return Progress::Waits(
            Reason::Draining,
            format!(
                "{} of {} engine pods are leaving",
                live.len() - wanted,
                live.len()
            ),
        );
    }
    Progress::Waits(
        Reason::WaitingForPods,
        format!(
            "{} of {wanted} engine pods exist, {answering} answer",
            live.len()
        ),
    )
}

/// The worst that holds up one of the wanted revision's pods.
fn hold_up(facts: &Facts, live: &[&PodFacts]) -> Option<(Reason, String)> {
    let waiting: Vec<&PodFacts> = live.iter().copied().filter(|pod| !pod.ready).collect();
    failed(facts, &waiting)
        .or_else(|| unschedulable(&waiting))
        .or_else(|| not_started(&waiting))
        .or_else(|| loading(facts, &waiting))
}

fn failed(facts: &Facts, waiting: &[&PodFacts]) -> Option<(Reason, String)> {
    let told = |pod: &&PodFacts| {
        if let Some(ended) = pod.failure() {
            let words: String = ended.message.trim().chars().take(600).collect();
            return Some(format!(
                "pod {}: exit code {} ({}), {} restarts: {words}",
                pod.name, ended.exit_code, ended.reason, pod.engine.restarts
            ));
        }
        let report = facts.report(pod)?;
        (report.state == EngineState::Failed)
            .then(|| format!("pod {}: {}", pod.name, report.message))
    };
    waiting
        .iter()
        .find_map(told)
        .map(|message| (Reason::PodFailed, message))
}

fn unschedulable(waiting: &[&PodFacts]) -> Option<(Reason, String)> {
    let (pod, waits) = waiting
        .iter()
        .find_map(|pod| Some((pod, pod.unschedulable.as_ref()?)))?;
    Some((
        Reason::Unschedulable,
        format!("pod {}: {}", pod.name, waits.message),
    ))
}

fn not_started(waiting: &[&PodFacts]) -> Option<(Reason, String)> {
    let (pod, waits) = waiting
        .iter()
        .find_map(|pod| Some((pod, pod.engine.waiting.as_ref()?)))?;
    let message: String = waits.message.chars().take(400).collect();
    let colon = if message.is_empty() { "" } else { ": " };
    Some((
        Reason::WaitingForPods,
        format!("pod {}: {}{colon}{message}", pod.name, waits.reason),
    ))
}

fn loading(facts: &Facts, waiting: &[&PodFacts]) -> Option<(Reason, String)> {
    let pod = waiting.iter().find(|pod| pod.engine.running)?;
    let text = match slowest(facts) {
        Some(LoadProgress {
            stage,
            done_bytes,
            total_bytes,
        }) => {
            let percent = percent(done_bytes, total_bytes) / PERCENT_STEP * PERCENT_STEP;
            format!("engines are loading: {stage}, {percent}%")
        }
        None => format!("pod {} is starting its engine", pod.name),
    };
    Some((Reason::Loading, text))
}

fn percent(done: u64, total: u64) -> u64 {
    let percent = u128::from(done) * 100 / u128::from(total.max(1));
    u64::try_from(percent).unwrap_or(100).min(100)
}

/// The progress of the pod that has the most left to load.
pub(crate) fn slowest(facts: &Facts) -> Option<LoadProgress> {
    let loading = facts
        .live_pods()
        .filter(|pod| !pod.ready)
        .filter_map(|pod| {
            let report = facts.report(pod)?;
            (report.state == EngineState::Loading).then_some(report.progress.as_ref()?)
        });
    loading
        .min_by_key(|progress| percent(progress.done_bytes, progress.total_bytes))
        .cloned()
}
