//! Memory that the kernel does not give: a wake and a growth that meet it leave the real binary as it
//! was, say why, and can be repeated once there is memory again.
#![allow(clippy::unwrap_used, reason = "a test")]

mod served;

use std::fs;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};
use served::{Answer, Served};

const PROMPT: &str = r#"{"model": "tiny-llama-9-3", "prompt": [5, 6, 7], "max_tokens": 24,
    "temperature": 0, "ignore_eos": true}"#;
/// Two of three KV heads on a rank that does not fit into the slack, one on a rank that does.
const QUOTAS: [&str; 6] = [
    "--tensor-parallel-size",
    "2",
    "--quota",
    "0=80Mi",
    "--quota",
    "1=80Mi",
];
/// Room for the process itself, its threads and buffers, and for the second rank.
const SLACK_BYTES: u64 = 60 << 20;

/// Bounds the memory that the process may write to by what it has now, or by nothing.
fn bound(served: &Served, bounded: bool) {
    let status = fs::read_to_string(format!("/proc/{}/status", served.id())).unwrap();
    let line = status.lines().find_map(|it| it.strip_prefix("VmData:"));
    let kibibytes = line.unwrap().split_whitespace().next().unwrap();
    let now: u64 = kibibytes.parse::<u64>().unwrap() * 1024;
    let limit = Rlimit {
        current: bounded.then_some(now + SLACK_BYTES),
        maximum: None,
    };
    let process = Pid::from_raw(i32::try_from(served.id()).unwrap());
    prlimit(process, Resource::Data, limit).unwrap();
}

fn said(served: &Served) -> Value {
    let answer = served.post("/v1/completions", PROMPT);
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["choices"][0]["text"].take()
}

/// Bytes that all ranks hold, by the ledger and by the kernel.
fn held(served: &Served) -> (u64, u64) {
    let memory = served.get_admin("/memory", "").json();
    let ranks = memory["ranks"].as_array().unwrap();
    let rows = ranks
        .iter()
        .flat_map(|rank| rank["accounts"].as_array().unwrap());
    let sum = |values: Vec<&Value>| values.iter().map(|it| it.as_u64().unwrap()).sum();
    (
        sum(rows.map(|row| &row["reservedBytes"]).collect()),
        sum(ranks.iter().map(|rank| &rank["driverBytes"]).collect()),
    )
}

fn quota(served: &Served, size: &str) -> Answer {
    let body = json!({"kvCache": {"size": size}}).to_string();
    served.post_admin("/quota", &body)
}

#[test]
fn a_wake_and_a_growth_without_memory_change_nothing_say_why_and_can_be_repeated() {
    let flags = [&QUOTAS[..], &["--control-api", "loopback"]].concat();
    let served = Served::start("tiny-llama-9-3", &flags);
    let before = said(&served);
    for level in [1, 2] {
        let path = format!("/sleep?level={level}&mode=keep");
        assert_eq!(served.post(&path, "").status, 200);
        let asleep = held(&served);
        bound(&served, true);
        for _ in 0..2 {
            let woken = served.post("/wake_up", "");
            assert_eq!(woken.status, 503, "{}", woken.body);
            assert!(woken.body.contains("rank "), "{}", woken.body);
            assert!(
                woken.body.contains("annot allocate memory"),
                "{}",
                woken.body
            );
            assert_eq!(held(&served), asleep, "what was taken is given back");
            let told = served.get_admin("/memory", "").json();
            assert_eq!(told["state"], "Asleep");
            let error = woken.json()["error"]["message"].clone();
            assert!(
                error
                    .as_str()
                    .unwrap()
                    .contains(told["message"].as_str().unwrap())
            );
        }
        bound(&served, false);
        let woken = served.post("/wake_up", "");
        assert_eq!(
            (woken.status, said(&served)),
            (200, before.clone()),
            "{}",
            woken.body
        );
    }

    assert_eq!(quota(&served, "1Mi").status, 200);
    let small = held(&served);
    bound(&served, true);
    let refused = quota(&served, "70Mi");
    assert_eq!(refused.status, 422, "{}", refused.body);
    assert!(
        refused.body.contains("annot allocate memory"),
        "{}",
        refused.body
    );
    assert_eq!((held(&served), said(&served)), (small, before.clone()));
    bound(&served, false);
    assert_eq!(quota(&served, "70Mi").status, 200);
    assert!(held(&served) > small);
    assert_eq!(said(&served), before);
}

#[test]
fn more_than_the_machine_has_is_refused_before_anything_is_taken() {
    let mut served = Served::start_unready("tiny-llama", &["--quota", "0=900Ti"]);
    assert!(!served.ended().success());
    let line = served.wait_for("ended by a failure");
    assert!(line.contains("--quota: the ranks' budgets"), "{line}");
}
