//! Engines that are ready behind a Service that leads to none of them.

use super::*;
use crate::gather::now;

const SLICE: &str = "endpointslices/smollm2-x";

/// All replicas ready, as the kubelet says it.
async fn with_ready_pods() -> Story {
    let mut story = Story::at_rest(SMOLLM2).await;
    let revision = story.cluster.status()["updateRevision"].clone();
    for name in ["a", "b"] {
        let pod = json!({
            "metadata": {"name": name, "namespace": "team", "labels": {
                "plimsoll.dev/inferencedeployment": "smollm2", "plimsoll.dev/role": "engine",
                "plimsoll.dev/revision": revision,
            }},
            "spec": {"nodeName": "n1", "containers": [{"name": "engine"}]},
            "status": ready(),
        });
        story.cluster.put(&format!("pods/{name}"), pod);
    }
    story
}

fn slice(ready: Option<bool>) -> Value {
    json!({
        "metadata": {"name": "smollm2-x", "namespace": "team", "labels": {
            "plimsoll.dev/inferencedeployment": "smollm2",
            "kubernetes.io/service-name": "smollm2",
        }},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.7"], "conditions": {"ready": ready}}],
    })
}

/// What was seen first is seen since eleven seconds.
async fn later(story: &Story) {
    let uid = story.resource.metadata.uid.as_deref().unwrap();
    let memory = story.cluster.context.memories.of(uid);
    let mut memory = memory.lock().await;
    let seen = memory.unreached.as_mut().expect("it was seen");
    seen.since = now().checked_sub(Duration::from_secs(11)).unwrap();
}

fn verdict(story: &Story) -> (String, String) {
    let ready = story.condition("Ready");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&ready["status"]), text(&ready["reason"]))
}

fn is(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

#[tokio::test]
async fn ready_pods_without_an_endpoint_are_not_ready_after_a_while_and_a_restart_does_not_forget()
{
    let mut story = with_ready_pods().await;
    let next = story.pass().await.unwrap();
    assert_eq!(verdict(&story), is("True", "Serving"));
    assert_ne!(next, Action::await_change(), "it is looked at again");
    later(&story).await;
    story.pass().await.unwrap();
    assert_eq!(verdict(&story), is("False", "NoEndpoints"));
    let told = story.condition("Reconciling");
    let words = told["message"].as_str().unwrap();
    assert!(
        words.contains("Service smollm2 has no endpoint") && words.contains("EndpointSlice"),
        "{words}"
    );

    story.restart();
    story.pass().await.unwrap();
    assert_eq!(verdict(&story), is("False", "NoEndpoints"));
    // Endpoints that are not ready are none; one that does not say is.
    story.cluster.put(SLICE, slice(Some(false)));
    story.pass().await.unwrap();
    assert_eq!(verdict(&story), is("False", "NoEndpoints"));
    for ready in [Some(true), None] {
        story.cluster.put(SLICE, slice(ready));
        story.pass().await.unwrap();
        assert_eq!(verdict(&story), is("True", "Serving"));
    }
    // A slice of another Service says nothing of this one.
    story.cluster.edit(SLICE, |it| {
        it["metadata"]["labels"]["kubernetes.io/service-name"] = json!("another");
    });
    story.pass().await.unwrap();
    later(&story).await;
    story.pass().await.unwrap();
    assert_eq!(verdict(&story), is("False", "NoEndpoints"));
}

#[tokio::test]
async fn a_service_that_was_made_a_name_of_somewhere_else_is_said_with_the_way_back() {
    let mut story = with_ready_pods().await;
    // What was there stays there: nobody tidies up behind a Service of that type.
    story.cluster.put(SLICE, slice(Some(true)));
    story.pass().await.unwrap();
    assert_eq!(verdict(&story), is("True", "Serving"));
    story.cluster.edit("services/smollm2", |it| {
        it["spec"]["type"] = json!("ExternalName");
    });
    story.pass().await.unwrap();
    later(&story).await;
    story.pass().await.unwrap();
    assert_eq!(verdict(&story), is("False", "NoEndpoints"));
    let words = story.condition("Ready")["message"].to_string();
    assert!(
        words.contains("of type ExternalName") && words.contains("kubectl patch service smollm2"),
        "{words}"
    );
    story.cluster.edit("services/smollm2", |it| {
        it["spec"]["type"] = json!("ClusterIP");
    });
    story.pass().await.unwrap();
    assert_eq!(verdict(&story), is("True", "Serving"));
}
