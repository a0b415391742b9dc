//! A group of ranks of a tiny model, each on its own memory, as tests take it apart.

use std::fmt;
use std::ops::{Deref, Range};
use std::path::Path;
use std::thread;
use std::time::Duration;

use clap::Parser;
use plimsoll_kernels::comm::{self, Member};
use plimsoll_kernels::device::{Cpu, Device};
use plimsoll_kernels::isa::Isa;
use plimsoll_kernels::pool::Pool;
use plimsoll_kernels::sampling::Params;
use plimsoll_planner::{Account, Plan, Request, weights};

use super::cpu::{CpuRank, Host};
use super::handle::Handle;
use super::input::{SampleRow, StepInput};
use super::{Forward, StepOutput};
use crate::adapters::Dynamic;
use crate::args::{Cli, Command};
use crate::config::{Planned, plan_flags};
use crate::memory::ledger::Ledger;
use crate::memory::snapshot::RankLedger;
use crate::model::{Model, ModelError, ModelFolder};
use crate::weights::testing::{Deeper, TempFolder};
use crate::weights::{TensorInfo, TensorSource};

pub(super) struct Group {
    pub(super) model: Model,
    pub(super) request: Request,
    pub(super) plan: Plan,
    pub(super) ledger: Ledger,
    pub(super) ranks: Vec<(Forward<CpuRank>, Member)>,
}

/// Loaded ranks on the processor, `threads` each.
pub(super) fn tiny(ranks: usize, threads: usize) -> Group {
    tiny_on(&Cpu, ranks, threads)
}

pub(super) fn tiny_on(device: &'static dyn Device, ranks: usize, threads: usize) -> Group {
    let model = model();
    let planned = plan_for(&model, &format!("--tensor-parallel-size {ranks}"));
    group(device, threads, model, planned)
}

/// A model of so many layers on one rank, which offloads some of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deep {
    pub(super) layers: u32,
    pub(super) offloaded: u32,
}

impl Deep {
    fn model(self) -> Model {
        Deeper::of(model(), self.layers)
    }

    pub(super) fn planned(self) -> Planned {
        let model = self.model();
        let free = plan_for(&model, "");
        let shard = &free.plan.ranks[0].shard;
        let layer = weights::layer_bytes(&model.shape, shard, free.request.dtype).get();
        let bytes = (layer * u64::from(self.offloaded)).next_multiple_of(4096);
        match self.offloaded {
            0 => free,
            _ => plan_for(&model, &format!("--cpu-offload {bytes}")),
        }
    }

    pub(super) fn group(self) -> Group {
        group(&Cpu, 2, self.model(), self.planned())
    }
}

/// A fixture of packed weights, loaded by ranks of two threads; `more` are flags.
pub(super) fn packed(name: &str, more: &str) -> Group {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let folder = TempFolder::new();
    for file in ["config.json", "model.safetensors"] {
        let from = fixtures.join("packed").join(name).join(file);
        folder.write(file, std::fs::read(from).unwrap());
    }
    let tokenizer = fixtures.join("models/tiny-llama/tokenizer.json");
    folder.write("tokenizer.json", std::fs::read(tokenizer).unwrap());
    let model = ModelFolder::open(folder.path()).unwrap();
    let planned = plan_for(&model, more);
    group(&Cpu, 2, model, planned)
}

fn model() -> Model {
    let folder = "tests/fixtures/models/tiny-llama";
    ModelFolder::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap()
}

fn plan_for(model: &Model, more: &str) -> Planned {
    let line =
        format!("x plan m --max-num-seqs 2 --max-num-batched-tokens 32 --kv-cache-size 4Mi {more}");
    let Command::Plan(args) = Cli::parse_from(line.split_whitespace()).command else {
        panic!("not a plan")
    };
    plan_flags(&args.memory, model).unwrap()
}

fn group(device: &'static dyn Device, threads: usize, model: Model, planned: Planned) -> Group {
    let Planned { request, plan } = planned;
    let ranks = plan.ranks.len();
    let ledger = Ledger::new(&plan, &request.ranks, request.kv.block_size, &[]);
    let reserve = |rank| {
        let pool = Pool::new(threads, Isa::detect()).unwrap();
        let on = Host { device, pool };
        Forward::<CpuRank>::reserve(on, &ledger, &request, &plan, rank, &model.params).unwrap()
    };
    let (forwards, exchanges): (Vec<_>, Vec<_>) = (0..ranks).map(reserve).unzip();
    let members = comm::group(exchanges, Duration::from_secs(20));
    let mut ranks: Vec<_> = forwards.into_iter().zip(members).collect();
    for (forward, _) in &mut ranks {
        assert!(forward.load(&*model.tensors, |_| true).unwrap());
    }
    Group {
        model,
        request,
        plan,
        ledger,
        ranks,
    }
}

impl Group {
    /// The logits of a prompt's last token, of all ranks, bit for bit, and the token drawn.
    pub(super) fn answer(&mut self, prompt: &[u32]) -> (Vec<u32>, u32) {
        let outputs = self.step(prompt);
        let logits = outputs.iter().flat_map(|output| &output.logits);
        let bits = logits.map(|logit| logit.to_bits()).collect();
        (bits, outputs[0].sampled[0].id)
    }

    /// Computes a prompt on all ranks.
    pub(super) fn step(&mut self, prompt: &[u32]) -> Vec<StepOutput> {
        let input = step(prompt, self.request.kv.block_size);
        self.run(&input)
    }

    /// The same with an adapter, in the first slot of every rank.
    pub(super) fn step_with(&mut self, prompt: &[u32], adapter: &Dynamic) -> Vec<StepOutput> {
        for (forward, _) in &mut self.ranks {
            forward.put_adapter(0, Some(adapter)).unwrap();
        }
        let mut input = step(prompt, self.request.kv.block_size);
        input.adapted_rows = (0..).zip(prompt).map(|(row, _)| row).collect();
        input.adapted_slots = vec![0; prompt.len()];
        self.run(&input)
    }

    fn run(&mut self, input: &StepInput) -> Vec<StepOutput> {
        thread::scope(|scope| {
            let ranks = self.ranks.iter_mut().map(|(forward, member)| {
                scope.spawn(move || {
                    let mut output = StepOutput::default();
                    forward.step(member, input, &mut output).unwrap();
                    output
                })
            });
            let ranks: Vec<_> = ranks.collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    pub(super) fn ledger_of(&self, rank: usize) -> RankLedger {
        self.ledger.snapshot().ranks.swap_remove(rank)
    }

    /// What the plan gives an account of a rank.
    pub(super) fn planned(&self, rank: usize, account: Account) -> u64 {
        self.plan.ranks[rank].bytes(account).get()
    }
}

/// A whole prompt in the first blocks, whose next token is drawn.
fn step(prompt: &[u32], block_size: u32) -> StepInput {
    let count = u32::try_from(prompt.len()).unwrap();
    let blocks = count.div_ceil(block_size);
    let sample = SampleRow {
        params: Params::default(),
        row: count - 1,
        position: count,
        seen: [0; 2],
        drawn: None,
        bias: [0; 2],
        target: None,
    };
    StepInput {
        ids: prompt.to_vec(),
        positions: (0..count).collect(),
        slots: (0..count).map(|at| u64::from(block_size + at)).collect(),
        query_start: vec![0, count],
        context_len: vec![count],
        block_tables: (1..=blocks).collect(),
        table_stride: blocks as usize,
        samples: vec![sample],
        keep_logits: true,
        ..StepInput::default()
    }
}

impl Forward<CpuRank> {
    /// Changes the last byte of a lasting tensor.
    pub(crate) fn flip(&mut self, tensor: &str) {
        let handle = self.lasting(tensor);
        *self.backend.held_mut(handle).last_mut().unwrap() ^= 1;
    }

    /// The same of a streamed one, as nobody may: copies of it stay as they are.
    pub(super) fn flip_unseen(&mut self, tensor: &str) {
        let region = self.lasting(tensor).region;
        let home = self.backend.home_unseen().all_mut::<u8>(region);
        *home.last_mut().unwrap() ^= 1;
    }

    /// Makes a lasting tensor what fresh memory is.
    pub(crate) fn unfill(&mut self, tensor: &str) {
        const POISON: u8 = 0xFF;
        let handle = self.lasting(tensor);
        self.backend.held_mut(handle).fill(POISON);
    }

    fn lasting(&self, tensor: &str) -> Handle {
        let found = self.layout.lasting().find(|(of, _)| of.name == tensor);
        found.unwrap().1
    }
}

/// Rows and columns of one read.
pub(super) type Block = [Range<usize>; 2];

/// A source that is read through `read`, which is given the one behind it.
pub(super) struct Through<S, F> {
    pub(super) inner: S,
    pub(super) read: F,
}

impl<S, F> fmt::Debug for Through<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Through").finish_non_exhaustive()
    }
}

impl<S, F> TensorSource for Through<S, F>
where
    S: Deref<Target = dyn TensorSource> + Send + Sync,
    F: Fn(&dyn TensorSource, &str, Block, &mut [f32]) -> Result<(), ModelError> + Send + Sync,
{
    fn names(&self) -> Vec<&str> {
        self.inner.names()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.inner.info(name)
    }

    fn read_block(
        &self,
        name: &str,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), ModelError> {
        (self.read)(&*self.inner, name, [rows, cols], out)
    }
}
