//! Passes over a resource whose quotas change: what is written, in which order, and what is said where
//! the node or the API server says no.

use plimsoll_crds::names;

use super::*;

/// A resource at rest with one pod that runs, as its ReplicaSet would make it.
pub(super) async fn with_pod(yaml: &str) -> (Story, u64) {
    let mut story = Story::at_rest(yaml).await;
    let set = story.revision();
    let template = story.cluster.object(&format!("replicasets/{set}"))["spec"]["template"].clone();
    let limit = template["spec"]["containers"][0]["resources"]["limits"]["memory"].clone();
    let bytes: u64 = limit.as_str().unwrap().parse().unwrap();
    let mut pod = json!({
        "metadata": template["metadata"],
        "spec": {"nodeName": "n1", "containers": template["spec"]["containers"]},
        "status": ready(),
    });
    pod["metadata"]["name"] = json!("a");
    pod["metadata"]["namespace"] = json!("team");
    let statuses = &mut pod["status"]["containerStatuses"][0];
    statuses["resources"] = json!({"limits": {"memory": limit}});
    story.cluster.put("pods/a", pod);
    story.pass().await.unwrap();
    story.cluster.requests();
    (story, bytes)
}

impl Story {
    /// The user changes the spec.
    pub(super) fn ask(&mut self, change: impl FnOnce(&mut InferenceDeployment)) {
        let mut object = (*self.resource).clone();
        change(&mut object);
        object.metadata.generation = object.metadata.generation.map(|it| it + 1);
        self.resource = Arc::new(object);
    }

    pub(super) fn quotas(&mut self, limits: [&str; 2]) {
        self.ask(|object| {
            for (row, limit) in object.spec.memory.gpu_quotas.iter_mut().zip(limits) {
                row.limit.0 = limit.to_owned();
            }
        });
    }

    /// What the pod asks for: its limit and its request.
    fn asks(&self) -> (Value, Value) {
        let resources = &self.cluster.object("pods/a")["spec"]["containers"][0]["resources"];
        let memory = |of: &str| resources[of]["memory"].clone();
        (memory("limits"), memory("requests"))
    }

    fn target_applied(&self) -> (String, String) {
        let condition = self.condition("TargetApplied");
        let text = |field: &str| condition[field].as_str().unwrap().to_owned();
        (text("reason"), text("message"))
    }
}

#[tokio::test]
async fn more_memory_is_asked_for_at_the_pod_and_its_revision_stays() {
    let (mut story, before) = with_pod(SMOLLM2).await;
    let set = story.revision();
    story.quotas(["320Mi", "760Mi"]);
    let asked = story.asked().await;
    let expected = [
        "resize pods/a".to_owned(),
        format!("apply replicasets/{set}!"),
    ];
    assert_eq!(asked[..2], expected, "{asked:?}");
    assert_eq!(
        story.cluster.names("replicasets"),
        std::slice::from_ref(&set)
    );
    let (limit, request) = story.asks();
    let bytes: u64 = limit.as_str().unwrap().parse().unwrap();
    assert!(bytes >= before + (80 << 20), "{before}, then {bytes}");
    assert_eq!(request, limit, "the class of service stays");
    let template = story.cluster.object(&format!("replicasets/{set}"));
    let resources = &template["spec"]["template"]["spec"]["containers"][0]["resources"];
    assert_eq!(resources["limits"]["memory"], limit, "pods to come");
    let (reason, words) = story.target_applied();
    assert_eq!(reason, "TargetPending");
    assert!(
        words.contains("memory limit is being raised from"),
        "{words}"
    );
    // Its node has not done it yet: nobody is told, nothing is asked again.
    let again = story.asked().await;
    assert!(
        !again.iter().any(|it| it.starts_with("resize")),
        "{again:?}"
    );
    // Another operator begins in between.
    story.restart();
    let again = story.asked().await;
    assert!(
        !again.iter().any(|it| it.starts_with("resize")),
        "{again:?}"
    );
    assert_eq!(story.target_applied().0, "TargetPending");
    // The file that a container would begin again with comes after its limit.
    let map = format!("apply configmaps/{set}!");
    assert!(!again.contains(&map), "{again:?}");
    story.cluster.edit("pods/a", |pod| {
        let status = &mut pod["status"]["containerStatuses"][0];
        status["resources"]["limits"]["memory"] = limit;
    });
    assert!(story.asked().await.contains(&map));
    let (_, words) = story.target_applied();
    assert!(!words.contains("memory limit"), "{words}");
}

#[tokio::test]
async fn less_memory_is_asked_for_at_no_pod_whose_engine_was_not_heard() {
    let (mut story, _) = with_pod(SMOLLM2).await;
    let set = story.revision();
    story.quotas(["280Mi", "640Mi"]);
    let asked = story.asked().await;
    let both = [
        format!("apply configmaps/{set}!"),
        format!("apply replicasets/{set}!"),
    ];
    assert_eq!(asked[..2], both, "{asked:?}");
    assert!(
        !asked.iter().any(|it| it.starts_with("resize")),
        "{asked:?}"
    );
    // A pod that no node has yet holds nothing.
    story.cluster.edit("pods/a", |pod| {
        pod["spec"]["nodeName"] = Value::Null;
    });
    assert_eq!(story.asked().await[0], "resize pods/a");
}

#[tokio::test]
async fn a_node_that_cannot_hold_it_is_quoted_and_nothing_else_changes() {
    let (mut story, before) = with_pod(SMOLLM2).await;
    story.quotas(["320Mi", "760Mi"]);
    story.asked().await;
    let capacity = "Node didn't have enough capacity: memory, requested: 9, capacity: 5";
    for (why, reason) in [
        ("Infeasible", "TargetRefused"),
        ("Deferred", "TargetPending"),
    ] {
        story.cluster.edit("pods/a", |pod| {
            pod["status"]["conditions"] = json!([
                {"type": "Ready", "status": "True"},
                {"type": "PodResizePending", "status": "True", "reason": why, "message": capacity},
            ]);
        });
        story.asked().await;
        let (found, words) = story.target_applied();
        assert_eq!(found, reason);
        assert!(
            words.contains(&format!("the node says {why}: {capacity}")),
            "{words}"
        );
    }
    // The old quotas: the limit is as it was, whatever the node made of the other.
    story.quotas(["300Mi", "700Mi"]);
    story.asked().await;
    let status = &story.cluster.object("pods/a")["status"]["containerStatuses"][0];
    assert_eq!(
        status["resources"]["limits"]["memory"],
        json!(before.to_string())
    );
}

#[tokio::test]
async fn a_namespace_that_rations_memory_is_quoted_and_asked_again_later() {
    let (mut story, _) = with_pod(SMOLLM2).await;
    story.quotas(["320Mi", "760Mi"]);
    let words = "pods \"a\" is forbidden: exceeded quota: team, requested: limits.memory=80Mi";
    story
        .cluster
        .refuse(move |request| (request == "resize pods/a").then(|| (403, failure(403, words))));
    let before = story.asks();
    let next = story.pass().await.unwrap();
    assert_ne!(next, Action::await_change(), "status is told at once");
    story.asked().await;
    let (reason, message) = story.target_applied();
    assert_eq!(reason, "TargetRefused");
    for part in [
        "the API server says no",
        "exceeded quota: team",
        "raised from",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert_eq!(story.asks(), before);
    assert_eq!(story.condition("MemoryFits")["status"], "True");
    // Somebody raised the quota; it is asked again after its pause.
    story.cluster.refuse(|_| None);
    assert!(
        !story
            .asked()
            .await
            .iter()
            .any(|it| it.starts_with("resize"))
    );
    let uid = story.resource.metadata.uid.clone().unwrap();
    let memory = story.cluster.context.memories.of(&uid);
    for asked in memory.lock().await.limits.values_mut() {
        asked.at = asked.at.checked_sub(Duration::from_secs(61)).unwrap();
    }
    assert!(story.asked().await.contains(&"resize pods/a".to_owned()));
}

#[tokio::test]
async fn an_api_server_that_fails_at_one_pod_keeps_nothing_else_from_being_written() {
    let (mut story, _) = with_pod(SMOLLM2).await;
    let set = story.revision();
    story.quotas(["320Mi", "760Mi"]);
    story.cluster.refuse(|request| {
        (request == "resize pods/a").then(|| (500, failure(500, "a webhook timed out")))
    });
    let asked = story.asked().await;
    assert!(
        asked.contains(&format!("apply replicasets/{set}!")),
        "{asked:?}"
    );
    let again = story.asked().await;
    assert!(
        !again.iter().any(|it| it.starts_with("resize")),
        "{again:?}"
    );
    let (reason, words) = story.target_applied();
    assert_eq!(reason, "TargetRefused");
    assert!(words.contains("a webhook timed out"), "{words}");
}

#[tokio::test]
async fn a_limit_that_the_user_wrote_is_the_users() {
    let template = "  template:\n    engine: {resources: {limits: {memory: 3Gi}}}\n";
    let yaml = format!("{SMOLLM2}{template}");
    let (mut story, set) = {
        let mut story = Story::at_rest(&yaml).await;
        let set = story.revision();
        let mut pod = json!({
            "metadata": {"name": "a", "namespace": "team", "labels": {
                names::LABEL_DEPLOYMENT: "smollm2", names::LABEL_ROLE: names::ROLE_ENGINE,
                names::LABEL_REVISION: set.strip_prefix("smollm2-").unwrap(),
            }},
            "spec": {"nodeName": "n1", "containers": [{
                "name": "engine", "resources": {"limits": {"memory": "3Gi"}},
            }]},
        });
        pod["status"] = ready();
        story.cluster.put("pods/a", pod);
        story.asked().await;
        (story, set)
    };
    story.quotas(["320Mi", "760Mi"]);
    let asked = story.asked().await;
    assert!(
        !asked.iter().any(|it| it.starts_with("resize")),
        "{asked:?}"
    );
    assert_eq!(
        story.cluster.names("replicasets"),
        std::slice::from_ref(&set)
    );
    // Another limit is another template.
    story.ask(|object| {
        let engine = object
            .spec
            .template
            .as_mut()
            .unwrap()
            .engine
            .as_mut()
            .unwrap();
        let limits = &mut engine.resources.as_mut().unwrap().limits;
        limits.get_mut("memory").unwrap().0 = "4Gi".to_owned();
    });
    story.asked().await;
    assert_eq!(story.cluster.names("replicasets").len(), 2);
}
