//! Passes that the API server refuses something.

use super::*;

#[tokio::test]
async fn in_a_namespace_that_ends_it_stops_at_the_first_refusal_without_an_error() {
    let mut story = Story::new(SMOLLM2).await;
    story.cluster.refuse(|words| {
        let mut refusal = failure(403, "unable to create new content in namespace team");
        refusal["details"] = json!({"causes": [{
            "reason": "NamespaceTerminating", "message": "namespace team is being terminated",
            "field": "metadata.namespace",
        }]});
        words.starts_with("create").then_some((403, refusal))
    });
    assert_eq!(story.pass().await.unwrap(), Action::await_change());
    assert_eq!(
        story.cluster.requests(),
        ["create serviceaccounts/smollm2-plimsoll-engine"]
    );
    // Children go one by one, and each is an event.
    for _ in 0..3 {
        assert_eq!(story.pass().await.unwrap(), Action::await_change());
    }
    assert_eq!(story.cluster.requests(), [""; 0]);
    let metrics = story.cluster.context.metrics.text().unwrap();
    assert!(!metrics.contains("reconcile_errors_total{"), "{metrics}");
    assert!(
        metrics.contains("reconcile_total{result=\"error\"} 0"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_resource_that_goes_in_the_middle_of_a_pass_is_no_error() {
    let mut story = Story::new(SMOLLM2).await;
    story.cluster.refuse(|words| {
        let refusal = failure(404, "inferencedeployments \"smollm2\" not found");
        (words == "status").then_some((404, refusal))
    });
    story.pass().await.unwrap();
    let metrics = story.cluster.context.metrics.text().unwrap();
    assert!(!metrics.contains("reconcile_errors_total{"), "{metrics}");
}

#[tokio::test]
async fn another_refusal_to_make_anything_is_an_error_and_is_tried_again() {
    let mut story = Story::new(SMOLLM2).await;
    story.cluster.refuse(|words| {
        let refusal = failure(403, "exceeded quota");
        words.starts_with("create").then_some((403, refusal))
    });
    assert!(story.pass().await.is_err());
    assert!(story.pass().await.is_err());
    let metrics = story.cluster.context.metrics.text().unwrap();
    assert!(
        metrics.contains("reconcile_errors_total{reason=\"forbidden\"} 2"),
        "{metrics}"
    );
}

#[tokio::test]
async fn pods_that_the_api_server_refuses_are_an_invalid_spec_and_what_runs_stays() {
    let mut story = Story::at_rest(SMOLLM2).await;
    let old = story.revision();
    let mut object = (*story.resource).clone();
    object.spec.limits.max_num_seqs = 4;
    object.spec.replicas = Some(3);
    story.resource = Arc::new(object);
    let kept = old.clone();
    let words =
        "ReplicaSet.apps is invalid: spec.template.spec.containers[1].image: Required value";
    story.cluster.refuse(move |asked| {
        let new = asked.starts_with("create replicasets/") && !asked.contains(&kept);
        new.then(|| invalid(words))
    });
    let next = story.pass().await.unwrap();
    assert_ne!(
        next,
        Action::await_change(),
        "it is offered again after a while"
    );
    let asked = story.cluster.requests();
    assert!(
        asked.contains(&format!("scale replicasets/{old} to 3")),
        "{asked:?}"
    );
    let stalled = story.condition("Stalled");
    assert_eq!(stalled["reason"], "InvalidSpec");
    let message = stalled["message"].as_str().unwrap();
    assert!(
        message.contains("spec.adapters[].source") && message.contains(words),
        "{message}"
    );
    assert_eq!(story.cluster.names("replicasets"), [old]);
    // The same is not asked again, whatever wakes the operator.
    assert_eq!(story.asked().await, [""; 0]);
    let metrics = story.cluster.context.metrics.text().unwrap();
    assert!(!metrics.contains("reconcile_errors_total{"), "{metrics}");
}

#[tokio::test]
async fn of_a_resource_that_cannot_be_read_it_says_so_once_and_nothing_else_is_done() {
    let story = Story::at_rest(SMOLLM2).await;
    let mut raw = serde_json::to_value(&*story.resource).unwrap();
    raw["metadata"]["generation"] = json!(4);
    raw["status"] = story.cluster.status();
    raw["spec"]["backend"] = json!("ROCm");
    let look = async |raw: &Value| {
        let seen = Arc::new(serde_json::from_value(raw.clone()).unwrap());
        let action = reconcile(seen, Arc::clone(&story.cluster.context)).await;
        assert_eq!(action.unwrap(), Action::await_change());
        story.cluster.requests()
    };
    assert_eq!(look(&raw).await, ["status", "event InvalidSpec"]);
    let stalled = story.condition("Stalled");
    assert_eq!(stalled["reason"], "InvalidSpec");
    let message = stalled["message"].as_str().unwrap();
    assert!(
        message.starts_with("spec.backend: ") && !message.contains("ROCm"),
        "{message}"
    );
    assert_eq!(story.condition("MemoryFits")["status"], "True", "it stands");
    raw["status"] = story.cluster.status();
    assert_eq!(look(&raw).await, [""; 0]);
}

#[tokio::test]
async fn an_inspect_pod_with_a_wrong_toleration_is_an_invalid_spec_and_with_a_wrong_volume_a_source()
 {
    for (field, reason) in [
        ("spec.tolerations[0].operator", "InvalidSpec"),
        (
            "spec.volumes[0].persistentVolumeClaim.claimName",
            "SourceUnavailable",
        ),
    ] {
        let resource = Arc::new(object(SMOLLM2));
        let cluster = Cluster::new(&resource).await;
        let mut story = Story { cluster, resource };
        let words =
            format!("Pod \"smollm2-inspect\" is invalid: {field}: Unsupported value: \"x\"");
        let told = words.clone();
        story.cluster.refuse(move |asked| {
            let mut refusal = failure(422, &told);
            refusal["details"] = json!({"causes": [{
                "reason": "FieldValueNotSupported", "message": "Unsupported value", "field": field,
            }]});
            asked.starts_with("create pods/").then_some((422, refusal))
        });
        let passed = story.pass().await;
        assert_eq!(passed.is_ok(), reason == "InvalidSpec", "{passed:?}");
        let stalled = story.condition("Stalled");
        assert_eq!(stalled["reason"], reason);
        assert!(
            stalled["message"].as_str().unwrap().contains(&words),
            "{stalled}"
        );
    }
}

#[tokio::test]
async fn an_inspect_pod_that_may_not_be_made_is_no_fault_of_the_source() {
    let quota = "exceeded quota: team, requested: limits.memory=1Gi, used: limits.memory=0, \
                 limited: limits.memory=512Mi";
    let unlimited = "failed quota: team: must specify limits.cpu for: inspect";
    let folder = "violates PodSecurity \"baseline:latest\": hostPath volumes (volume \"model\")";
    for (said, reason, event, way_out) in [
        (
            quota,
            "PodsRefused",
            "event InspectStuck",
            "raise the ResourceQuota, or free what it counts: the pod that reads the model asks \
             for requests.cpu=10m, requests.memory=64Mi, limits.memory=1Gi, pods=1",
        ),
        (
            unlimited,
            "PodsRefused",
            "event InspectStuck",
            "with a LimitRange",
        ),
        (
            "a webhook says no",
            "PodsRefused",
            "event InspectStuck",
            "change what it names",
        ),
        (folder, "SourceUnavailable", "event ModelRejected", ""),
    ] {
        let resource = Arc::new(object(SMOLLM2));
        let cluster = Cluster::new(&resource).await;
        let mut story = Story { cluster, resource };
        let refusal = format!("pods \"smollm2-inspect-1\" is forbidden: {said}");
        let words = refusal.clone();
        story.cluster.refuse(move |asked| {
            asked
                .starts_with("create pods/")
                .then(|| (403, failure(403, &words)))
        });
        // It is asked again, and told once.
        let mut told = Vec::new();
        for _ in 0..3 {
            assert!(story.pass().await.is_err());
            let asked = story.cluster.requests();
            told.extend(asked.into_iter().filter(|asked| asked.starts_with("event")));
        }
        assert_eq!(told, [event], "{said}");
        let stalled = story.condition("Stalled");
        assert_eq!(stalled["reason"], reason, "{said}");
        let message = stalled["message"].as_str().unwrap();
        assert!(
            message.contains(&refusal) && message.contains(way_out),
            "{message}"
        );
        let failed = reason == "SourceUnavailable";
        let state = if failed { "Failed" } else { "Pending" };
        assert_eq!(story.cluster.status()["state"], state, "{said}");
    }
}
