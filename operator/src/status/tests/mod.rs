//! Status and conditions, told from facts as they are found in a cluster.

mod adapters;
mod enforcement;
mod dozers;
mod dynamic;
mod happenings;
mod places;
mod pulls;
mod sleepers;
mod targets;
mod totals;
mod weights;

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::json;

use super::*;
use crate::changes::{Due, due};
use crate::desire::desire;
use crate::facts::ReportFacts;
use crate::testing::*;

const PATIENCE: Duration = Duration::from_secs(60);

fn told(facts: &Facts) -> InferenceDeploymentStatus {
    let desire = desire(facts, &settings(), "token", PATIENCE).unwrap();
    status(facts, &desire.outcome)
}

/// The revision that the spec asks for.
fn wanted_revision(facts: &Facts) -> String {
    told(facts).update_revision.unwrap()
}

/// Two pods with the statuses given, of the wanted revision.
fn with_pods(statuses: [serde_json::Value; 2]) -> Facts {
    let mut facts = inspected(SMOLLM2);
    let revision = wanted_revision(&facts);
    let [a, b] = statuses;
    facts.pods = vec![engine("a", &revision, a), engine("b", &revision, b)];
    facts.replica_sets = vec![replica_set(&format!("smollm2-{revision}"), &revision, 2)];
    facts
}

fn find<'a>(status: &'a InferenceDeploymentStatus, kind: &str) -> Option<&'a Condition> {
    status
        .conditions
        .iter()
        .find(|condition| condition.type_ == kind)
}

/// Status, reason of Ready, and which of Reconciling and Stalled is there.
fn short(status: &InferenceDeploymentStatus) -> (String, String, &'static str) {
    let ready = find(status, "Ready").unwrap();
    let kstatus = match (find(status, "Reconciling"), find(status, "Stalled")) {
        (None, None) => "",
        (Some(_), None) => "Reconciling",
        (None, Some(_)) => "Stalled",
        (Some(_), Some(_)) => "both",
    };
    (ready.status.clone(), ready.reason.clone(), kstatus)
}

#[test]
fn every_stage_has_its_state_and_reason() {
    let mut late = with_pods([running(false), running(false)]);
    late.now = at(4000);
    // Loaded, and its first readiness probe is to come: it has not gone silent.
    let mut loaded = running(false);
    loaded["containerStatuses"][0]["started"] = json!(true);
    let mut beside = ready();
    beside["conditions"][0]["status"] = json!("False");
    let proxy = container("proxy", json!({"running": {}}), false);
    beside["containerStatuses"] = json!([beside["containerStatuses"][0], proxy]);
    let mut zero = inspected(SMOLLM2);
    let mut object = (*zero.object).clone();
    object.spec.replicas = Some(0);
    zero.object = object.into();
    let mut refused_set = with_pods([ready(), ready()]);
    refused_set.pods.clear();
    refused_set.replica_sets[0].failure = Some("pods \"x\" is forbidden: quota".to_owned());
    let table: Vec<(Facts, State, (&str, &str, &str))> = vec![
        (
            facts(SMOLLM2),
            State::Inspecting,
            ("False", "Inspecting", "Reconciling"),
        ),
        (
            inspected(SMOLLM2),
            State::Pending,
            ("False", "WaitingForPods", "Reconciling"),
        ),
        (
            inspected(REFUSED),
            State::Refused,
            ("False", "QuotaTooSmall", "Stalled"),
        ),
        (zero, State::Stopped, ("True", "ScaledToZero", "")),
        (
            with_pods([unschedulable(0), ready()]),
            State::Degraded,
            ("False", "Unschedulable", "Reconciling"),
        ),
        (
            with_pods([running(false), running(false)]),
            State::Loading,
            ("False", "Loading", "Reconciling"),
        ),
        (
            with_pods([loaded, running(false)]),
            State::Loading,
            ("False", "Loading", "Reconciling"),
        ),
        (
            with_pods([beside, ready()]),
            State::Degraded,
            ("False", "WaitingForPods", "Reconciling"),
        ),
        (
            with_pods([hung(), running(false)]),
            State::Silent,
            ("False", "EngineSilent", "Reconciling"),
        ),
        (
            with_pods([hung(), ready()]),
            State::Degraded,
            ("False", "EngineSilent", "Reconciling"),
        ),
        (
            with_pods([crashed(3, "boom"), running(false)]),
            State::Failed,
            ("False", "PodFailed", "Reconciling"),
        ),
        (
            with_pods([ready(), ready()]),
            State::Serving,
            ("True", "Serving", ""),
        ),
        (
            late,
            State::Failed,
            ("False", "ProgressDeadlineExceeded", "Stalled"),
        ),
        (
            refused_set,
            State::Pending,
            ("False", "PodsRefused", "Reconciling"),
        ),
    ];
    for (facts, state, (status, reason, kstatus)) in table {
        let told = told(&facts);
        let got = short(&told);
        assert_eq!(
            (got.0.as_str(), got.1.as_str(), got.2),
            (status, reason, kstatus)
        );
        assert_eq!(told.state, Some(state), "{reason}");
        assert_eq!(told.observed_generation, Some(3));
        for condition in &told.conditions {
            assert_eq!(condition.observed_generation, Some(3));
            assert!(condition.message.chars().count() <= 1000);
        }
    }
}

#[test]
fn a_service_that_somebody_fights_over_is_not_ready() {
    let facts = with_pods([ready(), ready()]);
    let mut desire = desire(&facts, &settings(), "token", PATIENCE).unwrap();
    desire.outcome.contested = Some("smollm2".to_owned());
    let told = status(&facts, &desire.outcome);
    assert_eq!(
        short(&told),
        (
            "False".to_owned(),
            "ServiceContested".to_owned(),
            "Reconciling"
        )
    );
}

#[test]
fn what_a_models_files_contradict_is_said_where_the_model_is() {
    let mut facts = inspected(SMOLLM2);
    let note =
        "generation_config.json: eos_token_id is [5], [5, 9] in config.json; the former counts";
    let words = |facts: &Facts| find(&told(facts), "ModelResolved").unwrap().message.clone();
    assert!(words(&facts).ends_with("sha256:abc"), "{}", words(&facts));
    facts.status.model.as_mut().unwrap().notes = vec![note.to_owned()];
    assert!(words(&facts).ends_with(&format!("sha256:abc; {note}")));
}

#[test]
fn a_pods_last_words_reach_the_user() {
    let told = told(&with_pods([crashed(3, "digest differs"), ready()]));
    let ready = find(&told, "Ready").unwrap();
    assert!(ready.message.contains("exit code 3"), "{}", ready.message);
    assert!(
        ready.message.contains("digest differs"),
        "{}",
        ready.message
    );
    assert_eq!(told.state, Some(State::Degraded));
}

#[test]
fn transition_times_move_only_when_the_status_flips() {
    let mut facts = with_pods([running(false), ready()]);
    facts.status = told(&facts);
    let since = |status: &InferenceDeploymentStatus, kind: &str| {
        find(status, kind).unwrap().last_transition_time.0
    };
    let before = since(&facts.status, "Ready");
    facts.now = at(30);
    facts.pods[0] = engine("a", &facts.pods[0].revision.clone(), crashed(1, ""));
    let crashed = told(&facts);
    assert_ne!(find(&crashed, "Ready").unwrap().reason, "Loading");
    assert_eq!(since(&crashed, "Ready"), before);
    facts.pods[0] = engine("a", &facts.pods[0].revision.clone(), ready());
    let serving = told(&facts);
    assert_eq!(since(&serving, "Ready"), at(30));
    assert_eq!(
        since(&serving, "MemoryFits"),
        since(&facts.status, "MemoryFits")
    );
}

#[test]
fn rows_come_from_reports_and_a_silent_pod_keeps_its_last() {
    let mut facts = with_pods([ready(), ready()]);
    facts.reports = [
        ("a".to_owned(), heard(report(900))),
        ("b".to_owned(), heard(report(800))),
    ]
    .into();
    let told_first = told(&facts);
    let memory = told_first.memory.clone().unwrap();
    assert_eq!(memory.gpus.len(), 2);
    assert_eq!(memory.gpus[0].driver_bytes, 900);
    assert_eq!(memory.gpus[0].node.as_deref(), Some("n1"));
    assert_eq!(
        memory.summary.clone().unwrap().used.as_deref(),
        Some("1.7Ki")
    );
    assert_eq!(
        memory.summary.unwrap().kv_used_percent.as_deref(),
        Some("7")
    );
    assert_eq!(told_first.effective.as_ref().unwrap().max_model_len, 8192);
    assert_eq!(find(&told_first, "MemoryPressure").unwrap().status, "False");

    // The operator starts again: nobody has reported yet, and the rows stay.
    facts.status = told_first;
    facts.reports.clear();
    let again = told(&facts);
    assert_eq!(again.memory, facts.status.memory);
    assert_eq!(due(&facts.status, &again, None, PATIENCE), Due::Nothing);

    // One is silent, the other goes.
    facts.reports.insert(
        "a".to_owned(),
        ReportFacts {
            report: None,
            stale: true,
            refused: false,
        },
    );
    facts.pods.pop();
    let stale = told(&facts).memory.unwrap();
    assert_eq!(stale.gpus.len(), 1);
    assert!(stale.gpus[0].stale);
    assert_eq!(stale.gpus[0].reported_at.0, at(5));
}

#[test]
fn rows_are_capped_and_totals_are_not() {
    let mut facts = inspected(SMOLLM2);
    let revision = wanted_revision(&facts);
    for index in 0..70 {
        let name = format!("p{index:02}");
        facts.pods.push(engine(&name, &revision, ready()));
        facts.reports.insert(name, heard(report(1024)));
    }
    let memory = told(&facts).memory.unwrap();
    assert_eq!(memory.gpus.len(), 64);
    assert_eq!(memory.hosts.len(), 64);
    assert_eq!(memory.summary.unwrap().used.as_deref(), Some("70Ki"));
}

#[test]
fn a_rank_over_its_budget_is_pressure() {
    let mut facts = with_pods([ready(), ready()]);
    facts.reports = [("a".to_owned(), heard(report(1001)))].into();
    let told = told(&facts);
    let pressure = find(&told, "MemoryPressure").unwrap();
    assert_eq!(
        (pressure.status.as_str(), pressure.reason.as_str()),
        ("True", "OverBudget")
    );
}

#[test]
fn states_are_written_at_once_figures_now_and_then_and_heartbeats_never() {
    let mut facts = with_pods([ready(), ready()]);
    facts.reports = [("a".to_owned(), heard(report(500)))].into();
    let written = told(&facts);
    let interval = Duration::from_secs(30);
    let mut look = |driver: u64, since: u64| {
        let mut heartbeat = report(driver);
        heartbeat.time.0 = at(99);
        facts.reports = [("a".to_owned(), heard(heartbeat))].into();
        due(
            &written,
            &told(&facts),
            Some(Duration::from_secs(since)),
            interval,
        )
    };
    assert_eq!(look(500, 99), Due::Nothing, "a heartbeat");
    assert_eq!(look(540, 99), Due::Nothing, "less than 5%");
    assert_eq!(
        look(600, 99),
        Due::Now,
        "a figure moved, long after the last write"
    );
    assert_eq!(look(600, 10), Due::In(Duration::from_secs(20)));
    assert_eq!(look(1001, 1), Due::Now, "over the budget is a state");
    facts.pods[1] = engine("b", &facts.pods[1].revision.clone(), running(false));
    assert_eq!(
        due(&written, &told(&facts), Some(Duration::ZERO), interval),
        Due::Now
    );
}

#[test]
fn a_refused_change_keeps_the_plan_and_the_pods_of_before() {
    let mut facts = with_pods([ready(), ready()]);
    facts.status = told(&facts);
    let before = facts.status.clone();
    let quotas = object(REFUSED).spec.memory.gpu_quotas;
    let mut object = (*facts.object).clone();
    object.spec.memory.gpu_quotas = quotas;
    facts.object = object.into();
    let desire = desire(&facts, &settings(), "token", PATIENCE).unwrap();
    assert_eq!(desire.replicas, [(facts.replica_sets[0].name.clone(), 2)]);
    assert!(
        desire
            .children
            .iter()
            .all(|child| child.kind.name() != "ReplicaSet")
    );
    let after = status(&facts, &desire.outcome);
    assert_eq!(after.update_revision, before.update_revision);
    assert_eq!(after.memory.unwrap().plan, before.memory.unwrap().plan);
    assert_eq!(after.state, Some(State::Refused));
    assert_eq!(after.ready_replicas, 2);
}

#[test]
fn the_slowest_load_is_shown_in_round_figures() {
    let mut facts = with_pods([running(false), running(false)]);
    let mut loading = report(1);
    loading.state = plimsoll_crds::v1alpha1::report::EngineState::Loading;
    for (pod, done) in [("a", 90), ("b", 57)] {
        loading.progress = Some(
            serde_json::from_value(
                json!({"stage": "weights", "doneBytes": done, "totalBytes": 100}),
            )
            .unwrap(),
        );
        facts.reports.insert(pod.to_owned(), heard(loading.clone()));
    }
    let told = told(&facts);
    assert_eq!(told.progress.as_ref().unwrap().done_bytes, 57);
    let message = &find(&told, "Reconciling").unwrap().message;
    assert_eq!(message, "engines are loading: weights, 50%");
}

#[test]
fn quantities_are_short() {
    for (bytes, text) in [
        (0, "0"),
        (1023, "1023"),
        (1024, "1.0Ki"),
        (300 << 20, "300Mi"),
        (1_992_294_400, "1.9Gi"),
        (12 << 30, "12Gi"),
    ] {
        assert_eq!(quantity(bytes), text);
    }
}
