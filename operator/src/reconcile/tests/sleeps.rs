//! Passes over a resource that is asked to sleep or to wake while its spec leads to no revision.

use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::Target;
use plimsoll_crds::v1alpha1::sleep::{SleepSpec, SleepState};

use super::resizes::with_pod;
use super::*;

/// Whoever begins again begins with it, and with the memory that runs; nothing else is written.
#[tokio::test]
async fn while_the_spec_is_refused_the_newest_sleep_comes_into_the_files_of_what_runs() {
    let (mut story, _) = with_pod(SMOLLM2).await;
    let set = story.revision();
    let map = format!("configmaps/{set}");
    let file = |story: &Story| -> Target {
        let data = &story.cluster.object(&map)["data"];
        serde_json::from_str(data[names::TARGET_KEY].as_str().unwrap()).unwrap()
    };
    let (made, boot) = (
        file(&story),
        story.cluster.object(&map)["data"][names::BOOT_KEY].clone(),
    );
    story.quotas(["1Mi", "1Mi"]);
    let asked = story.asked().await;
    assert!(!asked.iter().any(|it| it.starts_with("apply")), "{asked:?}");
    for (state, level) in [(SleepState::Sleeping, Some(1)), (SleepState::Awake, None)] {
        story.ask(|object| {
            object.spec.sleep = Some(SleepSpec {
                state,
                level: 1,
                idle_after: None,
                wake_on_request: false,
            });
        });
        let asked = story.asked().await;
        let written: Vec<&String> = asked.iter().filter(|it| *it != "status").collect();
        assert_eq!(written, [&format!("apply {map}!")], "{asked:?}");
        let told = file(&story);
        assert_eq!(told.sleep.map(|sleep| sleep.level), level);
        assert_eq!(told.generation, made.generation);
        assert!(told.same_demand(&made));
        assert_eq!(story.cluster.object(&map)["data"][names::BOOT_KEY], boot);
        // Also for an operator that begins in between it is written once.
        story.restart();
        let again = story.asked().await;
        assert!(
            !again.iter().any(|it| it.starts_with("apply conf")),
            "{again:?}"
        );
    }
    assert_eq!(file(&story), made, "as it was");
}

/// It is no reason to try the rest again at once, and no reason not to sleep.
#[tokio::test]
async fn a_file_that_cannot_be_written_is_tried_again() {
    let (mut story, _) = with_pod(SMOLLM2).await;
    let map = format!("apply configmaps/{}!", story.revision());
    story.ask(|object| {
        object.spec.model.source.path = Some("unread".to_owned());
        object.spec.sleep = Some(serde_json::from_value(json!({"state": "Sleeping"})).unwrap());
    });
    let refused = map.clone();
    story
        .cluster
        .refuse(move |asked| (asked == refused).then(|| (500, failure(500, "no"))));
    assert!(story.pass().await.is_err());
    let applied = story.condition("TargetApplied");
    let words = applied["message"].as_str().unwrap();
    assert!(words.contains("the model is not read"), "{words}");
    assert!(words.contains("the sleep of generation"), "{words}");
    story.cluster.refuse(|_| None);
    story.cluster.requests();
    assert!(story.asked().await.contains(&map));
}
