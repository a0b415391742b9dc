//! The real binary, told other memory while it runs: by its operator, and by hand.
#![allow(clippy::unwrap_used, reason = "a test")]

mod served;

use std::fs;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use served::documents::{documents, retold};
use served::{Answer, Served, answer, fixture, open};

const PATIENCE: Duration = Duration::from_secs(120);

/// Tells a target and looks until it is in force; the memory report of then.
fn tell(served: &Served, target: &Value) -> Value {
    let told = served.put_admin("/target", &target.to_string());
    assert_eq!(told.status, 200, "{}", told.json());
    let end = Instant::now() + PATIENCE;
    loop {
        let report = served.get_admin("/memory", "").json();
        if report["target"]["outcome"] == "Applied" {
            assert_eq!(report["target"]["generation"], target["generation"]);
            return report;
        }
        assert_ne!(report["target"]["outcome"], "Refused", "{report}");
        assert!(Instant::now() < end, "{report}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An answer of the admin port to a request whose body follows its head.
fn told(served: &Served, head: &str, body: &[u8]) -> Answer {
    let mut stream = open(served.admin, head);
    stream.write_all(body).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    answer(&bytes)
}

/// Pushes the weights once more that there are; before the finish, `meanwhile`.
fn push(served: &Served, meanwhile: impl FnOnce()) {
    let control = |path: &str| {
        let told = served.post_admin(path, "");
        assert_eq!(told.status, 200, "{path}: {}", told.body);
    };
    control("/start_weight_update");
    let file = fs::read(fixture("tiny-llama").join("model.safetensors")).unwrap();
    let head = format!(
        "POST /update_weights HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         content-type: application/octet-stream\r\ncontent-length: {}\r\n\r\n",
        file.len()
    );
    let sent = told(served, &head, &file);
    assert_eq!(sent.status, 200, "{}", sent.body);
    meanwhile();
    control("/finish_weight_update");
}

#[test]
fn its_memory_follows_targets_and_whoever_has_its_admin_port() {
    let folder = std::env::temp_dir().join(format!("plimsoll-resize-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let [(boot_name, boot), (target_name, target)] = documents();
    fs::write(folder.join(boot_name), boot.to_string()).unwrap();
    fs::write(folder.join(target_name), target.to_string()).unwrap();
    let served = Served::start_config(&folder);
    let request = json!({"model": "chat", "prompt": "a", "max_tokens": 24, "temperature": 0});
    let said = || -> Value {
        let answer = served.post("/v1/completions", &request.to_string());
        assert_eq!(answer.status, 200, "{}", answer.json());
        answer.json()["choices"][0]["text"].clone()
    };
    let end = Instant::now() + PATIENCE;
    while served.probe("/readyz") != 200 {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(5));
    }
    let first = said();
    let larger = retold(&boot, &target, [20, 21]);
    let report = tell(&served, &larger);
    assert_eq!(report["ranks"][1]["quotaBytes"], 21 << 20);
    assert_eq!(
        report["effective"]["kvCacheTokens"],
        larger["kvCache"]["tokens"]
    );
    assert_eq!(report["ranks"][0]["otherBytes"], 0);
    let info = served
        .get_admin("/server_info?config_format=json", "")
        .json();
    assert_eq!(
        info["vllm_config"]["kvCacheTokens"],
        larger["kvCache"]["tokens"]
    );
    assert_eq!(said(), first);
    let smaller = retold(&boot, &larger, [6, 7]);
    push(&served, || {
        let report = tell(&served, &smaller);
        assert_eq!(
            report["state"], "Paused",
            "weights have come, and not all is over"
        );
    });
    let report = tell(&served, &smaller);
    let rank = &report["ranks"][0];
    assert!(rank["driverBytes"].as_u64().unwrap() <= 6 << 20, "{rank}");
    assert_eq!((said(), served.probe("/readyz")), (first.clone(), 200));

    let by_hand = json!({"revision": 1, "kvCache": {"size": "1Mi"}});
    let told = served.post_admin("/quota", &by_hand.to_string());
    assert!(matches!(told.status, 200 | 202), "{}", told.json());
    let end = Instant::now() + PATIENCE;
    while served.get_admin("/quota", "").json()["outcome"] != "Applied" {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut same = smaller.clone();
    same["generation"] = json!(9);
    let report = tell(&served, &same);
    let rows = report["ranks"][0]["accounts"].as_array().unwrap();
    let cache = rows.iter().find(|row| row["name"] == "KVCache").unwrap();
    assert!(
        cache["plannedBytes"].as_u64().unwrap() <= 1 << 20,
        "{cache}"
    );
    assert_eq!(said(), first);
    let metrics = served.get("/metrics").body;
    let counted =
        "plimsoll_transition_total{kind=\"resize\",model_name=\"chat\",result=\"done\"} 3";
    assert!(metrics.contains(counted), "{metrics}");
    fs::remove_dir_all(folder).unwrap();
}
