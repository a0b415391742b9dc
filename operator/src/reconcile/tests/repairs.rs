//! Passes at rest, and passes over children that somebody changed.

use super::*;

#[tokio::test]
async fn children_at_rest_cost_no_write_whatever_their_status_does_and_after_a_restart() {
    let mut story = Story::new(SMOLLM2).await;
    let first = story.asked().await;
    let revision = story.revision();
    for child in [
        "create serviceaccounts/smollm2-plimsoll-engine",
        "create secrets/smollm2-plimsoll-admin",
        "create services/smollm2",
        "create poddisruptionbudgets/smollm2",
        &format!("create configmaps/{revision}"),
        &format!("create replicasets/{revision}"),
    ] {
        assert_eq!(
            first.iter().filter(|it| *it == child).count(),
            1,
            "{child}: {first:?}"
        );
    }
    story.asked().await;
    assert_eq!(story.asked().await, [""; 0]);
    story
        .cluster
        .edit(&format!("replicasets/{revision}"), |set| {
            set["status"] = json!({"replicas": 2, "fullyLabeledReplicas": 2});
        });
    story.cluster.edit("services/smollm2", |service| {
        service["metadata"]["labels"]["team"] = json!("search");
        service["spec"]["sessionAffinity"] = json!("None");
    });
    assert_eq!(story.asked().await, [""; 0]);
    // A new process reads it all back; it cannot read the Secret.
    story.restart();
    let secret = "secrets/smollm2-plimsoll-admin";
    assert_eq!(
        story.asked().await,
        [
            format!("create {secret}"),
            format!("look {secret}"),
            format!("apply {secret}!"),
        ]
    );
    assert_eq!(story.asked().await, [""; 0]);
}

#[tokio::test]
async fn a_hand_edit_of_each_child_is_repaired_at_once_and_told() {
    let mut story = Story::at_rest(SMOLLM2).await;
    let revision = story.revision();
    for (child, edit) in [
        (
            "services/smollm2".to_owned(),
            (|it| {
                it["spec"]["selector"]["plimsoll.dev/role"] = json!("other");
                lose(it, &["f:spec", "f:selector"]);
            }) as fn(&mut Value),
        ),
        ("poddisruptionbudgets/smollm2".to_owned(), |it| {
            it["spec"]["maxUnavailable"] = json!(2);
            lose(it, &["f:spec", "f:maxUnavailable"]);
        }),
        ("serviceaccounts/smollm2-plimsoll-engine".to_owned(), |it| {
            it["automountServiceAccountToken"] = json!(true);
            lose(it, &["f:automountServiceAccountToken"]);
        }),
        (format!("replicasets/{revision}"), |it| {
            it["spec"]["template"]["metadata"]["labels"]["plimsoll.dev/role"] = json!("x");
            let labels = [
                "f:spec",
                "f:template",
                "f:metadata",
                "f:labels",
                "f:plimsoll.dev/role",
            ];
            lose(it, &labels);
        }),
        (format!("configmaps/{revision}"), |it| {
            it["metadata"]["labels"]["plimsoll.dev/revision"] = json!("x");
            lose(it, &["f:metadata", "f:labels", "f:plimsoll.dev/revision"]);
        }),
    ] {
        story.restart();
        story.asked().await;
        let before = story.cluster.object(&child);
        story.cluster.edit(&child, edit);
        let mut asked = story.asked().await;
        asked.sort();
        assert_eq!(
            asked,
            [format!("apply {child}!"), "event ChildRepaired".to_owned()]
        );
        let after = story.cluster.object(&child);
        for part in ["spec", "data", "automountServiceAccountToken"] {
            assert_eq!(after[part], before[part], "{child} {part}");
        }
        let fields = |it: &Value| it["metadata"]["managedFields"][0]["fieldsV1"].clone();
        assert_eq!(fields(&after), fields(&before), "{child}");
        for part in ["labels", "annotations"] {
            assert_eq!(
                after["metadata"][part], before["metadata"][part],
                "{child} {part}"
            );
        }
        assert_eq!(story.asked().await, [""; 0], "{child}");
    }
}

#[tokio::test]
async fn another_hash_is_no_reason_to_believe_that_it_was_made_from_something_else() {
    let mut story = Story::at_rest(SMOLLM2).await;
    story.cluster.edit("services/smollm2", |it| {
        it["metadata"]["annotations"]["plimsoll.dev/hash"] = json!("x");
        lose(it, &["f:metadata", "f:annotations", "f:plimsoll.dev/hash"]);
    });
    let asked = story.asked().await;
    assert_eq!(asked, ["apply services/smollm2!", "event ChildRepaired"]);
    assert_eq!(story.asked().await, [""; 0]);
}

#[tokio::test]
async fn an_edit_that_a_dead_operator_missed_is_repaired_by_the_next() {
    let mut story = Story::at_rest(SMOLLM2).await;
    story.cluster.edit("services/smollm2", |it| {
        lose(
            it,
            &["f:metadata", "f:labels", "f:app.kubernetes.io/managed-by"],
        );
    });
    story.restart();
    let asked = story.asked().await;
    assert!(
        asked.contains(&"apply services/smollm2!".to_owned()),
        "{asked:?}"
    );
}

#[tokio::test]
async fn somebody_who_changes_it_again_and_again_is_not_fought_at_full_speed() {
    let mut story = Story::at_rest(SMOLLM2).await;
    let edit = |it: &mut Value| lose(it, &["f:spec", "f:selector"]);
    story.cluster.edit("services/smollm2", edit);
    assert!(!story.asked().await.is_empty());
    let edit_again = |it: &mut Value| {
        let account = &mut it["metadata"]["managedFields"][0]["fieldsV1"];
        account.as_object_mut().unwrap().remove("f:spec");
    };
    story.cluster.edit("services/smollm2", edit);
    let next = story.pass().await.unwrap();
    assert_eq!(story.cluster.requests(), [""; 0]);
    assert_ne!(
        next,
        Action::await_change(),
        "it is repaired a little later"
    );
    // Who goes on gets a condition, although every pod may answer.
    for _ in 0..2 {
        story.age(Duration::from_secs(5)).await;
        story.cluster.edit("services/smollm2", edit_again);
        story.pass().await.unwrap();
    }
    let uid = story.resource.metadata.uid.clone().unwrap();
    let memory = story.cluster.context.memories.of(&uid);
    let service = (ChildKind::Service, "smollm2".to_owned());
    assert_eq!(memory.lock().await.applied[&service].repairs, 3);
}

#[tokio::test]
async fn a_port_that_took_the_place_of_ours_goes_before_ours_comes_back() {
    let mut story = Story::at_rest(SMOLLM2).await;
    story.cluster.edit("services/smollm2", |it| {
        it["spec"]["ports"][0]["port"] = json!(9999);
        lose(it, &["f:spec", "f:ports"]);
    });
    let asked = story.asked().await;
    assert_eq!(
        asked,
        [
            "reset services/smollm2",
            "apply services/smollm2!",
            "event ChildRepaired"
        ]
    );
    assert_eq!(
        story.cluster.object("services/smollm2")["spec"]["ports"][0]["port"],
        8000
    );
}

#[tokio::test]
async fn a_budget_or_config_map_that_cannot_be_changed_back_is_made_anew() {
    let mut story = Story::at_rest(SMOLLM2).await;
    story.cluster.edit("poddisruptionbudgets/smollm2", |it| {
        it["spec"] = json!({"minAvailable": 2});
        lose(it, &["f:spec", "f:maxUnavailable"]);
    });
    story.cluster.refuse(|words| {
        let forced = words == "apply poddisruptionbudgets/smollm2!";
        forced.then(|| invalid("minAvailable and maxUnavailable cannot be both set"))
    });
    let asked = story.asked().await;
    assert_eq!(
        asked,
        [
            "apply poddisruptionbudgets/smollm2!",
            "delete poddisruptionbudgets/smollm2",
            "create poddisruptionbudgets/smollm2",
            "event ChildRepaired",
        ]
    );
}

#[tokio::test]
async fn a_child_that_was_hidden_by_taking_its_label_off_is_found_again() {
    let mut story = Story::at_rest(SMOLLM2).await;
    // The watch is told that it is gone.
    story.cluster.hide("services/smollm2");
    story.age(Duration::from_secs(10)).await;
    assert_eq!(
        story.asked().await,
        [
            "create services/smollm2",
            "look services/smollm2",
            "apply services/smollm2!",
        ]
    );
}
