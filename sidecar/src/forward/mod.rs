//! One rank's part of the model: its memory, its weights, and the pass from tokens to drawn tokens.
//!
//! The pass (`pass`) is a list of ops on handles; a backend carries them out, and keeps the memory
//! that they name, as the layout says. The first is `cpu`.

mod adapters;
pub mod backend;
mod beside;
pub mod cpu;
pub mod handle;
pub mod input;
pub mod layers;
pub mod layout;
mod load;
pub mod lora;
#[cfg(test)]
mod offloaded;
mod pass;
pub mod places;
pub mod products;
mod release;
pub mod resize;
#[cfg(test)]
mod testing;
mod verify;

use std::time::{Duration, Instant};

use plimsoll_kernels::comm::RankFailed;
use plimsoll_kernels::sampling::Sampled;
use plimsoll_planner::{Account, ModelShape, Plan, Request, Shard};

use crate::memory::arena::ArenaError;
use crate::memory::ledger::Ledger;
use crate::memory::registry::{Owner, Registry};
use crate::memory::snapshot::Streamed;
use crate::model::{ModelError, ModelParams};
use crate::weights::TensorSource;
use crate::weights::piece::Piece;
use backend::{Backend, Store};
use input::StepInput;
use layers::Decoder;
use layout::Layout;

pub use verify::{WeightCheck, WeightsChanged};

/// Why a rank's weights could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error("the source gives other weights than were loaded first: {0}")]
    Changed(#[from] WeightsChanged),
    #[error("the account Weights is released: restore it before weights are read")]
    Released,
}

/// A rank with its memory, before and after its weights are read.
#[derive(Debug)]
pub struct Forward<B> {
    shape: ModelShape,
    shard: Shard,
    layout: Layout,
    decoder: Decoder,
    backend: B,
    /// Checksums of the lasting tensors when their load ended.
    loaded: Vec<Option<u64>>,
    /// Of a slot for adapters that is empty.
    empty_slot: Option<u64>,
}

/// What a step leaves on each rank; the tokens are the same on all of them.
#[derive(Debug, Default)]
pub struct StepOutput {
    pub sampled: Vec<Sampled>,
    /// `[samples, rows of this rank's vocabulary]`, when they were asked for.
    pub logits: Vec<f32>,
    /// How long the rank computed, waits for streamed weights included.
    pub computing: Duration,
    pub streamed: Streamed,
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
        let places = (&self.layout.inputs, &self.layout.activations);
        let ended = pass::run(
            &mut self.backend,
            comm,
            &self.decoder,
            places,
            input,
            output,
        );
        output.computing = started.elapsed();
        output.streamed = self.backend.take_streamed();
        ended
    }
}

impl<B: Store> Forward<B> {
    /// Reserves, commits and poisons the rank's memory, and fills what is derived from the
    /// configuration. The second value is the rank's exchange buffer, for the group.
    ///
    /// # Errors
    /// When the plan does not cover a tensor, or the machine does not give the memory.
    pub fn reserve(
        on: B::On,
        ledger: &Ledger,
        request: &Request,
        plan: &Plan,
        rank: usize,
        params: &ModelParams,
    ) -> Result<(Forward<B>, B::Exchange), ArenaError> {
        let asked = (request, plan, plan.kv_blocks);
        Forward::begin(on, ledger, asked, rank, params)
    }

    /// As [`Forward::reserve`], with only the first so many blocks of the KV cache, the null block
    /// included: a resize takes the others later.
    ///
    /// # Errors
    /// As [`Forward::reserve`].
    pub fn begin(
        on: B::On,
        ledger: &Ledger,
        (request, plan, blocks): (&Request, &Plan, u32),
        rank: usize,
        params: &ModelParams,
    ) -> Result<(Forward<B>, B::Exchange), ArenaError> {
        let mut layout = Layout::of(request, plan, rank);
        let (mut backend, exchange) = B::reserve(on, ledger, rank, &layout, blocks)?;
        layout.resize(blocks);
        backend.reach(&layout);
        backend.clear(layout.null_block);
        for slot in &layout.adapters.slots {
            backend.clear(*slot);
        }
        backend.derive(params);
        let shard = plan.ranks[rank].shard.clone();
        let mut forward = Forward {
            decoder: Decoder::of(
                (&layout.weights, &layout.adapters),
                &request.shape,
                &shard,
                params,
            ),
            shape: request.shape.clone(),
            shard,
            layout,
            backend,
            loaded: Vec::new(),
            empty_slot: None,
        };
        forward.empty_slot = forward.sum_of_slot(0);
        Ok((forward, exchange))
    }

    /// Reads the rank's weights into place, see `load::load`, and remembers their checksums; when
    /// it has done so before, the checksums must be the same.
    ///
    /// # Errors
    /// As the tensor source; when the account is released; when the source no longer gives
    /// what was loaded first (the weights are in place then, and [`Forward::verify`] says the same).
    pub fn load(
        &mut self,
        source: &dyn TensorSource,
        progress: impl FnMut(u64) -> bool,
    ) -> Result<bool, LoadError> {
        let first = self.loaded.is_empty();
        let whole = self.overwrite(source, progress)?;
        if whole && first {
            self.remember_weights();
        } else if whole {
            self.verify()?;
        }
        Ok(whole)
    }

    /// Reads weights over those there are and remembers nothing of them: to [`Forward::verify`] they
    /// are changed ones, as is the mixture that a read leaves which ends early.
    ///
    /// # Errors
    /// As the tensor source; when the account is released.
    pub fn overwrite(
        &mut self,
        source: &dyn TensorSource,
        progress: impl FnMut(u64) -> bool,
    ) -> Result<bool, LoadError> {
        if !self.holds_weights() {
            return Err(LoadError::Released);
        }
        let whole = load::load(
            source,
            &self.shape,
            &self.shard,
            &self.layout.weights,
            &mut self.backend,
            progress,
        )?;
        Ok(whole)
    }

    fn holds_weights(&self) -> bool {
        let is_held = |account| self.backend.holds(account, self.layout.bytes(account));
        is_held(Account::Weights) && is_held(Account::Offload)
    }

    /// Makes memory of weights that comes new ready for [`Forward::write`].
    pub fn blank(&mut self) {
        let Forward {
            shape,
            shard,
            layout,
            backend,
            ..
        } = self;
        load::blank(shape, shard, &layout.weights, backend);
    }

    /// Writes some rows of one tensor over those there are; as [`Forward::overwrite`], nothing of it is
    /// remembered.
    ///
    /// # Errors
    /// When the account is released.
    pub fn write(&mut self, piece: &Piece) -> Result<(), LoadError> {
        if !self.holds_weights() {
            return Err(LoadError::Released);
        }
        let Forward {
            shape,
            shard,
            layout,
            backend,
            ..
        } = self;
        load::scatter(piece, shape, shard, &layout.weights, backend)?;
        Ok(())
    }

    /// The weights that there are now are the measure from now on. Tables stay what they have to be:
    /// no update changes them.
    pub fn adopt(&mut self) {
        self.remember(|owner| matches!(owner, Owner::Weight(_)));
    }

    pub fn registry(&self) -> &Registry {
        self.layout.registry()
    }
}
