//! Images that cannot be pulled, of the engine and of what runs beside it.

use plimsoll_crds::names;
use serde_json::Value;

use super::*;

fn not_pulled(container_name: &str, reason: &str) -> Value {
    let state = json!({"waiting": {"reason": reason, "message": "no such host"}});
    let mut status = container(container_name, state, false);
    status["image"] = json!("localhost/app:dev");
    status
}

fn message(facts: &Facts) -> String {
    find(&told(facts), "Ready").unwrap().message.clone()
}

#[test]
fn a_pull_that_fails_names_the_container_its_image_and_the_kubelets_words() {
    let creating = json!({"waiting": {"reason": "ContainerCreating"}});
    let creating = container(names::CONTAINER_ENGINE, creating, false);
    let initializing = json!({"waiting": {"reason": "PodInitializing"}});
    let mut answering = ready();
    answering["conditions"][0]["status"] = json!("False");
    answering["containerStatuses"] = json!([
        answering["containerStatuses"][0],
        not_pulled("app", "ErrImagePull")
    ]);
    let tried = "a pull failed and is tried again: ";
    for (status, words) in [
        (
            json!({"phase": "Pending", "containerStatuses": [not_pulled("engine", "ErrImagePull")]}),
            format!(
                "pod a, container engine, image localhost/app:dev: {tried}ErrImagePull: no such"
            ),
        ),
        // The engine is a native sidecar.
        (
            json!({
                "phase": "Pending",
                "initContainerStatuses": [not_pulled("engine", "ImagePullBackOff")],
                "containerStatuses": [container("app", initializing, false)],
            }),
            format!(
                "pod a, container engine, image localhost/app:dev: {tried}ImagePullBackOff: no"
            ),
        ),
        // One beside it, before the engine runs.
        (
            json!({
                "phase": "Pending",
                "containerStatuses": [creating, not_pulled("app", "ErrImageNeverPull")],
            }),
            "pod a, container app, image localhost/app:dev: ErrImageNeverPull: no such".to_owned(),
        ),
        // And while it answers.
        (
            answering,
            format!(
                "pod a: its engine answers; not ready: container app, image localhost/app:dev: \
                 {tried}ErrImagePull: no such"
            ),
        ),
    ] {
        let facts = with_pods([status, ready()]);
        let said = message(&facts);
        assert!(said.starts_with(&words), "{said}");
    }
}

#[test]
fn a_pull_that_fails_beside_an_engine_wakes_the_operator() {
    let pod = |reason: &str| {
        let pod = json!({
            "metadata": {"name": "a"},
            "status": {"containerStatuses": [not_pulled("app", reason)]},
        });
        crate::pods::relevant(&serde_json::from_value(pod).unwrap())
    };
    assert_ne!(pod("ContainerCreating"), pod("ErrImagePull"));
}

#[test]
fn words_that_say_something_else_do_not_wait_as_long_as_figures() {
    let status = |reason: &str| {
        let waiting = json!({
            "phase": "Pending", "containerStatuses": [not_pulled("engine", reason)],
        });
        told(&with_pods([waiting, ready()]))
    };
    let (written, next) = (status("ContainerCreating"), status("ErrImagePull"));
    for (since, decided) in [(1, Due::In(Duration::from_secs(2))), (3, Due::Now)] {
        let since = Some(Duration::from_secs(since));
        assert_eq!(due(&written, &next, since, PATIENCE), decided);
    }
}
