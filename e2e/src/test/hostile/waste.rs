//! KV cache that blocks hold and no token needs, under the lengths of a chat: the pod's own metric,
//! beside what a server wastes that reserves the longest length for each sequence.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use plimsoll_crds::names;
use serde_json::json;

use super::{MODEL, ready};
use crate::http::{Request, Target};
use crate::interrupt;
use crate::test::observe::{metrics, pod_port, total};
use crate::test::world::World;
use crate::test::{Passed, expect};

/// Sequences at once: what the example's `maxNumSeqs` lets run.
const CLIENTS: usize = 16;
const LENGTH: Duration = Duration::from_secs(20);
/// Percent of the held slots, on average.
const MOST_PERCENT: f64 = 3.0;
/// The longest sequence that a contiguous reservation has to stand for: the model's context.
const CONTEXT: u64 = 8192;

/// (prompt, answer) in tokens, about: quantiles of what people ask chat models and are told.
const LENGTHS: [(usize, usize); 10] = [
    (20, 60),
    (40, 120),
    (60, 200),
    (90, 280),
    (140, 330),
    (220, 380),
    (350, 420),
    (550, 460),
    (900, 520),
    (1600, 600),
];

pub(super) fn is_small(world: &World<'_>) -> Passed {
    let (_, pod) = ready(world)?;
    let target = pod_port(&pod, names::PORT_HTTP)?;
    let (end, turns) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (failed, tokens) = (AtomicUsize::new(0), AtomicU64::new(0));
    let mut samples: Vec<(f64, f64)> = Vec::new();
    thread::scope(|scope| -> Result<()> {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !end.load(Ordering::Relaxed) {
                    let turn = turns.fetch_add(1, Ordering::Relaxed);
                    match chat(&target, turn, &end) {
                        Ok(count) => drop(tokens.fetch_add(count, Ordering::Relaxed)),
                        Err(_) => drop(failed.fetch_add(1, Ordering::Relaxed)),
                    }
                }
            });
        }
        let began = Instant::now();
        let mut watch = || -> Result<()> {
            while began.elapsed() < LENGTH {
                interrupt::check()?;
                thread::sleep(Duration::from_millis(200));
                let page = metrics(&target)?;
                let running = total(&page, "vllm:num_requests_running")?;
                if running > 0.0 {
                    let waste = total(&page, "plimsoll_kv_cache_waste_ratio")?;
                    samples.push((waste, running));
                }
            }
            Ok(())
        };
        let watched = watch();
        end.store(true, Ordering::Relaxed);
        watched
    })?;
    if samples.len() < 20 {
        bail!("only {} samples with a request running", samples.len());
    }
    #[expect(clippy::cast_precision_loss, reason = "a few hundred samples")]
    let mean =
        |of: fn(&(f64, f64)) -> f64| samples.iter().map(of).sum::<f64>() / samples.len() as f64;
    let (waste, running) = (100.0 * mean(|sample| sample.0), mean(|sample| sample.1));
    let worst = samples.iter().map(|sample| sample.0).fold(0.0, f64::max) * 100.0;
    println!(
        "           KV waste {waste:.2}% of the slots held (worst sample {worst:.2}%), {running:.1} \
         requests running, {} tokens made in {} s; reserving {CONTEXT} slots each would waste {:.0}%",
        tokens.load(Ordering::Relaxed),
        LENGTH.as_secs(),
        reserved_waste(),
    );
    expect(failed.load(Ordering::Relaxed) == 0, || {
        format!("{} requests failed", failed.load(Ordering::Relaxed))
    })?;
    expect(waste < MOST_PERCENT, || {
        format!("{waste:.2}% of the held KV slots are wasted")
    })?;
    Ok(2)
}

/// Percent of the slots that stay empty where each sequence has the longest length reserved, on
/// average over its life: half of its answer is there.
#[expect(clippy::cast_precision_loss, reason = "lengths of texts")]
fn reserved_waste() -> f64 {
    let filled: usize = LENGTHS
        .iter()
        .map(|(prompt, answer)| prompt + answer / 2)
        .sum();
    100.0 * (1.0 - filled as f64 / (LENGTHS.len() as f64 * CONTEXT as f64))
}

/// One chat to its end, or until the test's; the lines of its stream.
fn chat(target: &Target, turn: usize, end: &AtomicBool) -> Result<u64> {
    // Ten lengths in an order that does not come round with the clients.
    let (prompt, answer) = LENGTHS[turn * 7 % LENGTHS.len()];
    let text = format!("{turn} ") + &"the ".repeat(prompt);
    let body = json!({
        "model": MODEL, "messages": [{"role": "user", "content": text}], "stream": true,
        "max_tokens": answer, "ignore_eos": true, "temperature": 1.0, "seed": turn
    });
    let mut stream = Request::new("POST", "/v1/chat/completions")
        .body("application/json", body.to_string())
        .timeout(Duration::from_secs(60))
        .open(target)?;
    if stream.status != 200 {
        bail!("{}", stream.status);
    }
    let mut lines = 0;
    while !end.load(Ordering::Relaxed) {
        match stream.line()? {
            Some(line) => lines += u64::from(line.starts_with("data: {")),
            None => return Ok(lines),
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_of_the_longest_length_wastes_most_of_it() {
        let waste = reserved_waste();
        assert!((90.0..97.0).contains(&waste), "{waste}");
    }
}
