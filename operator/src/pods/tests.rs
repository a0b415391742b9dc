//! Pods, as the API server and the kubelet write them.

use serde_json::json;

use super::*;

fn read(status: serde_json::Value) -> PodFacts {
    let pod = json!({
        "metadata": {
            "name": "chat-1-x", "uid": "u",
            "labels": {"plimsoll.dev/revision": "1"},
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "status": status,
    });
    PodFacts::read(
        &serde_json::from_value(pod).unwrap(),
        names::CONTAINER_ENGINE,
    )
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn a_pod_without_a_node_waits_since_the_scheduler_said_so() {
    let pod = read(json!({"phase": "Pending", "conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/2 nodes are available", "lastTransitionTime": "2026-01-01T00:00:10Z",
    }]}));
    assert_eq!(
        pod.rolling(at("2026-01-01T00:01:00Z"), Some(Cure::Sure)),
        Some(PodPhase::Blocked {
            for_: Duration::from_secs(50),
            cure: Cure::Sure,
        })
    );
}

#[test]
fn a_model_volume_without_a_source_was_dropped_by_the_api_server() {
    for (volume, dropped) in [
        (
            json!({"name": "plimsoll-model", "image": {"reference": "x"}}),
            false,
        ),
        (
            json!({"name": "plimsoll-model", "hostPath": {"path": "/x"}}),
            false,
        ),
        // The API server makes an empty folder of a volume that has nothing.
        (json!({"name": "plimsoll-model", "emptyDir": {}}), true),
        (json!({"name": "plimsoll-model"}), true),
        (json!({"name": "tmp", "emptyDir": {}}), false),
    ] {
        let pod = json!({
            "metadata": {"name": "a"}, "spec": {"containers": [], "volumes": [volume]},
            "status": {"conditions": [
                {"type": "PodReadyToStartContainers", "status": "True"},
            ]},
        });
        let pod = PodFacts::read(&serde_json::from_value(pod).unwrap(), "inspect");
        assert_eq!(pod.source_dropped, dropped);
        assert_eq!(pod.sandbox, Some(true));
    }
}

#[test]
fn a_native_sidecar_is_found_among_the_init_containers() {
    let pod = read(json!({"phase": "Pending", "initContainerStatuses": [{
        "name": "engine", "image": "i", "imageID": "", "ready": false, "restartCount": 2,
        "started": false,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
    }]}));
    assert_eq!(pod.engine.restarts, 2);
    assert_eq!(pod.failure().map(|ended| ended.exit_code), Some(137));
    assert_eq!(
        pod.rolling(at("2026-01-01T00:01:00Z"), None),
        Some(PodPhase::Starting)
    );
}

#[test]
fn an_engine_that_answered_once_is_unready_and_one_that_runs_again_has_not_failed() {
    let running = json!({
        "name": "engine", "image": "i", "imageID": "", "ready": false, "restartCount": 1,
        "started": true, "state": {"running": {}},
        "lastState": {"terminated": {"exitCode": 1}},
    });
    let pod = read(json!({"phase": "Running", "containerStatuses": [running]}));
    assert_eq!(
        pod.rolling(at("2026-01-01T00:01:00Z"), None),
        Some(PodPhase::Unready)
    );
    assert_eq!(pod.failure(), None);
}

#[test]
fn a_pod_whose_readiness_turned_after_its_start_answered_once_whatever_its_engine_says() {
    let restarted = json!({
        "name": "engine", "image": "i", "imageID": "", "ready": false, "restartCount": 1,
        "started": false, "state": {"running": {}},
    });
    for (turned, answered) in [("00:00:05", false), ("00:00:06", false), ("00:09:00", true)] {
        let pod = read(json!({
            "phase": "Running", "startTime": "2026-01-01T00:00:05Z",
            "conditions": [{
                "type": "Ready", "status": "False",
                "lastTransitionTime": format!("2026-01-01T{turned}Z"),
            }],
            "containerStatuses": [restarted],
        }));
        assert_eq!(pod.answered, answered, "{turned}");
        assert!(!pod.went_silent(), "its engine loads again");
    }
}

#[test]
fn a_gated_pod_has_no_place_and_names_its_gates() {
    let pod = json!({
        "metadata": {"name": "x"},
        "spec": {"containers": [], "schedulingGates": [{"name": "team/queue"}]},
        "status": {"phase": "Pending", "conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
        }]},
    });
    let pod = PodFacts::read(&serde_json::from_value(pod).unwrap(), "engine");
    assert_eq!(pod.unschedulable.as_ref().unwrap().gates, ["team/queue"]);
    let phase = pod.rolling(at("2026-01-01T00:01:00Z"), Some(Cure::Nothing));
    assert!(matches!(phase, Some(PodPhase::Blocked { .. })), "{phase:?}");
}
