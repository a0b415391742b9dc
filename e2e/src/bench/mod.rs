//! Our engine beside its peers, on the same machine and files, in one run.

mod before;
mod gguf;
mod kernels;
mod llama_cpp;
mod random_model;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::bench::llama_cpp::{Batch, LlamaCpp};
use crate::build;
use crate::cluster::cleanup;
use crate::model;
use crate::process;
use crate::progress::Progress;
use crate::wait;

const THREADS: u32 = 2;
const PREFILL: u32 = 512;
const DECODE: u32 = 128;
const BATCH: Batch = Batch {
    sequences: 16,
    prompt: 64,
    generated: 32,
};

/// One line of the result.
struct Row {
    case: String,
    ours: f64,
    peer: f64,
    /// Of ours to the peer's.
    ratio: f64,
}

/// Runs the bench of that name.
pub(crate) fn run(
    progress: &Progress,
    name: &str,
    peer: Option<&Path>,
    json: Option<&Path>,
) -> Result<()> {
    match name {
        "cpu" => cpu(progress, name, json),
        "before" => print(&before::run(progress, peer)?, (name, "earlier"), json),
        "kernels" => keep(&kernels::run(progress, name)?, json),
        _ => bail!("no bench is called {name:?}; there are: cpu, before, kernels"),
    }
}

fn cpu(progress: &Progress, name: &str, json: Option<&Path>) -> Result<()> {
    if cleanup::is_anything_left() {
        bail!("the test cluster takes part of the cores: `e2e/run down` first");
    }
    let llama = LlamaCpp::ensure(progress)?;
    let sidecar = build::programs(progress)?.sidecar;
    let smol = model::ensure(progress)?;
    let random = random_model::ensure(progress)?;
    let bf16 = llama.converted(progress, &smol, "BF16")?;
    println!("llama.cpp: {}", LlamaCpp::flags());
    println!(
        "both sides: {THREADS} threads, one rank, in process; ours by default, and by `int8`:"
    );
    println!(
        "inputs rounded to 8 bits, as llama.cpp does it; its rows in BF16 are of the same BF16"
    );
    let mut rows = Vec::new();
    let mut row = |label: &str, ours: (&Path, &[&str]), theirs: &Path| {
        let compared = progress.step(label, || compare(label, &sidecar, ours, &llama, theirs))?;
        rows.extend(compared);
        anyhow::Ok(())
    };
    row("smollm2-bf16", (&smol, &["--quantization", "none"]), &bf16)?;
    row("random-0.5b-bf16", (&random, &[]), &random)?;
    // The quantised file that comes with the model, and what llama.cpp makes of it in other types. Rows
    // of 576 numbers are no whole K blocks: Q4_K_M of SmolLM2 is Q5_0, Q8_0 and Q6_K for the most part.
    for kind in ["Q4_1", "Q4_0", "Q8_0", "Q4_K_M"] {
        let file = match kind {
            "Q4_1" => smol.clone(),
            other => llama.converted(progress, &smol, other)?,
        };
        let label = format!("smollm2-{}", kind.to_lowercase());
        row(&label, (&file, &[]), &file)?;
        let int8 = ["--quantization-compute", "int8"];
        row(&format!("{label}-int8"), (&file, &int8), &file)?;
    }
    let k_blocks = llama.converted(progress, &random_model::of_k_blocks(progress)?, "Q4_K_M")?;
    row("random-llama-q4_k_m", (&k_blocks, &[]), &k_blocks)?;
    let int8 = ["--quantization-compute", "int8"];
    row("random-llama-q4_k_m-int8", (&k_blocks, &int8), &k_blocks)?;
    print(&rows, (name, "llama.cpp"), json)
}

fn compare(
    label: &str,
    sidecar: &Path,
    ours: (&Path, &[&str]),
    llama: &LlamaCpp,
    theirs: &Path,
) -> Result<Vec<Row>> {
    await_idle()?;
    let measured = our_rates(sidecar, ours.0, ours.1)?;
    await_idle()?;
    let peers = [
        (
            "prefill",
            format!("prefill-{PREFILL}"),
            llama.rate(theirs, PREFILL, 0, THREADS)?,
        ),
        (
            "decode",
            format!("decode-{DECODE}"),
            llama.rate(theirs, 0, DECODE, THREADS)?,
        ),
        (
            "batch",
            format!("batch-{}", BATCH.sequences),
            llama.batch_rate(theirs, BATCH, THREADS)?,
        ),
    ];
    peers
        .into_iter()
        .map(|(kind, case, peer)| {
            let row = measured.iter().find(|row| row["case"] == case.as_str());
            let ours = row.and_then(|row| row["tokensPerSecond"].as_f64());
            let ours = ours.with_context(|| format!("plimsoll-sidecar bench has no {kind}"))?;
            Ok(Row {
                case: format!("{label}/{case}"),
                ours,
                peer,
                ratio: ours / peer,
            })
        })
        .collect()
}

/// One JSON line per case: `{"case", "tokensPerSecond", …}`.
fn our_rates(sidecar: &Path, model: &Path, flags: &[&str]) -> Result<Vec<Value>> {
    let mut bench = process::command(sidecar, ["bench"]);
    bench
        .arg(model)
        .args(["--dtype", "bfloat16", "--output", "json"])
        .args(flags);
    bench.args(["--threads", &THREADS.to_string()]);
    bench.args([
        "--prefill",
        &PREFILL.to_string(),
        "--decode",
        &DECODE.to_string(),
    ]);
    bench.args(["--batch", &BATCH.sequences.to_string()]);
    let said = process::stdout_of(&mut bench)?;
    let lines = said.lines().filter(|line| line.starts_with('{'));
    lines
        .map(|line| serde_json::from_str(line).map_err(Into::into))
        .collect()
}

/// Figures of busy cores mean nothing: waits until nobody else computes, and says so.
fn await_idle() -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(300);
    const MOST_BUSY_PERCENT: u64 = 5;
    let busy = wait::until("the cores are idle", PATIENCE, Duration::ZERO, || {
        let before = busy_and_all()?;
        std::thread::sleep(Duration::from_secs(2));
        let after = busy_and_all()?;
        let all = (after.1 - before.1).max(1);
        let percent = (after.0 - before.0) * 100 / all;
        Ok(if percent <= MOST_BUSY_PERCENT {
            Ok(percent)
        } else {
            Err(format!("they are {percent}% busy with something else"))
        })
    })?;
    println!("           cores {busy}% busy before the measurement");
    Ok(())
}

/// Clock ticks of all cores: those at work, and all.
fn busy_and_all() -> Result<(u64, u64)> {
    let text = fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|word| word.parse().ok())
        .collect();
    let [user, nice, system, idle, waiting, ..] = ticks[..] else {
        bail!("/proc/stat says {line:?}");
    };
    Ok((user + nice + system, user + nice + system + idle + waiting))
}

fn print(rows: &[Row], (name, other): (&str, &str), json: Option<&Path>) -> Result<()> {
    println!(
        "\n{:<34} {:>10} {:>10} {:>7}",
        "tokens per second", "ours", other, "ratio"
    );
    let mut lines = Vec::new();
    for Row {
        case,
        ours,
        peer,
        ratio,
    } in rows
    {
        println!("{case:<34} {ours:>10.1} {peer:>10.1} {ratio:>7.2}");
        lines.push(json!({
            "bench": name, "case": case, "ours": ours, "peer": peer, "ratio": ratio,
            "unit": "tokens/s",
        }));
    }
    keep(&lines, json)
}

/// Writes one JSON line per case, where a file is named.
fn keep(lines: &[Value], json: Option<&Path>) -> Result<()> {
    let Some(path) = json else {
        return Ok(());
    };
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
