//! Rollouts whose new pod has a node and does not get its volumes there.

use serde_json::json;

use super::*;
use crate::events::between;
use crate::status::status;
use crate::testing::*;

const PATIENCE: Duration = Duration::from_secs(60);

fn desired(facts: &Facts) -> Desire {
    desire(facts, &settings(), "token", PATIENCE).unwrap()
}

/// A pod that is on a node since the start, and whose containers cannot be made yet.
fn unmounted() -> serde_json::Value {
    json!({"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": at(0).to_string()},
        {"type": "PodReadyToStartContainers", "status": "False",
            "lastTransitionTime": at(1).to_string()},
    ], "containerStatuses": [container(
        "engine", json!({"waiting": {"reason": "ContainerCreating"}}), false,
    )]})
}

/// One old pod on another node with the claim, and a new one that waits for it.
fn held(old: serde_json::Value) -> Facts {
    let mut facts = inspected(SMOLLM2);
    let mut object = (*facts.object).clone();
    object.spec.replicas = Some(1);
    facts.object = object.into();
    let revision = desired(&facts).outcome.revision().unwrap().to_owned();
    facts.replica_sets = vec![
        replica_set("smollm2-old", "old", 1),
        replica_set(&format!("smollm2-{revision}"), &revision, 1),
    ];
    facts.replica_sets[0].answered = true;
    facts.pods = vec![engine("a", "old", old), engine("b", &revision, unmounted())];
    facts.pods[0].node = Some("n2".to_owned());
    for pod in &mut facts.pods {
        pod.volumes.claims = vec!["models".to_owned()];
    }
    facts
}

fn ready_words(facts: &Facts, desire: &Desire) -> (String, String) {
    let told = status(facts, &desire.outcome);
    let ready = told.conditions.first().unwrap();
    (ready.reason.clone(), ready.message.clone())
}

#[test]
fn a_claim_held_on_another_node_is_said_soon_with_the_way_out_and_costs_no_pod_that_answers() {
    let mut facts = held(ready());
    facts.now = at(5);
    let early = desired(&facts);
    assert_eq!(early.look_again, Some(Duration::from_secs(10)));
    assert_eq!(ready_words(&facts, &early).0, "WaitingForPods");

    facts.now = at(15);
    let desire = desired(&facts);
    assert_eq!(desire.look_again, Some(Duration::from_secs(45)));
    let (reason, message) = ready_words(&facts, &desire);
    assert_eq!(reason, "VolumesNotMounted");
    for words in [
        "pod b on node n1",
        "(claim models)",
        "pod a has a claim of these on node n2",
        "ReadWriteMany",
        "spec.template.spec.nodeSelector",
        "spec.replicas to 0 and back",
        "kubectl describe pod b",
    ] {
        assert!(message.contains(words), "{words} is not in {message}");
    }

    let before = status(&facts, &desire.outcome);
    facts.now = at(600);
    let desire = desired(&facts);
    assert_eq!(desire.replicas[0].1, 1, "what answers goes on answering");
    assert_eq!(desire.made_way, None);
    let told = status(&facts, &desire.outcome);
    let mut conditions = told.conditions.iter();
    let stalled = conditions.find(|it| it.type_ == "Stalled").unwrap();
    assert_eq!(stalled.reason, "VolumesNotMounted");
    let happened = between(&before, &told);
    assert_eq!(happened[0].reason.as_str(), "RolloutStuck", "{happened:?}");
}

#[test]
fn an_old_pod_that_does_not_answer_gives_up_its_claim() {
    let mut facts = held(running(false));
    facts.now = at(59);
    assert_eq!(desired(&facts).replicas[0].1, 1);
    facts.now = at(60);
    let late = desired(&facts);
    assert_eq!(late.replicas[0].1, 0);
    // Where it has another claim, or the same node, its leaving would do nothing.
    for harm in [
        |old: &mut PodFacts| old.volumes.claims = vec!["another".to_owned()],
        |old: &mut PodFacts| old.node = Some("n1".to_owned()),
    ] {
        let mut facts = facts.clone();
        harm(&mut facts.pods[0]);
        assert_eq!(desired(&facts).replicas[0].1, 1);
    }
}

#[test]
fn a_first_pod_whose_secret_does_not_exist_names_it() {
    let mut facts = held(ready());
    facts.replica_sets.remove(0);
    facts.pods.remove(0);
    facts.pods[0].volumes = Default::default();
    facts.pods[0].volumes.others = vec!["Secret tls".to_owned()];
    facts.now = at(15);
    let (reason, message) = ready_words(&facts, &desired(&facts));
    assert_eq!(reason, "VolumesNotMounted");
    assert!(message.contains("(Secret tls)"), "{message}");
    assert!(message.contains("has to exist"), "{message}");
    // Once it is mounted there is nothing to say.
    facts.pods[0].unmounted_since = None;
    let (reason, _) = ready_words(&facts, &desired(&facts));
    assert_eq!(reason, "WaitingForPods");
}

#[test]
fn a_spec_with_another_claim_is_tried_although_no_old_pod_gets_its_own() {
    let mut facts = inspected(SMOLLM2);
    let revision = desired(&facts).outcome.revision().unwrap().to_owned();
    facts.replica_sets = vec![replica_set("smollm2-old", "old", 2)];
    facts.replica_sets[0].answered = true;
    facts.pods = ["a", "b"]
        .map(|name| engine(name, "old", unmounted()))
        .to_vec();
    facts.now = at(600);
    let desire = desired(&facts);
    let new = &desire.replicas[1];
    assert_eq!(new, &(format!("smollm2-{revision}"), 1));
    assert_eq!(desire.replicas[0].1, 2);
}
