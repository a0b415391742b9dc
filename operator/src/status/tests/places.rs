//! What is said while a new pod has no place.

use super::*;

/// One replica that answers, and a new revision's pod that may not be made since second 0, because
/// of a quota that the old one uses up.
fn quota_used_up() -> Facts {
    let mut facts = inspected(SMOLLM2);
    let mut object = (*facts.object).clone();
    object.spec.replicas = Some(1);
    facts.object = object.into();
    let revision = wanted_revision(&facts);
    let spec = json!({"containers": [{
        "name": "engine", "resources": {"limits": {"memory": "400Mi"}},
    }]});
    let mut old = engine_asking("old", spec, ready());
    old.revision = "r0".to_owned();
    facts.pods = vec![old];
    let mut new = replica_set(&format!("smollm2-{revision}"), &revision, 1);
    new.failure = Some(
        "pods \"x\" is forbidden: exceeded quota: team, requested: limits.memory=400Mi, used: \
         limits.memory=400Mi, limited: limits.memory=400Mi"
            .to_owned(),
    );
    new.failing_since = Some(at(0));
    facts.replica_sets = vec![replica_set("smollm2-r0", "r0", 1), new];
    facts
}

fn message(facts: &Facts) -> String {
    find(&told(facts), "Ready").unwrap().message.clone()
}

#[test]
fn while_an_old_pod_will_make_way_it_is_said_when() {
    let mut facts = quota_used_up();
    let said = message(&facts);
    let when = format!("=400Mi; an old pod makes way in 50 s (at {}), and", at(60));
    assert!(said.contains(&when), "{said}");
    facts.now = at(60);
    let said = message(&facts);
    assert!(said.contains("; an old pod makes way for it"), "{said}");
    // Where its leaving does not help, nothing of the kind is promised.
    let mut facts = quota_used_up();
    let words = facts.replica_sets[1].failure.as_mut().unwrap();
    *words = words.replace(
        "requested: limits.memory=400Mi",
        "requested: limits.memory=500Mi",
    );
    let said = message(&facts);
    let stays = "limits.memory=400Mi; pods of the revision before serve on; raise";
    assert!(said.contains(stays), "{said}");
}

#[test]
fn the_schedulers_words_are_joined_to_ours_and_the_selector_they_mean_is_quoted() {
    let mut facts = with_pods([unschedulable(0), ready()]);
    let said = message(&facts);
    assert!(
        said.contains("2 Insufficient memory; change what it"),
        "{said}"
    );
    let words = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.";
    let mut status = unschedulable(0);
    status["conditions"][0]["message"] = json!(words);
    for (spec, quoted) in [
        (
            json!({"containers": [], "nodeSelector": {"disk": "ssd", "zone": "b"}}),
            "affinity/selector (the pod's spec has nodeSelector disk=ssd,zone=b); change",
        ),
        (
            json!({"containers": [], "nodeSelector": {"disk": "ssd"}, "affinity": {"nodeAffinity": {}}}),
            "(the pod's spec has nodeSelector disk=ssd and affinity.nodeAffinity); change",
        ),
        (json!({"containers": []}), "affinity/selector; change"),
    ] {
        let mut pod = engine_asking("a", spec, status.clone());
        pod.revision = facts.pods[0].revision.clone();
        facts.pods[0] = pod;
        let said = message(&facts);
        assert!(said.contains(quoted), "{said}");
    }
}
