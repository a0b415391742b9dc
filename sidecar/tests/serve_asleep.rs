//! The real binary that begins with a target of sleep: it is never ready before the wake, and has
//! started all the same.
#![allow(clippy::unwrap_used, reason = "a test")]

mod served;

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use served::Served;
use served::documents::{documents, documents_with};

const PATIENCE: Duration = Duration::from_secs(120);

/// Looks until the target is applied; `meanwhile` sees each status of `/readyz` on the way.
fn applied(served: &Served, mut meanwhile: impl FnMut(u16)) -> Value {
    let end = Instant::now() + PATIENCE;
    loop {
        meanwhile(served.probe("/readyz"));
        let report = served.get_admin("/target", "").json();
        if report["outcome"] == "Applied" {
            return report;
        }
        assert!(Instant::now() < end, "{report}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn it_falls_asleep_before_it_is_ready_and_wakes_when_it_is_told() {
    let folder = std::env::temp_dir().join(format!("plimsoll-asleep-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let [(boot_name, boot), (target_name, mut target)] = documents();
    target["sleep"] = json!({"level": 2});
    fs::write(folder.join(boot_name), boot.to_string()).unwrap();
    fs::write(folder.join(target_name), target.to_string()).unwrap();
    let served = Served::start_config(&folder);
    let report = applied(&served, |ready| assert_eq!(ready, 503));
    assert_eq!(report["generation"], 3);
    assert_eq!(
        (served.probe("/readyz"), served.probe("/health")),
        (503, 200)
    );
    let memory = served.get_admin("/memory", "").json();
    assert_eq!(
        (&memory["state"], &memory["sleepLevel"]),
        (&json!("Asleep"), &json!(2))
    );
    let request = r#"{"model": "chat", "prompt": "a", "max_tokens": 2}"#;
    assert_eq!(served.post("/v1/completions", request).status, 503);

    target["generation"] = json!(4);
    target.as_object_mut().unwrap().remove("sleep");
    let answer = served.put_admin("/target", &target.to_string());
    assert_eq!(
        (answer.status, &answer.json()["outcome"]),
        (200, &json!("Deferred"))
    );
    assert_eq!(applied(&served, |_| {})["generation"], 4);
    assert_eq!(served.probe("/readyz"), 200);
    let memory = served.get_admin("/memory", "").json();
    assert_eq!(
        (&memory["state"], &memory["weightsVerified"]),
        (&json!("Serving"), &json!(true))
    );
    assert_eq!(served.post("/v1/completions", request).status, 200);
    drop(served);
    fs::remove_dir_all(folder).unwrap();
}

/// One second is the shortest clock there is; nothing here waits longer for it.
#[test]
fn it_falls_asleep_by_its_clock_stays_ready_and_wakes_for_a_request() {
    let folder = std::env::temp_dir().join(format!("plimsoll-idle-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let [(boot_name, boot), (target_name, mut target)] = documents();
    target["idle"] = json!({"afterSeconds": 1, "level": 1});
    target["wakeOnRequest"] = json!(true);
    fs::write(folder.join(boot_name), boot.to_string()).unwrap();
    fs::write(folder.join(target_name), target.to_string()).unwrap();
    let served = Served::start_config(&folder);
    let end = Instant::now() + PATIENCE;
    let falls_asleep = || loop {
        let memory = served.get_admin("/memory", "").json();
        if memory["state"] == "Asleep" {
            return memory;
        }
        assert!(Instant::now() < end, "{memory}");
        std::thread::sleep(Duration::from_millis(5));
    };
    let request = r#"{"model": "chat", "prompt": "a", "max_tokens": 2, "temperature": 0}"#;
    let mut said = None;
    for _ in 0..2 {
        let memory = falls_asleep();
        assert_eq!(
            (&memory["sleepReason"], &memory["wakesOnRequest"]),
            (&json!("Idle"), &json!(true))
        );
        for path in ["/readyz", "/health", "/metrics"] {
            assert_eq!(served.probe(path), 200, "{path}");
        }
        assert_eq!(served.get_admin("/memory", "").json()["state"], "Asleep");
        let answer = served.post("/v1/completions", request);
        assert_eq!(answer.status, 200);
        let text = answer.json()["choices"][0]["text"].clone();
        assert_eq!(said.get_or_insert(text.clone()), &text);
        let memory = served.get_admin("/memory", "").json();
        assert_eq!(memory["wokenBy"], "Request");
    }
    drop(served);
    fs::remove_dir_all(folder).unwrap();
}

/// An adapter that a target names while the engine dozes is not read then; whoever asks for it wakes the
/// engine, and is answered by it.
#[test]
fn a_request_for_an_adapter_that_was_named_in_its_sleep_wakes_it_and_is_answered_with_it() {
    let folder = std::env::temp_dir().join(format!("plimsoll-listed-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let [(boot_name, boot), (target_name, mut target)] = documents_with(&["--max-adapters", "2"]);
    target["idle"] = json!({"afterSeconds": 1, "level": 2});
    target["wakeOnRequest"] = json!(true);
    fs::write(folder.join(boot_name), boot.to_string()).unwrap();
    fs::write(folder.join(target_name), target.to_string()).unwrap();
    let served = Served::start_config(&folder);
    let end = Instant::now() + PATIENCE;
    while served.get_admin("/memory", "").json()["state"] != "Asleep" {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(5));
    }
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/adapters");
    target["generation"] = json!(4);
    target["adapters"] = json!([
        {"name": "sql", "path": fixtures.join("plain")},
        {"name": "broken", "path": fixtures.join("nowhere")},
    ]);
    assert_eq!(served.put_admin("/target", &target.to_string()).status, 200);
    let ids = || {
        served.get("/v1/models").json()["data"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(ids(), 1);
    let asked = |model: &str| {
        let body = json!({"model": model, "prompt": [5, 6, 7, 8], "max_tokens": 20,
            "temperature": 0, "ignore_eos": true});
        let answer = served.post("/v1/completions", &body.to_string());
        (answer.status, answer.json())
    };
    let (status, tuned) = asked("sql");
    assert_eq!((status, &tuned["model"]), (200, &json!("sql")), "{tuned}");
    assert_eq!(served.get_admin("/memory", "").json()["wokenBy"], "Request");
    let (_, base) = asked("chat");
    assert_ne!(tuned["choices"][0]["text"], base["choices"][0]["text"]);
    let (status, told) = asked("broken");
    assert_eq!(
        (status, &told["error"]["code"]),
        (404, &json!("model_not_found"))
    );
    let told = told["error"]["message"].as_str().unwrap();
    assert!(told.contains("nowhere"), "{told}");
    assert_eq!(ids(), 2);
    drop(served);
    fs::remove_dir_all(folder).unwrap();
}
