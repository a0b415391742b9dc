//! Whole decisions: from facts to the objects and counts that should be.

use super::*;
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
    assert_eq!(late.made_way, Some(revision.clone()));
    assert_eq!(late.replicas[0], ("smollm2-old".to_owned(), 0));
    // The next pass knows.
    facts.room = Some((
        revision,
        Room::None {
            since_last: Duration::ZERO,
        },
    ));
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
