//! What a rank's memory costs: load, verify, sleep and wake of a model, and the first token of an
//! engine, beside a plain read of its files and memsets of as many bytes; and what it costs to send an
//! engine all of its weights over HTTP on this machine, beside a plain read of the same file and a copy
//! in memory.
//!
//! `cargo bench -p plimsoll-sidecar --bench load -- MODEL [--threads N] [--kv SIZE]` prints one table:
//! the best of three runs, with the model's files in the page cache. `--shape 1B` instead of a model makes
//! one of random numbers in the shape of Llama 3.2 1B (2.5 GB) in the folder for temporary files.
#![expect(clippy::print_stdout, reason = "a table is what it makes")]

mod pushed;
#[path = "../tests/served/mod.rs"]
#[allow(clippy::unwrap_used, reason = "a bench that cannot start ends")]
mod served;
mod shaped;

use std::env;
use std::fs::File;
use std::io::Read;
use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use clap::Parser;
use plimsoll_kernels::device::Cpu;
use plimsoll_kernels::isa::Isa;
use plimsoll_kernels::pool::{self, Pool};
use plimsoll_planner::Account;
use plimsoll_sidecar::args::{Cli, Command};
use plimsoll_sidecar::config::{Planned, plan_flags};
use plimsoll_sidecar::engine::Engine;
use plimsoll_sidecar::engine::config::EngineConfig;
use plimsoll_sidecar::engine::handle::{EngineHandle, EngineState};
use plimsoll_sidecar::engine::request::{GenerateRequest, SamplingParams, TokenEvent};
use plimsoll_sidecar::forward::Forward;
use plimsoll_sidecar::forward::cpu::{CpuRank, Host};
use plimsoll_sidecar::memory::ledger::Ledger;
use plimsoll_sidecar::model::{Model, ModelFolder};

const RUNS: usize = 3;
const WAKE: &str = "wake, level 1";
const MEMSET: &str = "memset, of memory that is there";
const TAKEN: &str = "memset, of memory taken for it";
const TAKEN_BY_ALL: &str = "the same by all threads";
const LEVEL_1: [Account; 4] = [
    Account::KvCache,
    Account::Activations,
    Account::Workspaces,
    Account::Comm,
];

/// Names, bytes and best seconds, in the order in which they were first measured.
#[derive(Default)]
struct Table(Vec<(&'static str, u64, f64)>);

impl Table {
    fn time<T>(
        &mut self,
        name: &'static str,
        bytes: impl Fn(&T) -> u64,
        act: impl FnOnce() -> T,
    ) -> T {
        let start = Instant::now();
        let made = act();
        let (seconds, bytes) = (start.elapsed().as_secs_f64(), bytes(&made));
        match self.0.iter_mut().find(|row| row.0 == name) {
            Some(row) => row.2 = row.2.min(seconds),
            None => self.0.push((name, bytes, seconds)),
        }
        made
    }

    fn print(&self) {
        println!("{:36} {:>10} {:>8}", "", "time", "GB/s");
        for (name, bytes, seconds) in &self.0 {
            let rate = *bytes as f64 / seconds / 1e9;
            println!("{name:36} {:>7.1} ms {rate:>8.2}", seconds * 1e3);
        }
        for beside in [pushed::READ, pushed::COPY] {
            let ratio = self.ratio(pushed::PUSH, beside);
            println!("a push has {ratio:.3} of: {beside}");
        }
        for beside in [MEMSET, TAKEN, TAKEN_BY_ALL] {
            println!("a wake has {:.3} of: {beside}", self.ratio(WAKE, beside));
        }
        let ratio = self.ratio(pushed::FINISH, pushed::PUSH);
        println!("its finish has {ratio:.3} of the push");
    }

    /// How many times faster than that one this is.
    fn ratio(&self, name: &str, than: &str) -> f64 {
        let row = |name: &str| self.0.iter().find(|row| row.0 == name);
        let rate = |name: &str| row(name).map_or(f64::NAN, |(_, bytes, s)| *bytes as f64 / s);
        rate(name) / rate(than)
    }
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).filter(|a| a != "--bench").collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|a| a == name)?;
        arguments.get(at + 1).cloned()
    };
    let made = match value("--shape").as_deref() {
        Some("1B") => Some(shaped::Shaped::write()?),
        Some(other) => anyhow::bail!("--shape {other}: the shape that can be made is 1B"),
        None => None,
    };
    let named = arguments.first().filter(|first| !first.starts_with("--"));
    let Some(path) = made
        .as_ref()
        .map(|made| made.path())
        .or(named.map(Path::new))
    else {
        println!("--bench load -- MODEL|--shape 1B [--threads N] [--kv SIZE]");
        return Ok(());
    };
    let threads = match value("--threads") {
        Some(text) => text.parse()?,
        None => pool::available_cpus(),
    };
    let kv = value("--kv").unwrap_or_else(|| "4Gi".to_owned());
    let model = ModelFolder::open(path)?;
    let line = format!("bench plan m --kv-cache-size {kv}");
    let Command::Plan(args) = Cli::parse_from(line.split_whitespace()).command else {
        unreachable!("the line says plan");
    };
    let planned = plan_flags(&args.memory, &model)?;
    let (request, plan) = (&planned.request, &planned.plan);
    let held = |account| plan.ranks[0].bytes(account).get();
    let (weights, level_1) = (
        held(Account::Weights),
        LEVEL_1.into_iter().map(held).sum::<u64>(),
    );

    let mut table = Table::default();
    for _ in 0..RUNS {
        table.time("plain read of the files", |bytes| *bytes, || read(path));
    }
    of_a_rank(&mut table, (&model, &planned), (weights, level_1), threads)?;
    let model = Arc::new(model);
    of_an_engine(&mut table, (&model, &planned), (weights, level_1), threads)?;
    memset(&mut table, level_1, threads)?;
    let dtype = request.dtype;
    pushed::measure(&mut table, (path, &model), dtype, threads)?;
    println!("{threads} threads, {weights} bytes of weights, {level_1} bytes of level 1");
    table.print();
    Ok(())
}

/// What its memory costs when it is loaded, given back and taken again.
fn of_a_rank(
    table: &mut Table,
    (model, Planned { request, plan }): (&Model, &Planned),
    (weights, level_1): (u64, u64),
    threads: usize,
) -> anyhow::Result<()> {
    let ledger = Ledger::new(plan, &request.ranks, request.kv.block_size, &[]);
    let on = Host {
        device: &Cpu,
        pool: Pool::new(threads, Isa::detect())?,
    };
    let reserve = || Forward::<CpuRank>::reserve(on, &ledger, request, plan, 0, &model.params);
    let (mut forward, exchange) = table.time("reserve", |_| weights + level_1, reserve)?;
    for _ in 0..RUNS {
        table.time(
            "load, with checksums",
            |_| weights,
            || forward.load(&*model.tensors, |_| true),
        )?;
        table.time("verify", |_| weights, || forward.verify())?;
        let sleep = || forward.release(&ledger, &LEVEL_1);
        table.time("sleep, level 1", |_| level_1, sleep)?;
        let wake = || forward.restore(&ledger, &model.params, &LEVEL_1);
        table.time(WAKE, |_| level_1, wake)?;
        let all = [&LEVEL_1[..], &[Account::Weights]].concat();
        let sleep = || forward.release(&ledger, &all);
        table.time("sleep, level 2", |_| weights + level_1, sleep)?;
        let wake = || forward.restore(&ledger, &model.params, &all);
        table.time(
            "wake, level 2, without its load",
            |_| weights + level_1,
            wake,
        )?;
    }
    drop((forward, exchange));
    Ok(())
}

/// From the start to its first token, and to the end of its cache.
fn of_an_engine(
    table: &mut Table,
    (model, Planned { request, plan }): (&Arc<Model>, &Planned),
    (weights, level_1): (u64, u64),
    threads: usize,
) -> anyhow::Result<()> {
    for _ in 0..RUNS {
        let engine = table.time(
            "first token of an engine",
            |_| weights,
            || -> anyhow::Result<_> {
                let config = EngineConfig {
                    threads_per_rank: Some(threads),
                    ..EngineConfig::new(request.clone())
                };
                let engine = Engine::start(config, Arc::clone(model), plan.clone())?;
                first_token(&engine)?;
                Ok(engine)
            },
        )?;
        table.time(
            "and the rest of its KV cache",
            |_| level_1,
            || {
                while engine.rest().filling {
                    thread::yield_now();
                }
            },
        );
    }
    Ok(())
}

/// The measures of a wake: as many bytes set by one thread, in memory that is there and in memory that
/// has to be taken from the kernel first, as a wake has to; and the latter by all threads.
fn memset(table: &mut Table, level_1: u64, threads: usize) -> anyhow::Result<()> {
    let bytes = usize::try_from(level_1)?;
    let pool = Pool::new(threads, Isa::detect())?;
    let mut plain = vec![1u8; bytes];
    for value in 0..RUNS {
        let fill = u8::try_from(value)?;
        table.time(
            MEMSET,
            |_| level_1,
            || {
                std::hint::black_box(&mut plain[..]).fill(fill);
            },
        );
    }
    drop(plain);
    for _ in 0..RUNS {
        table.time(TAKEN, |_| level_1, || vec![1u8; bytes]);
        let mut taken = Vec::with_capacity(bytes);
        table.time(
            TAKEN_BY_ALL,
            |_| level_1,
            || {
                let free = &mut taken.spare_capacity_mut()[..bytes];
                pool.run_rows(free, 1, 2 << 20, |_, piece| {
                    piece.fill(MaybeUninit::new(1u8));
                });
                std::hint::black_box(free);
            },
        );
    }
    Ok(())
}

/// Waits until a request of three tokens is answered with one.
fn first_token(engine: &EngineHandle) -> anyhow::Result<()> {
    while engine.state() == EngineState::Loading {
        thread::yield_now();
    }
    let (events, mut received) = tokio::sync::mpsc::channel(4);
    engine.submit(GenerateRequest {
        id: 1,
        prompt: vec![1, 2, 3],
        sampling: SamplingParams::default(),
        eos: vec![],
        min_tokens: 0,
        bias: vec![],
        prompt_logprobs: None,
        max_tokens: 1,
        adapter: None,
        cache_salt: None,
        events: events.into(),
    })?;
    match received.blocking_recv() {
        Some(TokenEvent::Token { .. }) => Ok(()),
        other => anyhow::bail!("no token came: {other:?}, {:?}", engine.state()),
    }
}

/// Reads the weights' files, or the one that is named, to the end, as `cat` does; bytes read.
fn read(path: &Path) -> u64 {
    let is_weights = |path: &Path| {
        let extension = path.extension().and_then(|e| e.to_str());
        matches!(extension, Some("safetensors" | "gguf"))
    };
    let files = match path.is_dir() {
        true => path
            .read_dir()
            .expect("a folder")
            .flatten()
            .map(|e| e.path())
            .collect(),
        false => vec![path.to_owned()],
    };
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    for file in files.iter().filter(|file| is_weights(file)) {
        let mut file = File::open(file).expect("a file");
        loop {
            match file.read(&mut buffer).expect("a readable file") {
                0 => break,
                count => bytes += count as u64,
            }
        }
    }
    bytes
}
