//! One rank's part of the model: its memory, its weights, and the pass from tokens to drawn tokens.
//!
//! The pass (`pass`) is a list of ops on handles; a backend carries them out. The first is `cpu`.

pub mod backend;
pub mod cpu;
pub mod handle;
pub mod input;
pub mod layers;
mod load;
mod pass;
pub mod places;
mod verify;

use std::time::{Duration, Instant};

use plimsoll_kernels::comm::RankFailed;
use plimsoll_kernels::device::{Buffer, Device};
use plimsoll_kernels::pool::Pool;
use plimsoll_kernels::sampling::Sampled;
use plimsoll_planner::weights::WeightLayout;
use plimsoll_planner::{ModelShape, Plan, Request, Shard};

use crate::memory::arena::{ArenaError, Registry};
use crate::memory::ledger::Ledger;
use crate::model::{Model, ModelError, ModelParams};
use backend::Backend;
use cpu::CpuRank;
use input::StepInput;
use layers::Decoder;
use places::{Activations, Inputs};

pub use verify::WeightCheck;

/// A rank with its memory, before and after its weights are read.
#[derive(Debug)]
pub struct Forward<B> {
    shape: ModelShape,
    shard: Shard,
    layout: WeightLayout,
    decoder: Decoder,
    activations: Activations,
    inputs: Inputs,
    registry: Registry,
    backend: B,
    /// Checksums of the lasting tensors when their load ended.
    loaded: Vec<u64>,
}

/// What a step leaves on each rank; the tokens are the same on all of them.
#[derive(Debug, Default)]
pub struct StepOutput {
    pub sampled: Vec<Sampled>,
    /// `[samples, rows of this rank's vocabulary]`, when they were asked for.
    pub logits: Vec<f32>,
    /// How long the rank computed.
    pub computing: Duration,
}

impl<B: Backend> Forward<B> {
    /// Computes the step's tokens and draws the next token of every sampled row.
    ///
    /// # Errors
    /// When a rank failed.
    pub fn step(
        &mut self,
        comm: &mut B::Comm,
        input: &StepInput,
        output: &mut StepOutput,
    ) -> Result<(), RankFailed> {
        let started = Instant::now();
        let places = (&self.inputs, &self.activations);
        let ended = pass::run(
            &mut self.backend,
            comm,
            &self.decoder,
            places,
            input,
            output,
        );
        output.computing = started.elapsed();
        ended
    }

    pub fn registry(&self) -> &Registry {
        &self.registry
    }
}

impl Forward<CpuRank> {
    /// Reserves, commits and poisons the rank's memory. The second value is the rank's exchange
    /// buffer, for the group.
    ///
    /// # Errors
    /// When the plan does not cover a tensor, or the machine does not give the memory.
    pub fn reserve(
        device: &dyn Device,
        ledger: &Ledger,
        request: &Request,
        plan: &Plan,
        rank: usize,
        params: &ModelParams,
        pool: Pool,
    ) -> Result<(Forward<CpuRank>, Buffer), ArenaError> {
        let reserved = CpuRank::reserve(device, ledger, request, plan, rank, params, pool)?;
        let shard = plan.ranks[rank].shard.clone();
        let forward = Forward {
            decoder: Decoder::of(&reserved.layout, &request.shape, &shard, params),
            shape: request.shape.clone(),
            shard,
            layout: reserved.layout,
            activations: reserved.activations,
            inputs: reserved.inputs,
            registry: reserved.registry,
            backend: reserved.rank,
            loaded: Vec::new(),
        };
        Ok((forward, reserved.exchange))
    }

    /// Reads the rank's weights into place, see `load::load`, and remembers their checksums.
    ///
    /// # Errors
    /// As the model's tensor source.
    pub fn load(
        &mut self,
        model: &Model,
        progress: impl FnMut(u64) -> bool,
    ) -> Result<bool, ModelError> {
        let whole = load::load(
            &*model.tensors,
            &self.shape,
            &self.shard,
            &self.layout,
            &mut self.backend.weights,
            progress,
        )?;
        if whole {
            self.remember_weights();
        }
        Ok(whole)
    }
}
