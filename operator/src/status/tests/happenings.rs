//! Events, told from what two looks at a cluster differ in.

use plimsoll_crds::v1alpha1::EventReason;

use super::*;
use crate::events::{Happening, between, of_pods};
use crate::facts::ReportFacts;
use crate::memory::Told;

/// What of pods is new since `told`.
fn look(facts: &Facts, told: &mut Option<Told>) -> Vec<Happening> {
    of_pods(facts, &super::told(facts), told)
}

fn reasons(
    before: &InferenceDeploymentStatus,
    next: &InferenceDeploymentStatus,
) -> Vec<EventReason> {
    between(before, next)
        .into_iter()
        .map(|happening| happening.reason)
        .collect()
}

#[test]
fn each_turn_is_told_once() {
    let nothing = InferenceDeploymentStatus::default();
    let inspecting = told(&facts(SMOLLM2));
    assert_eq!(reasons(&nothing, &inspecting), []);
    let planned = told(&inspected(SMOLLM2));
    let both = [EventReason::ModelInspected, EventReason::MemoryPlanned];
    assert_eq!(reasons(&inspecting, &planned), both);
    assert_eq!(reasons(&planned, &planned), []);
    let refused = told(&inspected(REFUSED));
    assert_eq!(
        reasons(&inspecting, &refused),
        [EventReason::ModelInspected, EventReason::MemoryInsufficient]
    );
    let note = &between(&inspecting, &refused)[1];
    assert!(note.warning && note.note.chars().count() <= 1000);
}

#[test]
fn a_rollout_is_told_from_start_to_end() {
    let mut facts = with_pods([ready(), ready()]);
    let serving = told(&facts);
    facts.status = serving.clone();
    let mut object = (*facts.object).clone();
    object.spec.limits.max_num_seqs = 4;
    facts.object = object.into();
    let rolling = told(&facts);
    let mut pods = None;
    look(&facts, &mut pods);
    assert!(reasons(&serving, &rolling).contains(&EventReason::RolloutStarted));
    assert_eq!(short(&rolling).1, "RollingOut");
    let revision = rolling.update_revision.clone().unwrap();
    facts.status = rolling.clone();
    facts.pods = vec![
        engine("c", &revision, ready()),
        engine("d", &revision, ready()),
    ];
    let done = told(&facts);
    assert_eq!(reasons(&rolling, &done), []);
    let happened = look(&facts, &mut pods);
    assert_eq!(
        happened.last().unwrap().reason,
        EventReason::RolloutFinished
    );
    assert!(
        !look(&facts, &mut pods)
            .iter()
            .any(|h| h.reason == EventReason::RolloutFinished)
    );
    assert_eq!(done.current_revision, Some(revision));
}

#[test]
fn another_plan_is_known_by_its_exit_code_whatever_the_words() {
    let code = i32::from(plimsoll_crds::names::EXIT_PLAN_DIFFERS);
    for (code, reason) in [
        (code, EventReason::PlanDrift),
        (1, EventReason::EngineFailed),
    ] {
        let mut facts = with_pods([
            crashed(code, "the plan in the configuration differs"),
            ready(),
        ]);
        let mut told = None;
        look(&facts, &mut told);
        facts.pods[0].engine.restarts += 1;
        assert_eq!(look(&facts, &mut told)[0].reason, reason);
    }
}

#[test]
fn ends_of_engines_are_told_once_each_and_not_from_before_the_operator_began() {
    let mut facts = with_pods([crashed(3, "boom"), ready()]);
    let mut told = None;
    assert_eq!(look(&facts, &mut told), []);
    assert_eq!(look(&facts, &mut told), []);
    facts.pods[0].engine.restarts += 1;
    let happened = look(&facts, &mut told);
    assert_eq!(happened.len(), 1);
    assert_eq!(happened[0].reason, EventReason::EngineFailed);
    facts.pods[0] = engine("a", "r", ready());
    let happened = look(&facts, &mut told);
    assert_eq!(happened[0].reason, EventReason::EngineLoaded);
    facts.pods[0] = engine("a", "r", hung());
    let happened = look(&facts, &mut told);
    assert_eq!(happened[0].reason, EventReason::EngineSilent);
    assert_eq!(look(&facts, &mut told), []);
    facts.pods[0] = engine("a", "r", ready());
    facts.reports.insert(
        "b".to_owned(),
        ReportFacts {
            report: None,
            stale: true,
            refused: false,
        },
    );
    assert_eq!(look(&facts, &mut told)[0].reason, EventReason::ReportStale);
    assert_eq!(look(&facts, &mut told), []);
}

#[test]
fn an_engine_that_has_loaded_and_awaits_its_first_readiness_probe_is_not_called_silent() {
    let mut facts = with_pods([running(false), ready()]);
    let mut told = None;
    assert_eq!(look(&facts, &mut told), []);
    let mut loaded = running(false);
    loaded["containerStatuses"][0]["started"] = json!(true);
    facts.pods[0] = engine("a", "r", loaded);
    assert_eq!(look(&facts, &mut told), []);
    facts.pods[0] = engine("a", "r", ready());
    let reasons: Vec<_> = look(&facts, &mut told).iter().map(|it| it.reason).collect();
    assert_eq!(reasons, [EventReason::EngineLoaded]);
    // A container beside it that is not ready takes the pod out of the Service, and says nothing of
    // the engine.
    let mut beside = hung();
    beside["containerStatuses"][0]["ready"] = json!(true);
    facts.pods[0] = engine("a", "r", beside);
    assert_eq!(look(&facts, &mut told), []);
}

#[test]
fn budgets_that_change_under_a_running_engine_are_told_once_with_both_figures() {
    let mut facts = with_pods([ready(), ready()]);
    let mut told = None;
    let mut at = |budget: u64, restarts: i32, applied: bool| {
        let mut report = report(500);
        report.ranks[0].budget_bytes = budget;
        if !applied {
            report.target.as_mut().unwrap().outcome =
                plimsoll_crds::v1alpha1::TargetOutcome::Deferred;
        }
        facts.reports.insert("a".to_owned(), heard(report));
        facts.pods[0].engine.restarts = restarts;
        let all = look(&facts, &mut told);
        let resized = all
            .into_iter()
            .filter(|it| it.reason == EventReason::EngineResized);
        resized.map(|it| it.note).collect::<Vec<_>>()
    };
    assert_eq!(at(3 << 20, 0, true), [""; 0]);
    assert_eq!(at(5 << 20, 0, false), [""; 0], "not yet");
    assert_eq!(
        at(5 << 20, 0, true),
        [
            "pod a: budgets 3.00 MiB -> 5.00 MiB (3145728 -> 5242880 bytes), KV cache 9000 -> 9000 \
             tokens, without a restart"
        ]
    );
    assert_eq!(at(5 << 20, 0, true), [""; 0]);
    // An engine that began again with other figures was not resized.
    assert_eq!(at(7 << 20, 1, true), [""; 0]);
}
