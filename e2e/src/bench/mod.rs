//! `bench cpu`: our engine and llama.cpp on the same machine, files and threads, in one run.
//!
//! Both in process, one rank, BF16 weights, two threads (or as many as the machine has, if fewer),
//! no cluster beside them. It prints ratios and judges nothing.

mod idle;
mod models;
mod ours;
mod peer;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use crate::paths;
use crate::progress::Progress;

/// What is measured, by the names both sides know.
const PREFILL_TOKENS: u32 = 512;
const DECODE_TOKENS: u32 = 128;
const BATCH_SEQUENCES: u32 = 16;
const BATCH_PROMPT: u32 = 64;
const BATCH_TOKENS: u32 = 64;

/// One line of the JSON file.
#[derive(Debug, Serialize)]
struct Row {
    bench: &'static str,
    case: String,
    ours: f64,
    peer: f64,
    ratio: f64,
    unit: &'static str,
}

/// Figures of one engine on one model, tokens per second.
#[derive(Debug, Clone, Copy)]
struct Figures {
    prefill: f64,
    decode: f64,
    batch: f64,
}

/// Runs the bench `name`; writes one JSON line per case to `json`.
pub(crate) fn run(progress: &Progress, name: &str, json: Option<&Path>) -> Result<()> {
    match name {
        "cpu" => cpu(progress, json),
        other => bail!("there is no bench '{other}'; there is: cpu"),
    }
}

fn cpu(progress: &Progress, json: Option<&Path>) -> Result<()> {
    if paths::state().exists() {
        bail!("a cluster is up and takes processor time; run 'e2e/run down' first");
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(2);
    let peer = peer::Peer::ensure(progress)?;
    let sidecar = ours::build(progress)?;
    let models = models::ensure(progress, &peer)?;
    println!("\npeer: llama.cpp of llama-cpp-python {}, built with {}", peer::VERSION, peer.flags());
    println!("ours: {}", ours::describe(&sidecar)?);
    println!("both: BF16 weights, {threads} threads, one process, one rank\n");
    let mut rows = Vec::new();
    for model in &models {
        let ours = progress.step(&format!("{}: ours", model.name), || {
            idle::gate()?;
            ours::measure(&sidecar, &model.folder, threads)
        })?;
        let theirs = progress.step(&format!("{}: llama.cpp", model.name), || {
            idle::gate()?;
            peer.measure(&model.gguf, threads)
        })?;
        for (case, ours, theirs) in [
            (format!("prefill-{PREFILL_TOKENS}"), ours.prefill, theirs.prefill),
            (format!("decode-{DECODE_TOKENS}"), ours.decode, theirs.decode),
            (format!("batch-{BATCH_SEQUENCES}"), ours.batch, theirs.batch),
        ] {
            rows.push(Row {
                bench: "cpu",
                case: format!("{}/{case}", model.name),
                ours,
                peer: theirs,
                ratio: ours / theirs,
                unit: "tokens/s",
            });
        }
    }
    print(&rows);
    if let Some(path) = json {
        let lines: Result<Vec<String>, _> = rows.iter().map(serde_json::to_string).collect();
        fs::write(path, lines?.join("\n") + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn print(rows: &[Row]) {
    println!("\n{:<34} {:>12} {:>12} {:>7}", "tokens per second", "ours", "llama.cpp", "ratio");
    for row in rows {
        println!("{:<34} {:>12.1} {:>12.1} {:>7.2}", row.case, row.ours, row.peer, row.ratio);
    }
}
