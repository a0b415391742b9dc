//! Starting engines on fixture models with any split, and asking them for tokens.
#![allow(unreachable_pub, reason = "shared by several test binaries")]
#![allow(clippy::cast_possible_truncation, reason = "a handful of ranks")]
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]

pub mod adapted;
pub mod altered;
pub mod blocks;
pub mod compared;
pub mod fixture;
pub mod sent;
mod splits;
pub mod watched;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use plimsoll_planner::request::Utilization;
use plimsoll_planner::{
    Account, AdapterSlots, BlockCompute, Bytes, Dtype, KvDtype, KvLayout, Limits, ModelShape, Plan,
    Quantization, RankCapacity, RankPlan, Request, Shard, adapters, kv_cache, request::Backend,
    scratch, weights,
};
use plimsoll_sidecar::engine::Engine;
use plimsoll_sidecar::engine::config::EngineConfig;
use plimsoll_sidecar::engine::handle::{EngineHandle, EngineState};
use plimsoll_sidecar::engine::request::{
    Finished, GenerateRequest, Refused, SamplingParams, TokenEvent, TokenLogprobs,
};
use plimsoll_sidecar::engine::size::Size;
use plimsoll_sidecar::model::{Model, ModelFolder};

#[allow(unused_imports, reason = "each test binary uses its part")]
pub use splits::{cut, split};

/// What differs between two runs of one model.
#[derive(Clone, Debug)]
pub struct Run {
    pub shards: Vec<Shard>,
    pub dtype: Dtype,
    pub quantization: Quantization,
    pub compute: BlockCompute,
    pub kv_dtype: KvDtype,
    pub block_size: u32,
    /// Blocks beside the null block.
    pub kv_blocks: u32,
    pub max_model_len: u32,
    pub max_num_seqs: u32,
    pub max_num_batched_tokens: u32,
    pub isa: Option<String>,
    pub prefix_cache: bool,
    pub max_waiting: usize,
    pub threads: usize,
    /// Slots for adapters, and their largest rank.
    pub adapters: AdapterSlots,
    pub steps_under_way: usize,
    pub probe: bool,
}

impl Run {
    /// [`Run::whole`] on two ranks with one KV head each.
    pub fn on_two_ranks(model: &Model) -> Run {
        Run {
            shards: halves(model),
            ..Run::whole(&model.shape)
        }
    }

    /// One rank, everything in float, room for all.
    pub fn whole(shape: &ModelShape) -> Run {
        let float = Dtype::Float32;
        Run {
            shards: vec![Shard::whole(shape)],
            dtype: float,
            quantization: Quantization::Auto,
            compute: BlockCompute::Exact,
            kv_dtype: float.into(),
            block_size: 16,
            kv_blocks: 200,
            max_model_len: shape.context.min(512),
            max_num_seqs: 16,
            max_num_batched_tokens: 256,
            isa: None,
            prefix_cache: true,
            max_waiting: 256,
            threads: 1,
            adapters: AdapterSlots::NONE,
            steps_under_way: 2,
            probe: true,
        }
    }
}

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

pub fn open(path: &Path) -> Arc<Model> {
    Arc::new(ModelFolder::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

/// A plan with exactly these shards, as the planner would fill it.
pub fn plan(request: &Request, run: &Run) -> Plan {
    let Request {
        shape,
        backend,
        kv,
        limits,
        ..
    } = request;
    let ranks = run.shards.len() as u32;
    let granule = scratch::granule(*backend);
    let rank = |(index, shard): (u32, &Shard)| {
        let workspaces = scratch::workspaces(request, shard, run.max_model_len);
        let kv_bytes = kv_cache::block_bytes(shape, shard, kv);
        let accounts = [
            (
                Account::Weights,
                weights::layout(shape, shard, request.kept(), index).total(),
            ),
            (
                Account::KvCache,
                kv_bytes.saturating_mul(u64::from(run.kv_blocks) + 1),
            ),
            (
                Account::Activations,
                scratch::activations(request, shard).total(),
            ),
            (Account::Comm, scratch::comm(shape, limits, ranks).total()),
            (Account::Workspaces, workspaces.total()),
            (
                Account::Adapters,
                adapters::layout(shape, shard, limits, run.adapters).total(),
            ),
        ];
        let accounts: Vec<(Account, Bytes)> = accounts
            .map(|(account, bytes)| (account, bytes.round_up(granule)))
            .to_vec();
        let budget = accounts.iter().map(|(_, bytes)| *bytes).sum();
        RankPlan {
            rank: index,
            shard: shard.clone(),
            budget,
            accounts,
        }
    };
    Plan {
        ranks: (0..).zip(&run.shards).map(rank).collect(),
        kv_blocks: run.kv_blocks + 1,
        kv_tokens: u64::from(run.kv_blocks) * u64::from(run.block_size),
        max_model_len: run.max_model_len,
    }
}

/// An engine that serves.
pub fn start(model: &Arc<Model>, run: &Run) -> EngineHandle {
    let handle = start_unloaded(model, run);
    wait_for(&handle, |state| *state == EngineState::Serving);
    handle
}

pub fn start_unloaded(model: &Arc<Model>, run: &Run) -> EngineHandle {
    let request = planner_request(model, run, vec![None; run.shards.len()]);
    let plan = plan(&request, run);
    start_planned(model, run, request, plan)
}

/// A run's size with another number of blocks beside the null block.
pub fn size(model: &Model, run: &Run, kv_blocks: u32) -> Arc<Size> {
    let request = planner_request(model, run, vec![None; run.shards.len()]);
    let run = Run {
        kv_blocks,
        ..run.clone()
    };
    Arc::new(Size {
        plan: plan(&request, &run),
        capacities: request.ranks,
    })
}

/// What the planner would be asked for a run, with these quotas.
pub fn planner_request(model: &Model, run: &Run, quotas: Vec<Option<Bytes>>) -> Request {
    let capacity = |quota| RankCapacity { quota, total: None };
    Request {
        shape: model.shape.clone(),
        backend: Backend::Cpu,
        dtype: run.dtype,
        quantization: run.quantization,
        compute: run.compute,
        kv: KvLayout {
            dtype: run.kv_dtype,
            block_size: run.block_size,
            size: None,
        },
        cpu_offload: None,
        adapters: run.adapters,
        limits: Limits {
            max_model_len: Some(run.max_model_len),
            max_num_seqs: run.max_num_seqs,
            max_num_batched_tokens: run.max_num_batched_tokens,
        },
        utilization: Utilization(900),
        ranks: quotas.into_iter().map(capacity).collect(),
    }
}

/// An engine that loads, with this very plan.
pub fn start_planned(model: &Arc<Model>, run: &Run, request: Request, plan: Plan) -> EngineHandle {
    let config = config(run, request);
    Engine::start(config, Arc::clone(model), plan).unwrap()
}

/// What an engine of a run is started with.
pub fn config(run: &Run, request: Request) -> EngineConfig {
    let mut config = EngineConfig::new(request);
    config.isa = run.isa.clone();
    config.prefix_cache = run.prefix_cache;
    config.max_waiting = run.max_waiting;
    config.threads_per_rank = Some(run.threads);
    config.steps_under_way = run.steps_under_way;
    config.probe = run.probe;
    config
}

/// Waits for a state, at most two minutes.
pub fn wait_for(handle: &EngineHandle, wanted: impl Fn(&EngineState) -> bool) {
    for _ in 0..12_000 {
        let state = handle.state();
        if wanted(&state) {
            return;
        }
        assert!(!matches!(state, EngineState::Failed { .. }), "{state:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("still {:?} after two minutes", handle.state());
}

/// One request's way out of the engine.
#[derive(Debug)]
pub struct Answer {
    events: tokio::sync::mpsc::Receiver<TokenEvent>,
    logits: mpsc::Receiver<Vec<f32>>,
}

#[derive(Debug)]
pub struct Answered {
    pub ids: Vec<u32>,
    /// Per token, the logits it was drawn from.
    pub logits: Vec<Vec<f32>>,
    /// Of the prompt's tokens from the second on, where they were asked for.
    pub prompt: Vec<TokenLogprobs>,
    /// None when the engine dropped the channel without a word.
    pub finished: Option<Finished>,
}

pub fn request(
    id: u64,
    prompt: &[u32],
    max_tokens: u32,
) -> (GenerateRequest, tokio::sync::mpsc::Receiver<TokenEvent>) {
    let (events, received) = tokio::sync::mpsc::channel(max_tokens as usize + 2);
    let request = GenerateRequest {
        id,
        prompt: prompt.to_vec(),
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
    (request, received)
}

/// Asks for `max_tokens` greedy tokens, with logits.
pub fn ask(handle: &EngineHandle, id: u64, prompt: &[u32], max_tokens: u32) -> Answer {
    let (request, events) = request(id, prompt, max_tokens);
    let (sink, logits) = mpsc::channel();
    handle.submit_with_logits(request, sink).unwrap();
    Answer { events, logits }
}

/// Asks for `max_tokens` greedy tokens.
pub fn ask_ids(handle: &EngineHandle, id: u64, prompt: &[u32], max_tokens: u32) -> Answer {
    try_ask(handle, id, prompt, max_tokens).unwrap()
}

/// The same of an engine that may refuse.
pub fn try_ask(
    handle: &EngineHandle,
    id: u64,
    prompt: &[u32],
    max_tokens: u32,
) -> Result<Answer, Refused> {
    let (request, events) = request(id, prompt, max_tokens);
    let logits = mpsc::channel().1;
    let answer = Answer { events, logits };
    handle.submit(request).map(|()| answer)
}

/// Asks how likely every token of the prompt is, and for `max_tokens` greedy tokens after it.
pub fn score(handle: &EngineHandle, id: u64, prompt: &[u32], max_tokens: u32) -> Answer {
    let (events, received) = tokio::sync::mpsc::channel(max_tokens as usize + prompt.len() + 2);
    let (mut request, _) = request(id, prompt, max_tokens);
    request.events = events.into();
    request.prompt_logprobs = Some(2);
    handle.submit(request).unwrap();
    Answer {
        events: received,
        logits: mpsc::channel().1,
    }
}

impl Answer {
    /// Waits for so many events: nothing of them is lost, they are read again by [`Answer::wait`].
    pub fn wait_for(&self, count: usize) {
        eventually("a token", || self.events.len() >= count);
    }

    /// Events that wait to be read.
    pub fn events(&self) -> usize {
        self.events.len()
    }

    /// Waits for the end.
    pub fn wait(mut self) -> Answered {
        let mut answered = Answered {
            ids: vec![],
            logits: vec![],
            prompt: vec![],
            finished: None,
        };
        while let Some(event) = self.events.blocking_recv() {
            match event {
                TokenEvent::Prompt(scores) => answered.prompt.extend(scores),
                TokenEvent::Token { id, .. } => answered.ids.push(id),
                TokenEvent::Finished(finished) => answered.finished = Some(finished),
            }
        }
        answered.logits = self.logits.try_iter().collect();
        answered
    }
}

pub fn tiny() -> Arc<Model> {
    open(&fixtures().join("models/tiny-llama"))
}

/// Two ranks with one KV head each.
pub fn halves(model: &Model) -> Vec<Shard> {
    let shape = &model.shape;
    let half = |kv: Range<u32>, mlp: Range<u32>, vocab: Range<u32>| Shard {
        query_heads: kv.start * shape.group()..kv.end * shape.group(),
        kv_heads: kv,
        mlp_columns: mlp,
        vocab_rows: vocab,
    };
    vec![
        half(0..1, 0..128, 0..320),
        half(1..2, 128..shape.ffn, 320..shape.vocab),
    ]
}

/// Polls until `done`, at most 20 seconds.
pub fn eventually(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < end, "{what} never happened");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A small generator of choices: the same seed tells the same story.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) as usize % sides
    }
}
