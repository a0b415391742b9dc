//! Whole decisions: from facts to the objects and counts that should be.

use super::*;
use crate::facts::ChildFacts;
use crate::testing::*;

const PATIENCE: Duration = Duration::from_secs(60);

fn desired(facts: &Facts) -> Desire {
    desire(facts, &settings(), "token", PATIENCE).unwrap()
}

fn kinds(desire: &Desire) -> Vec<&'static str> {
    desire
        .children
        .iter()
        .map(|child| child.kind.name())
        .collect()
}

fn with_replicas(mut facts: Facts, replicas: u32) -> Facts {
    let mut object = (*facts.object).clone();
    object.spec.replicas = Some(replicas);
    facts.object = object.into();
    facts
}

#[test]
fn before_the_model_is_known_no_engine_exists() {
    let desire = desired(&facts(SMOLLM2));
    assert_eq!(
        kinds(&desire),
        [
            "ServiceAccount",
            "Secret",
            "Service",
            "PodDisruptionBudget",
            "Pod"
        ]
    );
    assert!(desire.replicas.is_empty());
}

#[test]
fn a_model_that_fits_gets_a_revision_and_all_its_pods() {
    let desire = desired(&inspected(SMOLLM2));
    assert_eq!(
        kinds(&desire),
        [
            "ServiceAccount",
            "Secret",
            "Service",
            "PodDisruptionBudget",
            "ConfigMap",
            "ReplicaSet"
        ]
    );
    assert_eq!(desire.replicas.len(), 1);
    assert_eq!(desire.replicas[0].1, 2);
}

#[test]
fn a_refused_model_gets_no_engine() {
    let desire = desired(&inspected(REFUSED));
    assert_eq!(kinds(&desire), ["ServiceAccount", "Secret", "Service"]);
    assert!(desire.replicas.is_empty());
}

#[test]
fn one_replica_has_no_disruption_budget_and_an_old_one_goes() {
    let mut facts = with_replicas(inspected(SMOLLM2), 1);
    let budget = (ChildKind::PodDisruptionBudget, "smollm2".to_owned());
    facts.children.insert(budget.clone(), Default::default());
    let desire = desired(&facts);
    assert!(!kinds(&desire).contains(&"PodDisruptionBudget"));
    assert_eq!(desire.remove, [budget]);
}

#[test]
fn an_old_revision_goes_as_the_new_one_answers() {
    let mut facts = with_replicas(inspected(SMOLLM2), 1);
    facts.replica_sets = vec![replica_set("smollm2-old", "old", 1)];
    facts.pods = vec![engine("a", "old", ready())];
    let desire = desired(&facts);
    let new = desire.replicas[1].0.clone();
    assert_eq!(
        desire.replicas,
        [("smollm2-old".to_owned(), 1), (new.clone(), 1)]
    );

    let revision = desire.outcome.revision().unwrap().to_owned();
    facts.replica_sets.push(replica_set(&new, &revision, 1));
    facts.pods.push(engine("b", &revision, ready()));
    assert_eq!(
        desired(&facts).replicas,
        [("smollm2-old".to_owned(), 0), (new, 1)]
    );
}

#[test]
fn without_room_an_old_pod_makes_way_and_it_is_said_once() {
    let mut facts = with_replicas(inspected(SMOLLM2), 1);
    let revision = desired(&facts).outcome.revision().unwrap().to_owned();
    facts.replica_sets = vec![
        replica_set("smollm2-old", "old", 1),
        replica_set("smollm2-new", &revision, 1),
    ];
    facts.pods = vec![
        engine("a", "old", ready()),
        engine("b", &revision, unschedulable(0)),
    ];
    facts.now = at(59);
    let early = desired(&facts);
    assert_eq!(early.look_again, Some(Duration::from_secs(1)));
    assert_eq!(early.made_way, None);
    facts.now = at(60);
    let late = desired(&facts);
    assert_eq!(late.made_way, Some((revision.clone(), Room::Full)));
    assert_eq!(late.replicas[0], ("smollm2-old".to_owned(), 0));
    // The next pass knows.
    facts.room = Some((revision, Room::Full));
    facts.replica_sets[0].replicas = 0;
    assert_eq!(desired(&facts).made_way, None);
}

#[test]
fn of_old_revisions_two_are_kept_with_their_config_maps() {
    let mut facts = inspected(SMOLLM2);
    let map = |name: &str| ((ChildKind::ConfigMap, name.to_owned()), Default::default());
    for name in ["r1", "r2", "r3", "r4"] {
        facts.replica_sets.push(replica_set(name, name, 0));
        facts.children.extend([map(name)]);
    }
    facts.children.extend([map("r0")]);
    // A revision with a pod that is still leaving is not old enough.
    facts.pods = vec![engine("x", "r1", ready())];
    let removed: Vec<String> = desired(&facts)
        .remove
        .into_iter()
        .map(|(kind, name)| format!("{} {name}", kind.name()))
        .collect();
    assert_eq!(removed, ["ReplicaSet r2", "ConfigMap r0", "ConfigMap r2"]);
}

#[test]
fn scaling_follows_the_spec_even_while_it_is_refused() {
    let mut facts = with_replicas(inspected(REFUSED), 3);
    facts.replica_sets = vec![replica_set("smollm2-old", "old", 1)];
    assert_eq!(desired(&facts).replicas, [("smollm2-old".to_owned(), 3)]);
    let facts = with_replicas(facts, 0);
    assert_eq!(desired(&facts).replicas, [("smollm2-old".to_owned(), 0)]);
}

#[test]
fn a_request_above_the_limit_stops_before_anything_is_written_and_running_pods_stay() {
    let yaml = SMOLLM2.replace(
        "spec:\n",
        "spec:\n  template: {engine: {resources: {requests: {memory: 64Gi}}}}\n",
    );
    let mut facts = inspected(&yaml);
    facts.replica_sets = vec![replica_set("smollm2-old", "old", 2)];
    facts.pods = vec![engine("a", "old", ready()), engine("b", "old", ready())];
    let desire = desired(&facts);
    assert!(matches!(desire.outcome.planned, Planned::Invalid(_)));
    assert!(!kinds(&desire).contains(&"ReplicaSet"));
    assert_eq!(desire.replicas, [("smollm2-old".to_owned(), 2)]);
    assert!(desire.remove.is_empty());
    let told = crate::status::status(&facts, &desire.outcome);
    let stalled = told.conditions.iter().find(|c| c.type_ == "Stalled");
    let stalled = stalled.expect("waiting will not help");
    assert_eq!(stalled.reason, "InvalidSpec");
    assert!(
        stalled.message.contains("requests.memory: 64Gi"),
        "{}",
        stalled.message
    );
    assert_eq!(told.ready_replicas, 2);
}

#[test]
fn a_name_that_no_service_can_carry_makes_nothing() {
    let mut facts = inspected(SMOLLM2);
    let mut object = (*facts.object).clone();
    object.metadata.name = Some("a.b".to_owned());
    facts.object = object.into();
    let desire = desired(&facts);
    assert!(desire.children.is_empty());
    assert!(matches!(desire.outcome.planned, Planned::Invalid(_)));
}

/// One old pod that answers, and one of the wanted revision with the status given.
fn rolling(replicas: u32, status: serde_json::Value) -> (Facts, String) {
    let mut facts = with_replicas(inspected(SMOLLM2), replicas);
    let revision = desired(&facts).outcome.revision().unwrap().to_owned();
    facts.replica_sets = vec![
        replica_set("smollm2-old", "old", replicas),
        replica_set(&format!("smollm2-{revision}"), &revision, 1),
    ];
    let old = |index| engine(&format!("a{index}"), "old", ready());
    facts.pods = (0..replicas).map(old).collect();
    facts.pods.push(engine("b", &revision, status));
    (facts, revision)
}

#[test]
fn a_typo_in_a_selector_costs_no_pod_and_is_stalled_with_the_schedulers_words() {
    let words = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.";
    let mut status = unschedulable(0);
    status["conditions"][0]["message"] = serde_json::json!(words);
    for replicas in [1, 3] {
        let (mut facts, _) = rolling(replicas, status.clone());
        for (seconds, stalled) in [(10, false), (60, true), (600, true)] {
            facts.now = at(seconds);
            let desire = desired(&facts);
            assert_eq!(desire.replicas[0].1, replicas, "after {seconds} s");
            let told = crate::status::status(&facts, &desire.outcome);
            let find = |kind: &str| told.conditions.iter().find(|c| c.type_ == kind);
            let ready = find("Ready").unwrap();
            assert_eq!(ready.reason, "Unschedulable");
            let said = words.trim_end_matches('.');
            assert!(ready.message.contains(said), "{}", ready.message);
            assert!(
                ready.message.contains("change what it names"),
                "{}",
                ready.message
            );
            assert_eq!(find("Stalled").is_some(), stalled, "after {seconds} s");
            assert_eq!(told.ready_replicas, replicas);
        }
    }
}

#[test]
fn a_gated_pod_names_its_gates_at_once_and_nothing_makes_way() {
    let (mut facts, _) = rolling(1, unschedulable(0));
    facts.pods[1].unschedulable.as_mut().unwrap().gates = vec!["team/queue".to_owned()];
    facts.now = at(600);
    let desire = desired(&facts);
    assert_eq!(desire.replicas[0].1, 1);
    let told = crate::status::status(&facts, &desire.outcome);
    let ready = told.conditions.first().unwrap();
    assert_eq!(ready.reason, "SchedulingGated");
    assert!(ready.message.contains("(team/queue)"), "{}", ready.message);
}

#[test]
fn a_quota_without_room_for_a_pod_more_is_told_at_once_and_an_old_pod_makes_way() {
    let (mut facts, revision) = rolling(2, unschedulable(0));
    facts.pods.pop();
    let words = "pods \"b\" is forbidden: exceeded quota: team, requested: pods=1, used: pods=2, \
                 limited: pods=2";
    facts.replica_sets[1].failure = Some(words.to_owned());
    facts.replica_sets[1].failing_since = Some(at(0));
    facts.now = at(1);
    let early = desired(&facts);
    assert_eq!(early.replicas[0].1, 2);
    assert_eq!(early.look_again, Some(Duration::from_secs(59)));
    let told = crate::status::status(&facts, &early.outcome);
    assert_eq!(told.conditions[0].reason, "PodsRefused");
    let message = &told.conditions[0].message;
    assert!(
        message.contains(words) && message.contains("raise the ResourceQuota"),
        "{message}"
    );
    facts.now = at(60);
    let late = desired(&facts);
    assert_eq!(late.made_way, Some((revision, Room::Rationed)));
    assert_eq!((late.replicas[0].1, late.replicas[1].1), (1, 0));
    // What no old pod's share is enough for is said to be stuck.
    facts.replica_sets[1].failure = Some(words.replace("limited: pods=2", "limited: pods=1"));
    let stuck = desired(&facts);
    assert_eq!(stuck.replicas[0].1, 2);
    let told = crate::status::status(&facts, &stuck.outcome);
    let stalled = told
        .conditions
        .iter()
        .find(|c| c.type_ == "Stalled")
        .unwrap();
    assert_eq!(stalled.reason, "PodsRefused");
}

#[test]
fn that_a_revision_answered_is_noted_once() {
    let (mut facts, _) = rolling(1, running(false));
    assert_eq!(desired(&facts).answered, ["smollm2-old"]);
    facts.replica_sets[0].answered = true;
    assert!(desired(&facts).answered.is_empty());
}

#[test]
fn a_spec_refused_in_the_middle_of_a_rollout_does_not_freeze_the_number_of_pods() {
    let (facts, _) = rolling(2, running(false));
    let quotas = object(REFUSED).spec.memory.gpu_quotas;
    for (wanted, old) in [(1, 1), (2, 2), (5, 5), (0, 0)] {
        let mut facts = with_replicas(facts.clone(), wanted);
        let mut refused = (*facts.object).clone();
        refused.spec.memory.gpu_quotas = quotas.clone();
        facts.object = refused.into();
        let desire = desired(&facts);
        assert!(matches!(desire.outcome.planned, Planned::Refused { .. }));
        assert_eq!(desire.replicas[0], ("smollm2-old".to_owned(), old));
    }
}

#[test]
fn a_spec_that_names_other_nodes_is_tried_although_no_old_pod_has_a_place() {
    for (words, tried) in [
        (
            "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.",
            1,
        ),
        (
            "0/2 nodes are available: 2 node(s) had untolerated taint {gpu: only}.",
            1,
        ),
        // It would take what the old ones lack.
        ("0/2 nodes are available: 2 Insufficient memory.", 0),
    ] {
        let mut facts = inspected(SMOLLM2);
        facts.replica_sets = vec![replica_set("smollm2-old", "old", 2)];
        facts.replica_sets[0].answered = true;
        let mut status = unschedulable(0);
        status["conditions"][0]["message"] = serde_json::json!(words);
        let old = |name| engine(name, "old", status.clone());
        facts.pods = vec![old("a"), old("b")];
        facts.now = at(600);
        let replicas = desired(&facts).replicas;
        assert_eq!((replicas[0].1, replicas[1].1), (2, tried), "{words}");
    }
}

#[test]
fn a_revision_of_an_older_operator_stays_as_it_is_until_it_is_rolled() {
    let mut facts = with_replicas(inspected(SMOLLM2), 2);
    // Its pods mount another document, from an immutable ConfigMap of the ReplicaSet's name.
    let old = ChildFacts {
        hash: "made otherwise".to_owned(),
        ..ChildFacts::default()
    };
    facts.replica_sets = vec![replica_set("smollm2-0ld", "0ld", 2)];
    facts.pods = vec![engine("a", "0ld", ready()), engine("b", "0ld", ready())];
    for kind in [ChildKind::ConfigMap, ChildKind::ReplicaSet] {
        let key = (kind, "smollm2-0ld".to_owned());
        facts.children.insert(key, old.clone());
    }
    let waits = facts.turn.clone();
    for turn in [Turn::Waits("another rolls".to_owned()), waits] {
        facts.turn = turn;
        let desire = desired(&facts);
        let written = desire.children.iter().map(|child| &child.name);
        assert!(!written.clone().any(|name| name == "smollm2-0ld"));
        assert!(desire.remove.iter().all(|(_, name)| name != "smollm2-0ld"));
        let (_, kept) = &desire.replicas[0];
        assert_eq!(*kept, 2, "a surge comes first");
    }
}
