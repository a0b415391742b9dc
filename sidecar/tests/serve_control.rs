//! Control routes of the real binary: asleep and awake over HTTP, with the admin port's token and, on
//! the API port, without one for this machine.
#![allow(clippy::unwrap_used, reason = "a test")]

mod harness;
mod served;

use harness::altered::Altered;
use serde_json::json;
use served::{SPLIT, Served};

const PROMPT: &str = r#"{"model": "tiny-llama", "prompt": [5, 6, 7], "max_tokens": 40,
    "temperature": 0, "ignore_eos": true}"#;

fn said(served: &Served) -> serde_json::Value {
    let answer = served.post("/v1/completions", PROMPT);
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["choices"][0]["text"].take()
}

/// Bytes that ranks hold, by the kernel.
fn driver_bytes(served: &Served) -> u64 {
    let report = served.get_admin("/memory", "").json();
    let ranks = report["ranks"].as_array().unwrap();
    ranks
        .iter()
        .map(|rank| rank["driverBytes"].as_u64().unwrap())
        .sum()
}

#[test]
fn a_trainer_on_this_machine_takes_the_memory_and_gives_it_back() {
    let flags = [&SPLIT[..], &["--control-api", "loopback"]].concat();
    let served = Served::start("tiny-llama", &flags);
    let before = said(&served);
    let held = driver_bytes(&served);
    for level in [1, 2] {
        let path = format!("/sleep?level={level}");
        let slept = served.post(&path, "");
        assert_eq!(slept.json(), json!({"status": "sleeping", "level": level}));
        let line = served.wait_for("memory given back");
        assert!(line.contains("rank 1: Comm "), "{line}");
        let report = served.get_admin("/memory", "").json();
        assert_eq!(report["state"], "Asleep");
        let left = driver_bytes(&served);
        assert!(
            left < held && (level == 1 || left == 0),
            "{left} of {held} are left"
        );
        assert_eq!(
            served.get("/is_sleeping").json(),
            json!({"is_sleeping": true})
        );
        assert_eq!(served.get("/health").status, 200);
        assert_eq!(served.get("/readyz").status, 503);
        let refused = served.post("/v1/completions", PROMPT);
        assert_eq!(refused.status, 503);
        assert_eq!(refused.json()["error"]["code"], "engine_asleep");
        let woken = served.post("/wake_up", "");
        assert_eq!(woken.json(), json!({"status": "awake", "tags_woken": null}));
        assert_eq!(driver_bytes(&served), held);
        assert_eq!(said(&served), before, "after level {level}");
    }
    let checked = served.post("/collective_rpc", r#"{"method": "reload_weights"}"#);
    assert_eq!(checked.json(), json!({"results": [null, null]}));
    assert_eq!(
        served.get_admin("/memory", "").json()["weightsVerified"],
        true
    );
    let metrics = served.get("/metrics").body;
    for line in [
        r#"plimsoll_transition_total{kind="wake",model_name="tiny-llama",result="done"} 2"#,
        r#"vllm:engine_sleep_state{engine="0",model_name="tiny-llama",sleep_state="awake"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[test]
fn without_the_switch_the_api_port_controls_nothing() {
    let served = Served::start("tiny-llama", &[]);
    for path in ["/sleep", "/wake_up", "/pause", "/release_memory_occupation"] {
        assert_eq!(served.post(path, "").status, 404, "{path}");
    }
    assert_eq!(served.get("/is_sleeping").status, 404);
    assert_eq!(
        served.get_admin("/is_sleeping", "").json(),
        json!({"is_sleeping": false})
    );
}

#[test]
fn a_trainer_on_this_machine_names_new_weights_and_gets_their_answers() {
    let (other, wrong) = (Altered::other(), Altered::of(f32::NAN));
    let root = other.path().parent().unwrap().to_str().unwrap();
    let flags = [
        "--control-api",
        "loopback",
        "--weights-root",
        root,
        "--weight-version",
        "1",
    ];
    let served = Served::start("tiny-llama", &[&SPLIT[..], &flags].concat());
    let version = || served.get("/weight_info").json()["weight_version"].take();
    assert_eq!(version(), "1");
    let before = said(&served);
    let body = json!({"model_path": other.path(), "weight_version": "2"}).to_string();
    let updated = served.post("/update_weights_from_disk", &body);
    assert_eq!(updated.json()["success"], true, "{}", updated.body);
    assert_eq!(version(), "2");
    let after = said(&served);
    assert_ne!(after, before);
    assert_eq!(served.get_admin("/memory", "").json()["weightVersion"], "2");

    let body = json!({"weight_dir": wrong.path()}).to_string();
    let failed = served.post("/update_weights", &body);
    assert_eq!(failed.status, 503, "{}", failed.body);
    assert_eq!(failed.json()["error"]["code"], "weights_not_updated");
    let report = served.get_admin("/memory", "").json();
    assert_eq!(
        (&report["state"], &report["weightsVerified"]),
        (&json!("Asleep"), &json!(false))
    );
    assert!(
        report["message"]
            .as_str()
            .unwrap()
            .contains("down_proj.weight`: row 0, column "),
        "{report}"
    );
    assert_eq!(served.post("/v1/completions", PROMPT).status, 503);
    assert_eq!(served.get("/readyz").status, 503);
    assert_eq!(served.post("/sleep?level=2", "").status, 200);
    assert_eq!(served.post("/wake_up", "").status, 200);
    assert_eq!((said(&served), version()), (after, json!("2")));
    let metrics = served.get("/metrics").body;
    for (result, count) in [("done", 1), ("failed", 1)] {
        let line = format!(
            r#"plimsoll_transition_total{{kind="update",model_name="tiny-llama",result="{result}"}} {count}"#
        );
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
}
