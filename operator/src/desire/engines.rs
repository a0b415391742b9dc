//! Engines as steering sees them, from the facts. Pure.

use k8s_openapi::jiff::Timestamp;
use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::TargetReport;
use plimsoll_crds::v1alpha1::report::EngineState;

use crate::facts::Facts;
use crate::pods::PodFacts;
use crate::sleepers;
use crate::steer::{Engine, Hears, Limit, What};

/// The engines of a revision, those that leave included. `limit`: the memory limit of their
/// containers that the target leads to, where it is the operator's to set.
pub(super) fn engines(facts: &Facts, revision: &str, limit: Option<u64>) -> Vec<Engine> {
    let pods = facts.pods.iter().filter(|pod| pod.revision == revision);
    pods.map(|pod| Engine {
        confirmed: confirmed(facts, pod),
        awake: awake(facts, pod),
        limit: limit.map(|wanted| Limit {
            wanted,
            is: pod.limit.clone(),
            unplaced: pod.node.is_none(),
            tried: facts.limits_tried.get(&pod.uid).cloned(),
        }),
        ..of_pod(facts, pod, What::Target)
    })
    .collect()
}

/// All engines beside the newest target, whose memory nobody changes now.
pub(super) fn all(facts: &Facts) -> Vec<Engine> {
    let pods = facts.pods.iter();
    pods.map(|pod| of_pod(facts, pod, What::Target)).collect()
}

/// The engines of other revisions than `newest` beside the newest sleep. Where nobody asks for one,
/// those that cannot be told now are awake, or begin so.
pub(super) fn others(facts: &Facts, newest: Option<&str>) -> Vec<Engine> {
    let asks = facts.object.spec.sleep.is_some();
    let pods = facts.pods.iter();
    let others = pods.filter(|pod| Some(pod.revision.as_str()) != newest);
    let engines = others.map(|pod| of_pod(facts, pod, What::Sleep));
    engines
        .filter(|engine| asks || engine.hears == Hears::Yes)
        .collect()
}

/// The engine of a pod, without its memory.
fn of_pod(facts: &Facts, pod: &PodFacts, what: What) -> Engine {
    let tries = facts.tries.get(&pod.uid).cloned().unwrap_or_default();
    Engine {
        pod: pod.name.clone(),
        uid: pod.uid.clone(),
        hears: hears(facts, pod),
        reported: reported(facts, pod, what),
        confirmed: false,
        awake: false,
        limit: None,
        tries: tries.telling(what),
    }
}

/// What its newest report says, or the status, until an operator that began again has heard it.
fn reported(facts: &Facts, pod: &PodFacts, what: What) -> Option<TargetReport> {
    if let Some(report) = facts.report(pod) {
        let told = match what {
            What::Target => report.target.as_ref(),
            What::Sleep => report.sleep_told(),
        };
        return told.cloned();
    }
    let rows = facts.status.memory.iter().flat_map(|it| &it.targets);
    let mut of_pod = rows.filter(|row| row.pod == pod.name).cloned();
    let row = of_pod.next()?;
    Some(match what {
        What::Target => TargetReport::from(row),
        What::Sleep => row.sleep_report(),
    })
}

/// Whether the report is of the container that runs.
fn confirmed(facts: &Facts, pod: &PodFacts) -> bool {
    let Some(report) = facts.report(pod) else {
        return false;
    };
    // Both in whole seconds.
    let newer = |began: Timestamp| report.time.0.as_second() > began.as_second();
    pod.engine.running && pod.engine.running_since.is_some_and(newer)
}

fn awake(facts: &Facts, pod: &PodFacts) -> bool {
    let state = facts.report(pod).map(|report| report.state);
    let stays = sleepers::asked(facts).is_none();
    let awake = |state| {
        matches!(
            state,
            EngineState::Serving | EngineState::Paused | EngineState::Resizing
        )
    };
    stays && state.is_some_and(awake)
}

fn hears(facts: &Facts, pod: &PodFacts) -> Hears {
    if !pod.counts() {
        return Hears::Ends;
    }
    let known = facts.reports.get(&pod.name);
    let heard = known.filter(|known| !known.stale && !known.refused);
    let Some(report) = heard.and_then(|known| known.report.as_deref()) else {
        return match pod.ready {
            true => Hears::Silent,
            false => Hears::Loading,
        };
    };
    let stage = report.progress.as_ref().map(|progress| &*progress.stage);
    match report.state {
        // Whoever waits for its memory limit may be told that it needs less.
        EngineState::Loading if stage != Some(names::STAGE_WAITS_FOR_LIMIT) => Hears::Loading,
        EngineState::Draining | EngineState::Failed => Hears::Ends,
        // Whatever else it does, its admin port answers.
        _ if pod.ip.is_none() => Hears::Silent,
        _ => Hears::Yes,
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_crds::v1alpha1::TargetOutcome;
    use plimsoll_crds::v1alpha1::report::LoadProgress;
    use plimsoll_crds::v1alpha1::target::TargetRow;

    use super::*;
    use crate::testing::*;

    #[test]
    fn pods_hear_while_their_engine_reports_and_runs() {
        let applied = TargetReport {
            generation: 2,
            outcome: TargetOutcome::Applied,
            message: String::new(),
            overage_bytes: 0,
        };
        let mut facts = inspected(SMOLLM2);
        facts.pods = ["serves", "loads", "fails", "stale", "unheard", "waits"]
            .map(|name| engine(name, "r", ready()))
            .to_vec();
        facts.pods.push(engine("starts", "r", running(false)));
        facts.pods.push(engine("crashed", "r", crashed(1, "")));
        facts.pods.push(engine("old", "before", ready()));
        let state = |state| {
            let mut report = report(1);
            report.state = state;
            report.target = Some(applied.clone());
            heard(report)
        };
        let mut stale = state(EngineState::Serving);
        stale.stale = true;
        let mut waits = report(1);
        waits.state = EngineState::Loading;
        waits.progress = Some(LoadProgress {
            stage: "WaitingForMemoryLimit".to_owned(),
            done_bytes: 0,
            total_bytes: 1,
        });
        let states = [
            ("serves", state(EngineState::Serving)),
            ("loads", state(EngineState::Loading)),
            ("fails", state(EngineState::Failed)),
            ("stale", stale),
            ("waits", heard(waits)),
        ];
        let named = states.map(|(name, heard)| (name.to_owned(), heard));
        facts.reports.extend(named);
        let seen_by = engines(&facts, "r", None);
        let seen: Vec<(&str, Hears)> = seen_by
            .iter()
            .map(|it| (it.pod.as_str(), it.hears))
            .collect();
        assert_eq!(
            seen,
            [
                ("serves", Hears::Yes),
                ("loads", Hears::Loading),
                ("fails", Hears::Ends),
                ("stale", Hears::Silent),
                ("unheard", Hears::Silent),
                ("waits", Hears::Yes),
                ("starts", Hears::Loading),
                ("crashed", Hears::Loading),
            ]
        );
        assert_eq!(seen_by[0].reported, Some(applied.clone()));
        assert_eq!(seen_by[4].reported, None);
        // An operator that began again goes by what status says.
        let row = TargetRow::new("unheard", applied.clone());
        facts
            .status
            .memory
            .get_or_insert_default()
            .targets
            .push(row);
        let seen_by = engines(&facts, "r", None);
        assert_eq!(seen_by[4].reported, seen_by[0].reported);
        assert_eq!(seen_by[6].reported, None);
    }
}
