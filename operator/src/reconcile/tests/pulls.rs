//! Pods whose image cannot be pulled, from the kubelet's word to the status that is written.

use super::*;

/// The pod of a native sidecar: its engine waits, and what is beside it.
fn pod(revision: &str, reason: &str, beside: &str) -> Value {
    let waits = |reason: &str| json!({"waiting": {"reason": reason, "message": "no such host"}});
    json!({
        "metadata": {"name": "a", "namespace": "team", "labels": {
            "plimsoll.dev/inferencedeployment": "smollm2", "plimsoll.dev/role": "engine",
            "plimsoll.dev/revision": revision,
        }},
        "spec": {"nodeName": "n1", "containers": [{"name": "app"}]},
        "status": {
            "phase": "Pending",
            "initContainerStatuses": [container("engine", waits(reason), false)],
            "containerStatuses": [container("app", waits(beside), false)],
        },
    })
}

async fn written_before(story: &Story, seconds: u64) {
    let uid = story.resource.metadata.uid.as_deref().unwrap();
    let memory = story.cluster.context.memories.of(uid);
    let mut memory = memory.lock().await;
    let (_, at) = memory.written.as_mut().expect("one was");
    *at = at.checked_sub(Duration::from_secs(seconds)).unwrap();
}

#[tokio::test]
async fn a_pull_that_fails_reaches_the_status_within_seconds() {
    let mut story = Story::at_rest(SMOLLM2).await;
    let revision = story.cluster.status()["updateRevision"].clone();
    let revision = revision.as_str().unwrap();
    let said = |story: &Story| {
        story.condition("Ready")["message"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let creating = pod(revision, "PodInitializing", "PodInitializing");
    story.cluster.put("pods/a", creating);
    story.pass().await.unwrap();
    assert!(said(&story).contains("PodInitializing"), "{}", said(&story));
    for (engine, app, words) in [
        (
            "ImagePullBackOff",
            "PodInitializing",
            "pod a, container engine, image i: a pull failed and is tried again: ImagePullBackOff",
        ),
        (
            "PodInitializing",
            "ErrImagePull",
            "pod a, container app, image i: a pull failed and is tried again: ErrImagePull",
        ),
    ] {
        let changed = pod(revision, engine, app);
        story
            .cluster
            .edit("pods/a", |it| it["status"] = changed["status"].clone());
        // Nothing else wakes the operator than what the pass itself asked for.
        let action = story.pass().await.unwrap();
        assert_ne!(action, Action::await_change());
        written_before(&story, 3).await;
        story.pass().await.unwrap();
        assert!(said(&story).contains(words), "{}", said(&story));
    }
}
