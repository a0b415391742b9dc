//! Tests of engines that stream a part of their weights: every architecture, every size, the same
//! tokens, awake and after every sleep.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Parser;
use plimsoll_planner::{Account, Dtype, Shard, kv_cache, refit, weights};

use super::Engine;
use super::config::EngineConfig;
use super::control::{Commands, Woken};
use super::handle::{EngineHandle, EngineState};
use super::request::{GenerateRequest, SamplingParams, TokenEvent};
use super::rest::{PauseMode, SleepLevel, Tags};
use super::sabotage::tests::comes_to;
use super::sabotage::{Fault, Moment};
use super::size::Size;
use crate::args::{Cli, Command};
use crate::config::{Planned, plan_flags};
use crate::model::{Model, ModelFolder};
use crate::weights::testing::Deeper;

const LAYERS: u32 = 5;

fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
    let entries = std::fs::read_dir(folder).unwrap();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders
}

fn deep(folder: &Path) -> Model {
    Deeper::of(ModelFolder::open(folder).unwrap(), LAYERS)
}

fn planned(model: &Model, ranks: usize, more: &str) -> Planned {
    let line = format!(
        "x plan m --max-num-seqs 4 --max-num-batched-tokens 32 --kv-cache-size 1Mi \
         --max-model-len 64 --dtype float32 --tensor-parallel-size {ranks} {more}"
    );
    let Command::Plan(args) = Cli::parse_from(line.split_whitespace()).command else {
        panic!("not a plan")
    };
    plan_flags(&args.memory, model).unwrap()
}

/// A plan in which every rank offloads at least so many layers.
fn offloading(model: &Model, ranks: usize, layers: u64) -> Planned {
    let (shape, whole) = (&model.shape, Shard::whole(&model.shape));
    let bytes = weights::layer_bytes(shape, &whole, Dtype::Float32).get() * layers;
    let flag = format!("--cpu-offload {}", bytes.next_multiple_of(4096));
    planned(model, ranks, &flag)
}

fn start(model: Model, planned: Planned) -> EngineHandle {
    let Planned { request, plan } = planned;
    let config = EngineConfig {
        threads_per_rank: Some(1),
        ..EngineConfig::new(request)
    };
    let handle = Engine::start(config, Arc::new(model), plan).unwrap();
    let loaded = comes_to(&handle, |state| *state != EngineState::Loading);
    assert_eq!(loaded, EngineState::Serving);
    handle
}

/// Greedy tokens after two prompts that run side by side.
fn answers(handle: &EngineHandle) -> Vec<Vec<u32>> {
    read(ask(handle, 10), 10)
}

type Events = tokio::sync::mpsc::Receiver<TokenEvent>;

fn ask(handle: &EngineHandle, max_tokens: u32) -> Vec<Events> {
    let prompts = [vec![5, 17, 99, 200, 31, 7, 8, 9], vec![64, 3, 2, 1, 90, 91]];
    let ask = |(id, prompt): (u64, Vec<u32>)| {
        let (events, received) = tokio::sync::mpsc::channel(64);
        let request = GenerateRequest {
            id,
            prompt,
            sampling: SamplingParams::default(),
            eos: vec![],
            min_tokens: 0,
            bias: vec![],
            prompt_logprobs: None,
            max_tokens,
            adapter: None,
            cache_salt: None,
            events: events.into(),
        };
        handle.submit(request).unwrap();
        received
    };
    (0..).zip(prompts).map(ask).collect()
}

fn read(asked: Vec<Events>, tokens: usize) -> Vec<Vec<u32>> {
    let read = |mut events: Events| {
        let mut ids = Vec::new();
        while let Some(event) = events.blocking_recv() {
            if let TokenEvent::Token { id, .. } = event {
                ids.push(id);
            }
        }
        assert_eq!(ids.len(), tokens);
        ids
    };
    asked.into_iter().map(read).collect()
}

#[test]
fn every_architecture_answers_as_it_does_without_offload_whatever_is_offloaded() {
    let folders = fixtures();
    assert!(folders.len() >= 9, "{folders:?}");
    for folder in folders {
        let resident = start(deep(&folder), planned(&deep(&folder), 1, ""));
        let expected = answers(&resident);
        for (ranks, layers) in [(1, 3), (1, 5), (2, 3)] {
            let planned = offloading(&deep(&folder), ranks, layers);
            let most = planned.plan.offload(&planned.request);
            let fewest = most.iter().map(|offload| offload.layers.into()).min();
            assert!(fewest >= Some(layers), "{}: {most:?}", folder.display());
            let handle = start(deep(&folder), planned);
            let what = format!("{} on {ranks} ranks, {layers} layers", folder.display());
            assert_eq!(answers(&handle), expected, "{what}");
            for level in [SleepLevel::One, SleepLevel::Two] {
                assert_eq!(handle.sleep(level, PauseMode::Keep).wait(), Ok(()));
                let woken = handle.wake(Tags::ALL).wait();
                assert_eq!(woken, Ok(Woken { asleep: false }), "{what}");
                assert_eq!(answers(&handle), expected, "{what} after {level:?}");
            }
        }
    }
}

fn offloaded(handle: &EngineHandle) -> u64 {
    let ranks = handle.memory().ranks;
    let rows = ranks.iter().flat_map(|rank| &rank.accounts);
    let rows = rows.filter(|row| row.account == Account::Offload);
    rows.map(|row| row.reserved.get()).sum()
}

#[test]
fn host_memory_sleeps_with_the_weights_and_a_flipped_byte_of_it_keeps_the_engine_out() {
    let folder = &fixtures()[0];
    let planned = offloading(&deep(folder), 1, 4);
    let host = planned.plan.ranks[0].bytes(Account::Offload).get();
    assert!(host > 0);
    let handle = start(deep(folder), planned);
    let sleep = |level| handle.sleep(level, PauseMode::Keep).wait();
    assert_eq!(sleep(SleepLevel::One), Ok(()));
    assert_eq!(offloaded(&handle), host);
    assert_eq!(sleep(SleepLevel::Two), Ok(()));
    assert_eq!(offloaded(&handle), 0);
    handle.sabotage().plan(Fault {
        rank: 0,
        moment: Moment::Restored,
        tensor: Some("GateUp { layer: 1 }"),
    });
    let refused = handle.wake(Tags::ALL).wait().unwrap_err().to_string();
    assert!(refused.contains("GateUp { layer: 1 }"), "{refused}");
    assert_eq!(sleep(SleepLevel::Two), Ok(()));
    assert!(handle.wake(Tags::ALL).wait().is_ok());
    assert_eq!(offloaded(&handle), host);
}

/// Up and down between the least that holds the longest sequence and much more, while requests run:
/// their tokens are those of an engine that has all in place, and host memory stays as it is.
#[test]
fn sizes_come_and_go_under_requests_and_change_no_token_whatever_is_offloaded() {
    const TOKENS: u32 = 50;
    let (mut moved, mut preempted) = (0, 0);
    for folder in fixtures() {
        let resident = start(deep(&folder), planned(&deep(&folder), 1, ""));
        let expected = read(ask(&resident, TOKENS), 50);
        for (ranks, layers) in [(1, 5), (2, 3)] {
            let Planned { request, plan } = offloading(&deep(&folder), ranks, layers);
            let shards = plan.ranks.iter().map(|rank| rank.shard.clone());
            let shards: Vec<Shard> = shards.collect();
            let sizes = [5, 40, 9, 64].map(|blocks| {
                let block = plan
                    .ranks
                    .iter()
                    .map(|rank| kv_cache::block_bytes(&request.shape, &rank.shard, &request.kv));
                let bytes = block.max().unwrap().saturating_mul(blocks + 1);
                let mut request = request.clone();
                request.kv.size = Some(bytes);
                let plan = refit(&request, &shards, plan.max_model_len).unwrap();
                let capacities = request.ranks;
                Arc::new(Size { plan, capacities })
            });
            let handle = start(deep(&folder), Planned { request, plan });
            let host = offloaded(&handle);
            let what = format!("{} on {ranks} ranks", folder.display());
            let asked = ask(&handle, TOKENS);
            let runs = || asked.iter().any(|events| !events.is_closed());
            for size in sizes.iter().cycle().take_while(|_| runs()) {
                let resized = handle.resize(Arc::clone(size)).wait().unwrap();
                moved += resized.moved;
                preempted += resized.preempted;
            }
            assert_eq!(read(asked, 50), expected, "{what}");
            assert!(host > 0);
            assert_eq!(offloaded(&handle), host, "{what}");
        }
    }
    assert!(
        moved > 0 && preempted > 0,
        "{moved} moved, {preempted} preempted"
    );
}
