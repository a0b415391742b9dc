//! The admin port: its token, and what watchers cost that never read.

use std::time::Duration;

use anyhow::{Context as _, Result};
use plimsoll_crds::names;
use serde_json::{Value, json};

use crate::http::{Request, Sent, Streamed, Target};
use crate::kube::Kubernetes;
use crate::test::observe::{
    EVERY, PATIENCE, anonymous_bytes, bearer, complete, pod_port, service_port,
};
use crate::test::smollm2::{NAME, NAMESPACE, ready, running};
use crate::test::world::World;
use crate::test::{Passed, expect, expect_eq};
use crate::wait;

pub(super) fn token_wanted(world: &World<'_>) -> Passed {
    let kubernetes = ready(world)?;
    let resource = kubernetes.resource(NAMESPACE, NAME);
    let pods = resource.engine_pods()?;
    let target = pod_port(pods.first().context("no pod")?, names::PORT_ADMIN)?;
    for request in [
        Request::new("GET", "/memory"),
        Request::new("GET", "/memory").header("authorization", "Bearer wrong"),
        Request::new("GET", "/memory/watch"),
    ] {
        expect_eq(
            "status without the token",
            &request.send(&target)?.status,
            &401,
        )?;
    }
    Ok(3)
}

/// Watchers that take every free stream and never read: requests answer, who reads still hears,
/// no further stream is opened, little memory goes, and what they held is free when they go.
pub(super) fn silent_watchers(world: &World<'_>) -> Passed {
    const MOST_STREAMS: usize = 64;
    const MOST_BYTES: u64 = 16 << 20;
    let kubernetes = ready(world)?;
    let pods = kubernetes.resource(NAMESPACE, NAME).engine_pods()?;
    let pod = pods.first().context("no pod")?;
    let engine = pod_port(pod, names::PORT_HTTP)?;
    let before = anonymous_bytes(pod, names::CONTAINER_ENGINE)?;

    let watch = watch_of(&kubernetes, pod)?;
    let mut reader = watch()?;
    expect_eq("status of a watcher", &reader.status, &200)?;
    let used = kv_used(&mut reader)?;
    let mut silent = Vec::new();
    let refused = loop {
        let stream = watch()?;
        if stream.status != 200 {
            break stream.status;
        }
        silent.push(stream);
        expect(silent.len() < MOST_STREAMS, || {
            format!("{MOST_STREAMS} streams are open: they are not bounded")
        })?;
    };
    expect_eq("status of one watcher too many", &refused, &429)?;
    expect(!silent.is_empty(), || {
        "no stream was left for a silent watcher".to_owned()
    })?;

    let long = hold_kv_cache(&engine)?;
    wait::until("the reader hears of the KV cache", PATIENCE, EVERY, || {
        let now = kv_used(&mut reader)?;
        Ok(if now > used {
            Ok(())
        } else {
            Err(format!("{now} bytes are used, {used} before"))
        })
    })?;
    drop(long);
    expect_eq("answer", &complete(&engine, NAME)?.status, &200)?;
    let after = anonymous_bytes(pod, names::CONTAINER_ENGINE)?;
    println!(
        "           {} silent watchers, then {refused}; {} anonymous bytes more than {before}",
        silent.len(),
        after.saturating_sub(before)
    );
    expect(after.saturating_sub(before) <= MOST_BYTES, || {
        format!("{before} anonymous bytes before the watchers, {after} with them")
    })?;

    drop(silent);
    wait::until("a stream is free again", PATIENCE, EVERY, || {
        let status = watch()?.status;
        Ok(if status == 200 {
            Ok(())
        } else {
            Err(format!("{status}"))
        })
    })?;
    wait::until("the long request is gone", PATIENCE, EVERY, || {
        let running = running(&engine)?;
        Ok(if running == 0 {
            Ok(())
        } else {
            Err(format!("{running} run"))
        })
    })?;
    // The operator's own stream was among them all the time.
    let service = service_port(&kubernetes, kubernetes.resource(NAMESPACE, NAME))?;
    expect_eq("answer", &complete(&service, NAME)?.status, &200)?;
    let status = kubernetes.resource(NAMESPACE, NAME).get()?.status;
    let rows = status.and_then(|status| status.memory).context("no rows")?;
    let stale = rows.gpus.iter().find(|row| row.stale).map(|row| &row.pod);
    expect(stale.is_none(), || format!("the row of {stale:?} is stale"))?;
    Ok(1)
}

/// Opens one more stream of a pod's reports.
fn watch_of(kubernetes: &Kubernetes, pod: &Value) -> Result<impl Fn() -> Result<Streamed>> {
    let target = pod_port(pod, names::PORT_ADMIN)?;
    let request = Request::new("GET", "/memory/watch")
        .header("authorization", bearer(kubernetes, pod)?)
        // Longer than the pause between two heartbeats.
        .timeout(Duration::from_secs(60));
    Ok(move || request.open(&target))
}

/// KV bytes in use on the first rank, by the next report of a stream.
fn kv_used(stream: &mut Streamed) -> Result<u64> {
    let line = stream.line()?.context("the stream has ended")?;
    let report: Value = serde_json::from_str(&line)?;
    let accounts = report["ranks"][0]["accounts"].as_array();
    let row = accounts.and_then(|rows| rows.iter().find(|row| row["name"] == "KVCache"));
    row.and_then(|row| row["usedBytes"].as_u64())
        .context("no KVCache in the report")
}

/// A sequence that holds more than a twentieth of the smaller rank's budget until it is dropped: a
/// report is due for less. Nothing of its answer is awaited: a busy machine may take minutes for it.
fn hold_kv_cache(engine: &Target) -> Result<Sent> {
    let body = json!({
        "model": NAME, "prompt": "word ".repeat(3000), "max_tokens": 4000,
        "temperature": 0, "ignore_eos": true, "stream": true,
    });
    Request::new("POST", "/v1/completions")
        .body("application/json", body.to_string())
        .begin(engine)
}
