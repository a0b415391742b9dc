//! Inspections that do not come about, and those that are tried again.

use serde_json::{Value, json};

use super::*;
use crate::desire::desire;
use crate::events::between;
use crate::status::status;
use crate::testing::*;

const PATIENCE: Duration = Duration::from_secs(60);

fn name(facts: &Facts) -> String {
    pod_name(&facts.identity.name, &facts.object.spec)
}

/// A pod that the scheduler finds no node for, since second 0.
fn no_node(facts: &Facts) -> PodFacts {
    let words = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";
    let pod = json!({
        "metadata": {"name": name(facts), "uid": "u"},
        "spec": {"containers": [], "nodeSelector": {"kubernetes.io/hostname": "nowhere"}},
        "status": {"phase": "Pending", "conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": words, "lastTransitionTime": at(0).to_string(),
        }]},
    });
    PodFacts::read(&serde_json::from_value(pod).unwrap(), "inspect")
}

/// Status of a pod that reads the model's headers since then.
fn runs(since: i64) -> Value {
    let state = json!({"running": {"startedAt": at(since).to_string()}});
    json!({"phase": "Running", "containerStatuses": [container("inspect", state, true)]})
}

fn condition(facts: &Facts, kind: &str) -> Option<(String, String, String)> {
    let conditions = facts.status.conditions.iter();
    let mut found = conditions.filter(|condition| condition.type_ == kind);
    found
        .next()
        .map(|it| (it.status.clone(), it.reason.clone(), it.message.clone()))
}

/// Brings the status up to date, and tells the reasons of the Events.
fn pass(facts: &mut Facts) -> Vec<&'static str> {
    let desire = desire(facts, &settings(), "token", PATIENCE).unwrap();
    if let Model::Failed(failure) = &desire.outcome.model {
        facts.inspect_failure = Some(failure.clone());
    }
    let next = status(facts, &desire.outcome);
    let told = between(&facts.status, &next);
    facts.status = next;
    told.iter().map(|it| it.reason.as_str()).collect()
}

#[test]
fn an_inspection_that_no_node_takes_stalls_after_a_minute_until_it_is_placed() {
    let mut facts = facts(HOST_PATH);
    facts.inspect_pods = vec![no_node(&facts)];
    facts.now = at(59);
    assert_eq!(decide(&facts).look_again, Some(Duration::from_secs(1)));
    assert_eq!(pass(&mut facts), [""; 0]);
    assert_eq!(condition(&facts, "Ready").unwrap().1, "Inspecting");
    assert_eq!(condition(&facts, "Stalled"), None);

    facts.now = at(60);
    assert_eq!(pass(&mut facts), ["InspectStuck"]);
    let (status, reason, message) = condition(&facts, "Stalled").unwrap();
    assert_eq!(
        (status.as_str(), reason.as_str()),
        ("True", "Unschedulable")
    );
    let words = "node affinity/selector (the pod's spec has nodeSelector \
                 kubernetes.io/hostname=nowhere); nothing is read";
    assert!(message.contains(words), "{message}");
    assert!(message.contains("spec.adapters[].source"), "{message}");
    let resolved = condition(&facts, "ModelResolved").unwrap();
    assert_eq!(
        (resolved.0.as_str(), resolved.1.as_str()),
        ("Unknown", "Unschedulable")
    );
    facts.now = at(600);
    assert_eq!(pass(&mut facts), [""; 0], "told once");

    facts.inspect_pods = vec![inspection(&name(&facts), runs(600))];
    assert_eq!(pass(&mut facts), [""; 0]);
    assert_eq!(condition(&facts, "Ready").unwrap().1, "Inspecting");
    assert_eq!(condition(&facts, "Stalled"), None);
}

#[test]
fn a_source_that_failed_stays_failed_while_it_is_tried_again() {
    let mut facts = facts(SMOLLM2);
    let own = name(&facts);
    let with = |uid: &str, status: Value| {
        let mut pod = inspection(&own, status);
        pod.uid = uid.to_owned();
        vec![pod]
    };
    let ended = |message: &str| {
        let state = json!({"terminated": {"exitCode": 1, "message": message}});
        json!({"phase": "Succeeded", "containerStatuses": [container("inspect", state, false)]})
    };
    let missing = r#"{"error":{"reason":"ModelNotFound","message":"no such file"}}"#;
    facts.inspect_pods = with("one", ended(missing));
    assert_eq!(pass(&mut facts), ["ModelRejected"]);
    for (second, pods) in [
        (15, Vec::new()),
        (25, Vec::new()),
        (26, with("two", json!({"phase": "Pending"}))),
        (30, with("two", runs(30))),
        (31, with("two", ended(missing))),
    ] {
        (facts.now, facts.inspect_pods) = (at(second), pods);
        assert_eq!(pass(&mut facts), [""; 0], "at {second} s");
        let (_, reason, message) = condition(&facts, "ModelResolved").unwrap();
        assert_eq!(reason, "ModelNotFound", "at {second} s");
        let next = if (25..31).contains(&second) {
            "under way"
        } else {
            "next at"
        };
        assert!(message.contains(next), "at {second} s: {message}");
        assert_eq!(condition(&facts, "Stalled").unwrap().1, "ModelNotFound");
    }
    assert_eq!(facts.inspect_failure.as_ref().unwrap().attempts, 2);
    let answer = json!({"facts": smollm2()}).to_string();
    facts.inspect_pods = with("three", ended(&answer));
    assert!(pass(&mut facts).contains(&"ModelInspected"));
}
