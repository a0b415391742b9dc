//! Traffic that is allowed, at its worst: the longest texts, every score, many choices, readers that
//! leave or do not read. No rank passes its budget, the container no limit, and every answer is an
//! answer.
//!
//! Half as long as the hostile clients last (`PLIMSOLL_HOSTILE_SECONDS`).

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use plimsoll_crds::names;
use serde_json::{Value, json};

use super::{MODEL, NAMESPACE, pod_of, ready, seconds};
use crate::http::{Request, Streamed, Target};
use crate::interrupt;
use crate::test::figures::memory_of;
use crate::test::observe::{cgroup_bytes, complete, name_of, pod_port};
use crate::test::world::World;
use crate::test::{Passed, expect, expect_eq};

/// Who asks at once.
const CLIENTS: usize = 16;
/// What an answer may be: carried out, wrong in a way that the body says, or not now.
const ANSWERS: [u16; 7] = [200, 400, 413, 422, 429, 503, LEFT];
/// How long a client waits for the next byte; two cores have more than that to do for so many.
const WAITS: Duration = Duration::from_secs(20);
/// The client left before there was an answer.
const LEFT: u16 = 1;
/// No answer at all: a connection refused, cut or closed.
const NONE: u16 = 0;

/// How often each kind of request got each status.
type Tally = Mutex<BTreeMap<(&'static str, u16), u32>>;

/// The worst that was seen of the pod's memory.
#[derive(Debug, Default)]
struct Worst {
    cgroup: u64,
    /// The driver's figure and the budget of each rank, where they were closest.
    ranks: BTreeMap<u64, (u64, u64)>,
}

pub(super) fn stays_within(world: &World<'_>) -> Passed {
    let (kubernetes, pod) = ready(world)?;
    let resource = kubernetes.resource(NAMESPACE, MODEL);
    let target = pod_port(&pod, names::PORT_HTTP)?;
    let (end, asked, tally) = (
        AtomicBool::new(false),
        AtomicUsize::new(0),
        Tally::default(),
    );
    let length = seconds()? / 2;
    let mut worst = Worst::default();
    thread::scope(|scope| -> Result<()> {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !end.load(Ordering::Relaxed) {
                    let turn = asked.fetch_add(1, Ordering::Relaxed);
                    let (kind, status) = ask(&target, turn);
                    if let Ok(mut tally) = tally.lock() {
                        *tally.entry((kind, status)).or_default() += 1;
                    }
                }
            });
        }
        let began = Instant::now();
        let mut watch = || -> Result<()> {
            while began.elapsed() < length {
                interrupt::check()?;
                let cgroup = cgroup_bytes(&pod, names::CONTAINER_ENGINE)?;
                worst.cgroup = worst.cgroup.max(cgroup);
                look(&memory_of(&kubernetes, &pod)?, &mut worst)?;
                thread::sleep(Duration::from_millis(500));
            }
            Ok(())
        };
        let watched = watch();
        end.store(true, Ordering::Relaxed);
        watched
    })?;
    let report = memory_of(&kubernetes, &pod)?;
    let limit = report["host"]["limitBytes"].as_u64().context("no limit")?;
    let tally = tally.into_inner().unwrap_or_default();
    println!(
        "           {} s, {} requests: {tally:?}",
        length.as_secs(),
        asked.load(Ordering::Relaxed)
    );
    println!(
        "           cgroup at most {} bytes of {limit}; of each rank (held, budget): {:?}",
        worst.cgroup, worst.ranks
    );
    let now = pod_of(&resource)?;
    expect_eq("the pod", &name_of(&now), &name_of(&pod))?;
    let restarts = now["status"]["containerStatuses"][0]["restartCount"].as_u64();
    expect_eq("restarts", &restarts, &Some(0))?;
    expect(worst.cgroup <= limit, || {
        "the cgroup passed its limit".to_owned()
    })?;
    expect_eq("ranks that were looked at", &worst.ranks.len(), &2)?;
    let over = worst.ranks.values().find(|(held, budget)| held > budget);
    expect(over.is_none(), || {
        format!("a rank passed its line: {over:?}")
    })?;
    let odd = tally.keys().find(|(_, status)| !ANSWERS.contains(status));
    expect(odd.is_none(), || format!("no answer to give: {odd:?}"))?;
    let carried_out = tally.iter().filter(|((_, status), _)| *status == 200);
    let carried_out: u32 = carried_out.map(|(_, count)| count).sum();
    expect(carried_out >= 5, || format!("{carried_out} answers of 200"))?;
    for kind in KINDS {
        expect(tally.keys().any(|(of, _)| *of == kind), || {
            format!("nobody asked {kind}")
        })?;
    }
    expect_eq("afterwards", &complete(&target, MODEL)?.status, &200)?;
    Ok(9)
}

/// Keeps what each rank held of its budget, where that was most.
fn look(report: &Value, worst: &mut Worst) -> Result<()> {
    for rank in report["ranks"].as_array().into_iter().flatten() {
        let number = |field: &str| {
            rank[field]
                .as_u64()
                .with_context(|| format!("no {field} in {rank}"))
        };
        let (held, budget) = (number("driverBytes")?, number("budgetBytes")?);
        let most = worst.ranks.entry(number("rank")?).or_default();
        if held >= most.0 {
            *most = (held, budget);
        }
    }
    Ok(())
}

const KINDS: [&str; 8] = [
    "the longest prompt",
    "the longest answer, and gone",
    "every score of a long prompt",
    "many choices with every score",
    "a reader that does not read",
    "many biases and stops",
    "too much of everything",
    "no JSON",
];

/// One request of the kind whose turn it is, and the status of its answer.
fn ask(target: &Target, turn: usize) -> (&'static str, u16) {
    let kind = KINDS[turn % KINDS.len()];
    // No two alike, so that no prefix spares any work.
    let long = |words: usize| format!("{turn} ") + &"it was the best of times ".repeat(words);
    let (path, body) = match turn % KINDS.len() {
        0 => completion(json!({"prompt": long(1300), "max_tokens": 4})),
        1 => completion(json!({
            "prompt": long(2), "max_tokens": 8000, "ignore_eos": true, "stream": true
        })),
        2 => completion(json!({"prompt": long(60), "echo": true, "logprobs": 5, "max_tokens": 1})),
        3 => (
            "/v1/chat/completions",
            json!({
                "model": MODEL, "messages": [{"role": "user", "content": long(4)}], "n": 8,
                "logprobs": true, "top_logprobs": 20, "max_tokens": 40, "ignore_eos": true
            })
            .to_string(),
        ),
        4 => completion(json!({
            "prompt": long(1), "max_tokens": 2000, "ignore_eos": true, "stream": true, "logprobs": 5
        })),
        5 => {
            let bias: serde_json::Map<String, Value> =
                (0..300).map(|id| (id.to_string(), json!(-50))).collect();
            completion(json!({
                "prompt": long(8), "max_tokens": 30, "logit_bias": bias, "temperature": 2.0,
                "stop": ["zzzz", "yyyy", "xxxx", "wwww"]
            }))
        }
        6 => completion(json!({"prompt": long(2), "max_tokens": u32::MAX, "n": 100_000})),
        _ => ("/v1/completions", "{\"model\": ".repeat(1000)),
    };
    let request = Request::new("POST", path)
        .body("application/json", body)
        .timeout(WAITS);
    let mut answer = match request.open(target) {
        Ok(answer) => answer,
        Err(error) if is_late(&error) => return (kind, LEFT),
        Err(_) => return (kind, NONE),
    };
    match turn % KINDS.len() {
        // Leaves after a few words, or reads nothing for a while and leaves.
        1 => read(&mut answer, 20 + turn % 50),
        4 => thread::sleep(Duration::from_secs(3)),
        _ => read(&mut answer, usize::MAX),
    }
    (kind, answer.status)
}

/// Whether it is the client's own patience that ended.
fn is_late(error: &anyhow::Error) -> bool {
    let mut causes = error
        .chain()
        .filter_map(|it| it.downcast_ref::<io::Error>());
    causes.any(|it| {
        matches!(
            it.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
        )
    })
}

/// Reads so many lines, or to the end.
fn read(answer: &mut Streamed, most: usize) {
    for _ in 0..most {
        let Ok(Some(_)) = answer.line() else {
            return;
        };
    }
}

fn completion(mut body: Value) -> (&'static str, String) {
    body["model"] = json!(MODEL);
    ("/v1/completions", body.to_string())
}
