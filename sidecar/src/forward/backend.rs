//! What a device does for the pass: every op, on handles, in the order in which it is asked.
//!
//! The pass (`pass`) is written once against this trait. A backend owns the rank's memory and
//! knows how to compute; it knows no model, and no order of ops. Shapes that do not fit are our
//! mistake, so ops assert; what a device refuses at run time ends its thread.

use plimsoll_kernels::comm::RankFailed;
use plimsoll_kernels::sampling::VocabShard;

use super::StepOutput;
use super::handle::Handle;
use super::input::{SampleRow, StepInput};
use super::layers::{Attention, Embedding, Matrix, Norm};
use super::places::Inputs;

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

/// One rank's device. Activations are rows of numbers without gaps.
pub trait Backend {
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

    /// `out` = the rows of `x`, normalised.
    fn norm(&mut self, x: Handle, norm: &Norm, out: Handle, rows: usize);

    /// `stream` += `x`; `out` = the rows of `stream`, normalised.
    fn add_norm(&mut self, x: Handle, stream: Handle, norm: &Norm, out: Handle, rows: usize);

    /// `out` = rows of `x` times the matrix, plus its bias. A rank without columns contributes its
    /// bias alone.
    fn project(&mut self, x: Handle, by: &Matrix, out: Handle, rows: usize);

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
