//! The pass itself: which op reads and writes which tensor, in order. Written once for all devices.
//!
//! ```text
//! embedding ─ sum ─► residual
//! layer:  norm ─► qkv ─► rope + KV write ─► attention ─► output ─ sum ─► residual +=
//!         norm ─► gate, up ─► SiLU(gate) x up ─► down ─ sum ─► residual +=
//! rows that are sampled:  norm ─► head ─► logits of this rank's vocabulary ─► sampling
//! ```
//! Adapters add to the products of the rows that have one (`adapt`): on each rank its part, before the
//! sum. Matrices of an offloaded layer arrive before its first product, and leave after its last.
//! A matrix whose columns lie in an order of their own takes its input so (`in_order`): gathered into what
//! holds nothing at that time. "sum" is the sum over ranks. All ranks run the same steps in the same order.

use plimsoll_kernels::comm::RankFailed;

use super::StepOutput;
use super::backend::{Backend, Batch};
use super::handle::Handle;
use super::input::StepInput;
use super::layers::{Decoder, Matrix};
use super::places::{Activations, Inputs};

/// Computes the step's tokens and draws the next token of every sampled row.
///
/// # Errors
/// When a rank failed.
pub(super) fn run<B: Backend>(
    on: &mut B,
    comm: &mut B::Comm,
    decoder: &Decoder,
    (inputs, at): (&Inputs, &Activations),
    input: &StepInput,
    output: &mut StepOutput,
) -> Result<(), RankFailed> {
    let rows = input.tokens();
    let stream = rows * decoder.hidden;
    let batch = Batch {
        inputs,
        rows,
        sequences: input.sequences(),
        table_stride: input.table_stride,
    };
    on.describe(inputs, input);

    on.embed(&batch, &decoder.embedding, at.hidden);
    on.sum(comm, at.hidden, stream)?;
    on.copy(at.hidden, at.residual, stream);

    for (index, layer) in decoder.layers.iter().enumerate() {
        match index {
            // Nothing was computed yet that would have to be added.
            0 => on.norm(at.residual, &layer.input_norm, at.normed, rows),
            _ => on.add_norm(at.partial, at.residual, &layer.input_norm, at.normed, rows),
        }
        if layer.is_streamed {
            on.begin_layer(index);
        }
        for part in &layer.qkv {
            let x = in_order(on, at.normed, part, at.hidden, rows);
            on.project(x, part, at.qkv, rows);
        }
        on.adapt(at.normed, &layer.adaption.qkv, at.qkv, rows);
        on.rope_kv(at.qkv, &layer.attention, &batch);
        on.attend(at.qkv, &layer.attention, &batch, at.attention);
        let x = in_order(on, at.attention, &layer.output, at.qkv, rows);
        on.project(x, &layer.output, at.partial, rows);
        on.adapt(at.attention, &layer.adaption.output, at.partial, rows);
        on.sum(comm, at.partial, stream)?;

        on.add_norm(at.partial, at.residual, &layer.post_norm, at.normed, rows);
        for part in &layer.gate_up {
            let x = in_order(on, at.normed, part, at.hidden, rows);
            on.project(x, part, at.gate_up, rows);
        }
        on.adapt(at.normed, &layer.adaption.gate_up, at.gate_up, rows);
        on.silu_mul(at.gate_up, at.activated, rows, layer.down.cols);
        let x = in_order(on, at.activated, &layer.down, at.gate_up, rows);
        on.project(x, &layer.down, at.partial, rows);
        on.adapt(at.activated, &layer.adaption.down, at.partial, rows);
        if layer.is_streamed {
            on.end_layer();
        }
        on.sum(comm, at.partial, stream)?;
    }

    // From here on the sampled rows alone, moved together at the front.
    let rows = input.samples.len();
    on.pick(at.residual, &input.samples, decoder.hidden);
    on.pick(at.partial, &input.samples, decoder.hidden);
    on.add_norm(
        at.partial,
        at.residual,
        &decoder.final_norm,
        at.normed,
        rows,
    );
    on.project(at.normed, &decoder.head, at.logits, rows);
    on.sample(comm, at.logits, decoder.vocabulary, input, output)
}

/// What a matrix takes of `x`: itself, or its numbers as the matrix lists them, in `room`.
fn in_order<B: Backend>(on: &mut B, x: Handle, of: &Matrix, room: Handle, rows: usize) -> Handle {
    let Some(order) = of.order else { return x };
    on.gather(x, order, room, rows);
    room
}
