//! What a device does: it keeps a rank's memory ([`Store`]) and carries out the ops of the pass
//! ([`Backend`]), on handles, in the order in which it is asked.
//!
//! The pass (`pass`), reading weights (`load`) and comparing them later (`verify`) are written once
//! against these traits. A device knows no model, no files, and no order of ops. Shapes that do not fit are our
//! mistake, so ops assert; what a device refuses at run time ends its thread.

use std::ops::Range;

use plimsoll_kernels::comm::RankFailed;
use plimsoll_kernels::sampling::VocabShard;
use plimsoll_planner::{Account, Bytes};

use super::StepOutput;
use super::handle::Handle;
use super::input::{SampleRow, StepInput};
use super::layers::{Attention, Embedding, Matrix, Norm};
use super::layout::Layout;
use super::lora::Adaption;
use super::places::Inputs;
use crate::cache::blocks::Move;
use crate::memory::arena::ArenaError;
use crate::memory::ledger::Ledger;
use crate::memory::snapshot::Streamed;
use crate::model::{ModelError, ModelParams};

/// The step's sequences, as `Backend::describe` left them on the device.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    pub inputs: &'a Inputs,
    /// Rows of all sequences.
    pub rows: usize,
    pub sequences: usize,
    /// Blocks of each sequence in the block tables.
    pub table_stride: usize,
}

/// Reads some rows of a weight into bytes that are as long: numbers of its type, or whole blocks.
pub type ReadRows<'a> = dyn Fn(Range<usize>, &mut [u8]) -> Result<(), ModelError> + Sync + 'a;

/// Adapters whose factors have no place on the device: the host adds what they make of some rows.
pub trait HostAdapters: std::fmt::Debug + Send {
    /// As [`Backend::adapt`], of every row.
    fn add(&mut self, by: &Adaption, rows: usize, x: &[f32], out: &mut [f32]);

    /// Why something was not added.
    fn failed(&mut self) -> Option<ModelError>;
}

/// One rank's memory, from its reservation on.
pub trait Store: Sized {
    /// What a rank is made on: its device, its threads.
    type On;
    /// The end of the memory that the group exchanges sums through.
    type Exchange;

    /// Reserves every account of the layout at the address that it keeps, and charges, commits and
    /// poisons it: of the KV cache its first `blocks` blocks. Only the exchange's end for the group
    /// leaves it again.
    ///
    /// # Errors
    /// When the plan does not cover an account, or the machine does not give the memory.
    fn reserve(
        on: Self::On,
        ledger: &Ledger,
        rank: usize,
        layout: &Layout,
        blocks: u32,
    ) -> Result<(Self, Self::Exchange), ArenaError>;

    /// Whether the first `bytes` of an account have memory.
    fn holds(&self, account: Account, bytes: Bytes) -> bool;

    /// Gives all memory of an account back and tells how much that was; an account that is none of
    /// the store's has none. What a step left that means nothing without it is forgotten.
    ///
    /// # Errors
    /// When the machine does not take it; the account is then held as before, but its contents
    /// are lost.
    fn release(&mut self, ledger: &Ledger, account: Account) -> Result<Bytes, ArenaError>;

    /// Commits the first `bytes` of an account again, at the same addresses and poisoned, and tells
    /// how many came new: none where they are there.
    ///
    /// # Errors
    /// When the plan does not cover them, or the machine does not give them; the account is then
    /// as before.
    fn restore(
        &mut self,
        ledger: &Ledger,
        account: Account,
        bytes: Bytes,
    ) -> Result<Bytes, ArenaError>;

    /// Gives back what an account has past its first `bytes` and tells how much that was.
    ///
    /// # Errors
    /// When the machine does not take it; it is held then, its contents are lost.
    fn trim(
        &mut self,
        ledger: &Ledger,
        account: Account,
        bytes: Bytes,
    ) -> Result<Bytes, ArenaError>;

    /// Copies whole blocks of the KV cache, all layers. No block is read that another move writes.
    fn copy_blocks(&mut self, moves: &[Move]);

    /// The KV cache is as this layout has it from now on.
    fn reach(&mut self, layout: &Layout);

    /// Fills the tensors that are computed from the configuration.
    fn derive(&mut self, params: &ModelParams);

    /// Fills a tensor with zeros.
    fn clear(&mut self, tensor: Handle);

    /// Writes numbers into an f32 tensor, from its number `first` on.
    fn write(&mut self, to: Handle, first: usize, numbers: &[f32]);

    /// Of a slot for adapters, the rank of each matrix; 0 where it is not changed.
    fn set_ranks(&mut self, slot: usize, ranks: &[u32]);

    /// [`Backend::adapt`] adds these to every row from now on; those before them are given back.
    fn lay_beside(
        &mut self,
        adapters: Option<Box<dyn HostAdapters>>,
    ) -> Option<Box<dyn HostAdapters>>;

    /// Puts whole rows of a weight in their place, in the handle's format. `read` gives rows as
    /// `[rows, cols]` numbers of the weight's dtype, of a list as u32; it is asked for each once, by several threads
    /// at a time.
    ///
    /// # Errors
    /// The first that `read` gives.
    fn fill(
        &mut self,
        to: &Matrix,
        rows: Range<usize>,
        read: &ReadRows<'_>,
    ) -> Result<(), ModelError>;

    /// One checksum for each tensor, the same on every device that holds the same bytes. Reads each
    /// once.
    fn checksums(&self, of: &[Handle]) -> Vec<u64>;

    /// The same of the copies that ops read in the place of streamed tensors, as the copies are now;
    /// none where there is no copy. Waits for copies that are under way.
    fn copies(&self, of: &[Handle]) -> Vec<Option<u64>>;
}

/// One rank's device. Activations are rows of numbers without gaps.
pub trait Backend: Store {
    /// The rank's place in its group.
    type Comm;

    /// Brings the step's description into the rank's memory, with what `sample` drew last in the
    /// place of the tokens that are carried over.
    fn describe(&mut self, inputs: &Inputs, input: &StepInput);

    /// One row of the table per token id; rows of other ranks are zeros.
    fn embed(&mut self, batch: &Batch<'_>, table: &Embedding, out: Handle);

    /// The first `count` numbers of `from` to `to`.
    fn copy(&mut self, from: Handle, to: Handle, count: usize);

    /// Adds the first `count` numbers over all ranks, in rank order; every rank has the sum.
    ///
    /// # Errors
    /// When a rank failed.
    fn sum(&mut self, comm: &mut Self::Comm, of: Handle, count: usize) -> Result<(), RankFailed>;

    /// Waits until the matrices of a streamed layer lie where ops read them. Every step asks for all
    /// streamed layers, in their order. A layer that does not come ends the rank's thread.
    fn begin_layer(&mut self, layer: usize);

    /// The layer's matrices are read no more: the one after the next may take their place.
    fn end_layer(&mut self);

    /// What was streamed since this was last asked.
    fn take_streamed(&mut self) -> Streamed;

    /// `out` = the rows of `x`, normalised.
    fn norm(&mut self, x: Handle, norm: &Norm, out: Handle, rows: usize);

    /// `stream` += `x`; `out` = the rows of `stream`, normalised.
    fn add_norm(&mut self, x: Handle, stream: Handle, norm: &Norm, out: Handle, rows: usize);

    /// `out` = rows of `x`, in each the numbers whose places the list has.
    fn gather(&mut self, x: Handle, columns: Handle, out: Handle, rows: usize);

    /// `out` = rows of `x` times the matrix, plus its bias. A rank without columns contributes its
    /// bias alone.
    fn project(&mut self, x: Handle, by: &Matrix, out: Handle, rows: usize);

    /// Adds to `out`, of the step's rows that have an adapter, what that makes of the same rows of `x`;
    /// and of all rows what adapters make that are laid beside.
    fn adapt(&mut self, x: Handle, by: &Adaption, out: Handle, rows: usize);

    /// Norms and rotates the q and k heads of every row, and writes k and v into the cache.
    fn rope_kv(&mut self, qkv: Handle, how: &Attention, batch: &Batch<'_>);

    /// Attends every row to its sequence's keys and values.
    fn attend(&mut self, qkv: Handle, how: &Attention, batch: &Batch<'_>, out: Handle);

    /// `out` = SiLU(gate) x up, of rows of `columns` gates and as many ups.
    fn silu_mul(&mut self, gate_up: Handle, out: Handle, rows: usize, columns: usize);

    /// Moves the sampled rows, of `width` numbers, to the front.
    fn pick(&mut self, of: Handle, samples: &[SampleRow], width: usize);

    /// Draws a token per sampled row from the logits `[samples, shard.rows]`, which it changes.
    /// Every rank draws the same.
    ///
    /// # Errors
    /// When a rank failed.
    fn sample(
        &mut self,
        comm: &mut Self::Comm,
        logits: Handle,
        shard: VocabShard,
        input: &StepInput,
        output: &mut StepOutput,
    ) -> Result<(), RankFailed>;
}
