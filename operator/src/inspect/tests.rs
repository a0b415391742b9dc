//! The life of an inspection, state by state.

use serde_json::{Value, json};

use super::*;
use crate::testing::*;

fn name(facts: &Facts) -> String {
    pod_name("smollm2", &source_key(&facts.object.spec))
}

/// What is decided when the inspect pod's status is as given.
fn with_pod(status: Value) -> (Facts, Decision) {
    let mut facts = facts(SMOLLM2);
    facts.inspect_pods = vec![inspection(&name(&facts), status)];
    let decision = decide(&facts);
    (facts, decision)
}

fn ended(message: &str, exit_code: i32) -> Value {
    let state =
        json!({"terminated": {"exitCode": exit_code, "reason": "Completed", "message": message}});
    json!({"phase": "Succeeded", "containerStatuses": [container("inspect", state, false)]})
}

fn waiting(reason: &str) -> Value {
    let state = json!({"waiting": {"reason": reason, "message": "localhost/x"}});
    json!({"phase": "Pending", "containerStatuses": [container("inspect", state, false)]})
}

#[test]
fn an_unknown_model_is_inspected_and_a_known_one_is_not() {
    let unknown = facts(SMOLLM2);
    let decision = decide(&unknown);
    assert_eq!(decision.start, Some(name(&unknown)));
    assert!(matches!(decision.model, Model::Inspecting(_)));

    let known = decide(&inspected(SMOLLM2));
    assert_eq!(known.start, None);
    assert!(matches!(known.model, Model::Known(..)));
}

#[test]
fn another_source_is_another_inspection_and_other_changes_are_none() {
    let mut facts = inspected(SMOLLM2);
    let mut object = (*facts.object).clone();
    object.spec.replicas = Some(9);
    object.spec.limits.max_num_seqs = 1;
    facts.object = std::sync::Arc::new(object.clone());
    assert!(matches!(decide(&facts).model, Model::Known(..)));
    object.spec.model.source.path = Some("other.gguf".to_owned());
    facts.object = std::sync::Arc::new(object);
    // A pod of the source before is in nobody's way, and of no use.
    facts.inspect_pods = vec![inspection(
        "smollm2-inspect-old",
        waiting("ContainerCreating"),
    )];
    let decision = decide(&facts);
    assert!(decision.start.is_some());
    assert_eq!(decision.discard, ["smollm2-inspect-old"]);
}

#[test]
fn a_folder_of_the_node_is_inspected_again_for_other_nodes() {
    let one = object(HOST_PATH);
    let mut two = one.clone();
    let template = two.spec.template.as_mut().unwrap();
    let nodes = &mut template.spec.as_mut().unwrap().node_selector;
    nodes.insert("zone".to_owned(), "b".to_owned());
    assert_ne!(source_key(&one.spec), source_key(&two.spec));
}

#[test]
fn the_answer_becomes_facts_and_the_pod_goes() {
    let answer = json!({"facts": smollm2()}).to_string();
    assert!(answer.len() < plimsoll_crds::names::TERMINATION_MESSAGE_BYTES);
    let (facts, decision) = with_pod(ended(&answer, 0));
    assert!(matches!(decision.model, Model::Known(ref model, _) if **model == smollm2()));
    assert_eq!(decision.discard, [name(&facts)]);
}

#[test]
fn answers_that_refuse_a_model_name_the_reason() {
    let table = [
        (
            r#"{"error":{"reason":"UnsupportedArchitecture","message":"Gpt2"}}"#,
            "UnsupportedArchitecture",
        ),
        (
            r#"{"error":{"reason":"ModelNotFound","message":"no such file"}}"#,
            "ModelNotFound",
        ),
        (
            r#"{"error":{"reason":"Nonsense","message":"?"}}"#,
            "ModelInvalid",
        ),
        // A reason of another condition is not one of this.
        (
            r#"{"error":{"reason":"Serving","message":"?"}}"#,
            "ModelInvalid",
        ),
        (r"{}", "InspectFailed"),
        ("killed", "InspectFailed"),
        ("", "InspectFailed"),
        (r#"{"facts":{"layers":-1}}"#, "InspectFailed"),
    ];
    for (message, reason) in table {
        let (_, decision) = with_pod(ended(message, 1));
        let Model::Failed(failure) = decision.model else {
            panic!("{message}")
        };
        assert_eq!(failure.reason.as_str(), reason, "{message}");
        // An image that was read does not change; what nobody could read may be read next time.
        assert_eq!(
            failure.retry_at.is_some(),
            reason == "InspectFailed",
            "{message}"
        );
    }
}

#[test]
fn a_failure_is_counted_once_and_tried_again_after_a_pause() {
    let (mut facts, first) = with_pod(ended("boom", 1));
    let Model::Failed(failure) = first.model else {
        panic!()
    };
    assert_eq!(failure.attempts, 1);
    assert_eq!(first.look_again, Some(Duration::from_secs(10)));
    // The same pod, seen again before its deletion comes through.
    facts.inspect_failure = Some(failure.clone());
    let again = decide(&facts);
    assert_eq!(again.model, Model::Failed(failure.clone()));
    // Gone: nothing happens before the pause is over.
    facts.inspect_pods.clear();
    assert_eq!(decide(&facts).start, None);
    facts.now = at(25);
    assert_eq!(decide(&facts).start, Some(name(&facts)));
    // A new spec is worth another look at once.
    facts.now = at(11);
    facts.identity.generation += 1;
    assert_eq!(decide(&facts).start, Some(name(&facts)));
}

#[test]
fn what_keeps_the_pod_from_starting_is_told() {
    let (_, pull) = with_pod(waiting("ErrImagePull"));
    assert!(matches!(pull.model, Model::Unavailable(ref text) if text.contains("ErrImagePull")));

    let (_, fresh) = with_pod(waiting("ContainerCreating"));
    assert!(matches!(fresh.model, Model::Inspecting(_)));
    assert_eq!(fresh.look_again, Some(Duration::from_secs(20)));

    let mut facts = facts(SMOLLM2);
    facts.now = at(60);
    facts.inspect_pods = vec![inspection(&name(&facts), waiting("ContainerCreating"))];
    assert!(matches!(decide(&facts).model, Model::Unavailable(_)));

    let (_, waits) = with_pod(unschedulable(0));
    assert!(matches!(waits.model, Model::Inspecting(ref text) if text.contains("0/2 nodes")));
}
