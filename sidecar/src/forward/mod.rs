//! One rank's part of the model: its memory, its weights, and the pass from tokens to logits.
//!
//! ```text
//! embedding ─ sum ─► residual
//! layer:  norm ─► qkv ─► rope + KV write ─► attention ─► output ─ sum ─► residual +=
//!         norm ─► gate, up ─► SiLU(gate) x up ─► down ─ sum ─► residual +=
//! rows that are sampled:  norm ─► head ─► logits of this rank's vocabulary ─► sampling
//! ```
//! "sum" is the sum over ranks. All ranks run the same steps in the same order.

pub mod input;
mod layers;
mod load;
mod pass;
mod tensors;
mod verify;

use plimsoll_kernels::comm::{Collective, Member, RankFailed};
use plimsoll_kernels::device::{Buffer, Device};
use plimsoll_kernels::pool::Pool;
use plimsoll_kernels::sampling::{self, Sampled, Sampler, VocabShard};
use plimsoll_planner::{ModelShape, Plan, Request, Shard};

use crate::memory::arena::{ArenaError, Registry};
use crate::memory::ledger::Ledger;
use crate::model::{Model, ModelError, ModelParams};
use input::StepInput;
use layers::Decoder;
use tensors::Tensors;

pub use verify::WeightCheck;

/// A rank with its memory, before and after its weights are read.
#[derive(Debug)]
pub struct Forward {
    shape: ModelShape,
    params: ModelParams,
    shard: Shard,
    decoder: Decoder,
    tensors: Tensors,
    pool: Pool,
    sampler: Sampler,
    /// Checksums of the lasting tensors when their load ended.
    loaded: Vec<u64>,
}

/// What a step leaves on each rank; the tokens are the same on all of them.
#[derive(Debug, Default)]
pub struct StepOutput {
    pub sampled: Vec<Sampled>,
    /// `[samples, rows of this rank's vocabulary]`, when they were asked for.
    pub logits: Vec<f32>,
}

impl Forward {
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
    ) -> Result<(Forward, Buffer), ArenaError> {
        let (tensors, exchange) = Tensors::reserve(device, ledger, request, plan, rank, params)?;
        let forward = Forward {
            shape: request.shape.clone(),
            params: params.clone(),
            shard: plan.ranks[rank].shard.clone(),
            decoder: Decoder::of(&tensors.layout, request.shape.layers),
            tensors,
            pool,
            sampler: Sampler::default(),
            loaded: Vec::new(),
        };
        Ok((forward, exchange))
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
        let Tensors {
            weights, layout, ..
        } = &mut self.tensors;
        let whole = load::load(
            &*model.tensors,
            &self.shape,
            &self.shard,
            layout,
            weights,
            progress,
        )?;
        if whole {
            self.remember_weights();
        }
        Ok(whole)
    }

    pub fn registry(&self) -> &Registry {
        &self.tensors.registry
    }

    /// Computes the step's tokens and draws the next token of every sampled row.
    ///
    /// # Errors
    /// When a rank failed.
    pub fn step(
        &mut self,
        comm: &mut Member,
        input: &StepInput,
        output: &mut StepOutput,
    ) -> Result<(), RankFailed> {
        self.pass(comm, input)?;
        let width = self.shard.vocab_row_count() as usize;
        let Tensors {
            activations,
            workspaces,
            ..
        } = &mut self.tensors;
        let logits = activations
            .logits
            .range_mut::<f32>(0, input.samples.len() * width);
        output.logits.clear();
        if input.keep_logits {
            output.logits.extend_from_slice(logits);
        }
        let shard = VocabShard {
            first: self.shard.vocab_rows.start,
            rows: self.shard.vocab_row_count(),
        };
        let rows: Vec<sampling::Row<'_>> = input
            .samples
            .iter()
            .map(|sample| {
                let [start, output, end] = sample.history;
                sampling::Row {
                    params: &sample.params,
                    prompt: &input.history[start..output],
                    output: &input.history[output..end],
                    position: sample.position,
                }
            })
            .collect();
        sampling::run(
            &self.pool,
            comm as &mut dyn Collective,
            &mut self.sampler,
            shard,
            &rows,
            logits,
            workspaces.sampling.as_mut_slice(),
            &mut output.sampled,
        )
    }
}
