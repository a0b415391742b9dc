//! Rollouts that no spec asked for: whose turn it is, and what stands in the status meanwhile.

use std::time::Duration;

use super::*;
use crate::build::spec_hash;
use crate::testing::*;

/// Pods of revision `old` answer, and this operator would make another one for the same spec.
fn upgraded() -> Facts {
    let mut facts = inspected(SMOLLM2);
    facts.replica_sets = vec![replica_set("smollm2-old", "old", 2)];
    facts.replica_sets[0].spec = spec_hash(&facts.object);
    facts.pods = vec![engine("a", "old", ready()), engine("b", "old", ready())];
    facts.status.observed_generation = Some(3);
    facts.status.update_revision = Some("old".to_owned());
    facts
}

fn desired(facts: &Facts) -> Desire {
    desire(facts, &settings(), "token", Duration::from_secs(60)).unwrap()
}

#[test]
fn who_waits_serves_on_and_says_for_whom() {
    let mut facts = upgraded();
    assert_eq!(desired(&facts).stand, Stand::Wants);
    facts.turn = Turn::Waits("it waits for team/a to be Ready".to_owned());
    let waits = desired(&facts);
    assert_eq!(waits.replicas, [("smollm2-old".to_owned(), 2)]);
    assert!(
        waits
            .children
            .iter()
            .all(|child| child.kind != ChildKind::ReplicaSet)
    );
    assert_eq!(waits.look_again, Some(TURN_PAUSE));
    let told = crate::status::status(&facts, &waits.outcome);
    let find = |kind: &str| told.conditions.iter().find(|c| c.type_ == kind).unwrap();
    assert_eq!(
        (find("Ready").status.as_str(), find("Ready").reason.as_str()),
        ("True", "Serving")
    );
    let reconciling = find("Reconciling");
    assert_eq!(reconciling.reason, "WaitingForTurn");
    assert!(
        reconciling.message.contains("team/a"),
        "{}",
        reconciling.message
    );
    assert_eq!(told.update_revision.as_deref(), Some("old"));
    // The number of pods follows the spec all the same.
    let mut object = (*facts.object).clone();
    object.spec.replicas = Some(3);
    facts.object = object.into();
    assert_eq!(desired(&facts).replicas, [("smollm2-old".to_owned(), 3)]);
}

#[test]
fn a_turn_lasts_until_all_are_ready_also_for_an_operator_that_just_began() {
    let mut facts = upgraded();
    let begun = desired(&facts);
    assert_eq!(begun.replicas[0], ("smollm2-old".to_owned(), 2));
    let (name, count) = begun.replicas[1].clone();
    assert_eq!(count, 1);
    let revision = begun.outcome.revision().unwrap().to_owned();
    let mut new = replica_set(&name, &revision, 1);
    new.spec = spec_hash(&facts.object);
    facts.replica_sets.push(new);
    assert_eq!(desired(&facts).stand, Stand::Rolls);
    facts.replica_sets[0].replicas = 0;
    facts.replica_sets[1].replicas = 2;
    facts.pods = vec![
        engine("c", &revision, ready()),
        engine("d", &revision, running(false)),
    ];
    assert_eq!(desired(&facts).stand, Stand::Rolls);
    facts.pods[1] = engine("d", &revision, ready());
    assert_eq!(desired(&facts).stand, Stand::Idle);
}

#[test]
fn what_the_spec_asks_for_waits_for_nobody() {
    let mut facts = upgraded();
    facts.replica_sets[0].spec = "another".to_owned();
    assert_eq!(desired(&facts).stand, Stand::Idle);
    // A set that an older operator made says nothing; the status does.
    facts.replica_sets[0].spec = String::new();
    assert_eq!(desired(&facts).stand, Stand::Wants);
    facts.status.observed_generation = Some(2);
    assert_eq!(desired(&facts).stand, Stand::Idle);
    // Nobody is served, so nobody is disturbed.
    let mut facts = upgraded();
    facts.replica_sets[0].replicas = 0;
    assert_eq!(desired(&facts).stand, Stand::Idle);
}
