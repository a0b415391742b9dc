//! Objects of somebody else's under the names of ours: never changed, never deleted, and said.

use super::*;

/// What a user has under a name that is ours, and what is in it.
fn theirs(object: &str) -> Value {
    let (kind, name) = object.split_once('/').unwrap();
    json!({
        "metadata": {"name": name, "namespace": "team", "labels": {"made": "by-hand"}},
        "automountServiceAccountToken": true,
        "data": {"password": "eA=="},
        "spec": {"of": kind},
    })
}

#[tokio::test]
async fn an_object_of_somebody_else_of_whatever_kind_is_left_alone_and_named() {
    let revision = Story::at_rest(SMOLLM2).await.revision();
    for (object, kind) in [
        (
            "serviceaccounts/smollm2-plimsoll-engine".to_owned(),
            "ServiceAccount",
        ),
        ("secrets/smollm2-plimsoll-admin".to_owned(), "Secret"),
        ("services/smollm2".to_owned(), "Service"),
        (
            "poddisruptionbudgets/smollm2".to_owned(),
            "PodDisruptionBudget",
        ),
        (format!("configmaps/{revision}"), "ConfigMap"),
        (format!("replicasets/{revision}"), "ReplicaSet"),
    ] {
        let mut story = Story::new(SMOLLM2).await;
        // With our label and without: the watches see the one and not the other.
        for labelled in [false, true] {
            let mut content = theirs(&object);
            if labelled {
                content["metadata"]["labels"]["plimsoll.dev/inferencedeployment"] =
                    json!("smollm2");
            } else {
                story.cluster.hide(&object);
            }
            story.cluster.put(&object, content);
            let before = story.cluster.object(&object);
            let next = story.pass().await.unwrap();
            assert_ne!(
                next,
                Action::await_change(),
                "{object}: it is looked for again"
            );
            assert_eq!(story.cluster.object(&object), before, "{object}");
            let stalled = story.condition("Stalled");
            assert_eq!(stalled["reason"], "NameTaken", "{object}");
            let message = stalled["message"].as_str().unwrap();
            let name = object.split_once('/').unwrap().1;
            assert!(
                message.starts_with(&format!("{kind} {name} exists"))
                    && message.contains("another name"),
                "{message}"
            );
            story.cluster.requests();
            assert!(story.pass().await.is_ok());
            let asked = story.cluster.requests();
            let touched = |it: &String| it.starts_with("apply") || it.starts_with("delete");
            assert!(!asked.iter().any(touched), "{object}: {asked:?}");
        }
        story.cluster.show_all();
        story.cluster.remove(&object);
        story.asked().await;
        story.asked().await;
        assert_eq!(story.condition("Stalled"), Value::Null, "{object}");
        assert_eq!(
            story.cluster.names("replicasets"),
            std::slice::from_ref(&revision),
            "{object}"
        );
    }
}

#[tokio::test]
async fn a_secret_that_the_operator_may_not_look_into_is_somebody_elses() {
    let secret = "secrets/smollm2-plimsoll-admin";
    let mut story = Story::new(SMOLLM2).await;
    story.cluster.put(secret, theirs(secret));
    // The chart's admission policy: even a patch that changes nothing would answer with it.
    story.cluster.refuse(|words| {
        let refusal = failure(403, "this Secret belongs to somebody else");
        (words.starts_with("look") && words.contains("secrets/")).then_some((403, refusal))
    });
    story.pass().await.unwrap();
    let stalled = story.condition("Stalled");
    assert_eq!(stalled["reason"], "NameTaken", "{stalled}");
}

#[tokio::test]
async fn what_a_deleted_resource_of_the_same_name_left_is_waited_for() {
    let mut story = Story::new(SMOLLM2).await;
    let mut content = theirs("secrets/smollm2-plimsoll-admin");
    content["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "plimsoll.dev/v1alpha1", "kind": "InferenceDeployment", "name": "smollm2",
        "uid": "uid-0", "controller": true,
    }]);
    story.cluster.put("secrets/smollm2-plimsoll-admin", content);
    let error = story.pass().await.unwrap_err();
    assert!(error.to_string().contains("waited for"), "{error}");
    assert_eq!(story.condition("Stalled"), Value::Null);
    assert_eq!(story.condition("Ready")["reason"], "WaitingForPods");
    story.cluster.remove("secrets/smollm2-plimsoll-admin");
    story.asked().await;
    assert_eq!(story.cluster.names("secrets"), ["smollm2-plimsoll-admin"]);
}

#[tokio::test]
async fn an_object_that_is_to_go_with_the_resource_is_not_the_operators_for_that() {
    let mut story = Story::at_rest(SMOLLM2).await;
    let mut content = theirs("configmaps/notes");
    content["metadata"]["labels"]["plimsoll.dev/inferencedeployment"] = json!("smollm2");
    content["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "plimsoll.dev/v1alpha1", "kind": "InferenceDeployment", "name": "smollm2",
        "uid": "uid-1",
    }]);
    story.cluster.put("configmaps/notes", content);
    story.asked().await;
    assert!(
        story
            .cluster
            .names("configmaps")
            .contains(&"notes".to_owned())
    );
}

#[tokio::test]
async fn what_has_come_to_stand_in_the_place_of_a_child_is_not_deleted_in_its_stead() {
    let mut story = Story::at_rest(SMOLLM2).await;
    let budget = "poddisruptionbudgets/smollm2";
    // The watch has not seen yet that ours was deleted, and the user made one.
    let mut object = (*story.resource).clone();
    object.spec.replicas = Some(1);
    story.resource = Arc::new(object);
    story.cluster.swap(budget, theirs(budget));
    story.pass().await.unwrap();
    assert!(
        story
            .cluster
            .requests()
            .contains(&format!("delete {budget}")),
        "it was to go"
    );
    assert_eq!(
        story.cluster.object(budget)["spec"],
        json!({"of": "poddisruptionbudgets"})
    );
}

#[tokio::test]
async fn a_budget_of_somebody_else_keeps_no_pod_from_being_made() {
    let mut one = (*resource(SMOLLM2)).clone();
    one.spec.replicas = Some(1);
    let mut story = Story::new(SMOLLM2).await;
    story.resource = Arc::new(one);
    for _ in 0..3 {
        story.pass().await.unwrap();
    }
    let revision = story.revision();
    let budget = "poddisruptionbudgets/smollm2";
    story.cluster.put(budget, theirs(budget));
    let mut two = (*story.resource).clone();
    two.spec.replicas = Some(2);
    story.resource = Arc::new(two);
    story.cluster.requests();
    story.pass().await.unwrap();
    let asked = story.cluster.requests();
    assert!(
        asked.contains(&format!("scale replicasets/{revision} to 2")),
        "{asked:?}"
    );
    assert_eq!(story.condition("Stalled")["reason"], "NameTaken");
}
