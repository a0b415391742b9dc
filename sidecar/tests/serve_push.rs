//! Weights pushed to the real binary over loopback: a trainer's round, and a trainer that dies in it.
#![allow(clippy::unwrap_used, reason = "a test")]

mod harness;
mod served;

use std::io::{Read, Write};
use std::net::TcpStream;

use harness::altered::Altered;
use harness::eventually;
use serde_json::{Value, json};
use served::{SPLIT, Served};

const PROMPT: &str = r#"{"model": "tiny-llama", "prompt": [5, 6, 7], "max_tokens": 40,
    "temperature": 0, "ignore_eos": true}"#;

fn said(served: &Served) -> Value {
    let answer = served.post("/v1/completions", PROMPT);
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["choices"][0]["text"].take()
}

fn report(served: &Served) -> Value {
    served.get_admin("/memory", "").json()
}

/// The head of a push in chunks, as who streams sends it.
fn push(served: &Served) -> TcpStream {
    let head = "POST /update_weights HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                content-type: application/octet-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    served::open(served.api, head)
}

fn chunk(stream: &mut TcpStream, bytes: &[u8]) {
    write!(stream, "{:x}\r\n", bytes.len()).unwrap();
    stream.write_all(bytes).unwrap();
    stream.write_all(b"\r\n").unwrap();
}

#[test]
fn a_trainer_pushes_weights_over_loopback_and_one_that_dies_leaves_no_mixture() {
    let other = Altered::other();
    let file = std::fs::read(other.path().join("model.safetensors")).unwrap();
    let root = other.path().parent().unwrap().to_str().unwrap();
    let flags = ["--control-api", "loopback", "--weights-root", root];
    let served = Served::start("tiny-llama", &[&SPLIT[..], &flags].concat());
    let before = said(&served);
    let body = json!({"weight_dir": other.path()}).to_string();
    assert_eq!(served.post("/update_weights", &body).status, 200);
    let folder = said(&served);
    assert_ne!(folder, before);
    let body = json!({"weight_dir": served::fixture("tiny-llama")}).to_string();
    assert_eq!(
        served.post("/update_weights", &body).status,
        403,
        "it is not under the root"
    );

    // A trainer's round: deep asleep, the weights back, pushed, and the cache.
    assert_eq!(served.post("/sleep?level=2&mode=keep", "").status, 200);
    assert_eq!(served.post("/wake_up?tags=weights", "").status, 200);
    let started = served.post("/start_weight_update", r#"{"weight_version": "step-1"}"#);
    assert_eq!(started.status, 200, "{}", started.body);
    let mut stream = push(&served);
    for part in file.chunks(10_007) {
        chunk(&mut stream, part);
    }
    chunk(&mut stream, &[]);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let finished = served.post("/finish_weight_update", "");
    assert_eq!(finished.status, 200, "{}", finished.body);
    let woken = served.post("/wake_up?tags=kv_cache", "");
    assert_eq!(woken.json()["status"], "awake", "{}", woken.body);
    assert_eq!(said(&served), folder);
    let version = served.get("/weight_info").json();
    assert_eq!(version, json!({"weight_version": "step-1"}));
    let told = report(&served);
    assert_eq!(
        (&told["weightVersion"], &told["weightsVerified"]),
        (&json!("step-1"), &json!(true))
    );

    // Killed in the middle.
    let started = served.post("/start_weight_update", r#"{"weight_version": "step-2"}"#);
    assert_eq!(started.status, 200, "{}", started.body);
    let first = served::fixture("tiny-llama").join("model.safetensors");
    let first = std::fs::read(first).unwrap();
    let mut stream = push(&served);
    for part in first[..first.len() / 2].chunks(100_000) {
        chunk(&mut stream, part);
    }
    eventually("a part is written", || report(&served)["state"] == "Paused");
    drop(stream);
    eventually("the end of the update", || {
        report(&served)["state"] == "Asleep"
    });
    let told = report(&served);
    assert_eq!(told["weightsVerified"], false);
    let message = told["message"].as_str().unwrap();
    assert!(
        message.contains("a pushed update ended in or behind tensor `"),
        "{message}"
    );
    assert_eq!(served.get("/readyz").status, 503);
    assert_eq!(served.post("/v1/completions", PROMPT).status, 503);
    assert_eq!(served.post("/wake_up", "").status, 503);
    let reloaded = served.post("/collective_rpc", r#"{"method": "reload_weights"}"#);
    assert_eq!(reloaded.status, 200, "{}", reloaded.body);
    // What was read last, under the name that it had.
    assert_eq!(said(&served), folder);
    assert_eq!(
        served.get("/weight_info").json()["weight_version"],
        "default"
    );
    assert_eq!(served.get("/readyz").status, 200);
    let metrics = served.get("/metrics").body;
    for (result, count) in [("done", 3), ("failed", 1)] {
        let line = format!(
            r#"plimsoll_transition_total{{kind="update",model_name="tiny-llama",result="{result}"}} {count}"#
        );
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
}
