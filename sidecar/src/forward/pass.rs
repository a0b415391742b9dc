//! The pass itself: which op reads and writes which buffer, in order.

use plimsoll_kernels::attention::{self, Batch, Heads, Queries};
use plimsoll_kernels::comm::{Collective, Member, RankFailed};
use plimsoll_kernels::device::Buffer;
use plimsoll_kernels::embedding::{self, EmbeddingTable};
use plimsoll_kernels::linear::{self, Input};
use plimsoll_kernels::pool::Pool;
use plimsoll_kernels::rope::RopeTables;
use plimsoll_kernels::rope_kv::{self, HeadNorm, Step};
use plimsoll_kernels::{rms_norm, silu_mul};

use super::Forward;
use super::input::StepInput;
use super::layers::{Layer, Matrix};
use super::tensors::{Activations, Tensors, Workspaces};

impl Forward {
    /// Computes all rows and leaves the logits of the sampled ones in `activations.logits`.
    pub(super) fn pass(&mut self, comm: &mut Member, input: &StepInput) -> Result<(), RankFailed> {
        copy_input(&mut self.tensors.workspaces, input);
        self.embed(comm, input)?;
        for index in 0..self.decoder.layers.len() {
            let layer = self.decoder.layers[index];
            self.normalise(layer.input_norm, input.tokens(), index == 0);
            self.attend(&layer, index, input);
            let hidden = self.shape.hidden as usize;
            let partial = &mut self.tensors.activations.partial;
            comm.all_reduce_sum(partial.range_mut(0, input.tokens() * hidden))?;
            self.normalise(layer.post_norm, input.tokens(), false);
            self.feed_forward(&layer, input.tokens());
            let partial = &mut self.tensors.activations.partial;
            comm.all_reduce_sum(partial.range_mut(0, input.tokens() * hidden))?;
        }
        self.logits(input);
        Ok(())
    }

    fn embed(&mut self, comm: &mut Member, input: &StepInput) -> Result<(), RankFailed> {
        let Forward {
            tensors,
            decoder,
            shard,
            pool,
            ..
        } = self;
        let Tensors {
            weights,
            activations,
            workspaces,
            ..
        } = tensors;
        let matrix = decoder.embedding;
        let table = EmbeddingTable {
            bytes: matrix.bytes(weights),
            dtype: matrix.shape.dtype,
            packed: decoder.tied,
            first_row: shard.vocab_rows.start as usize,
            rows: matrix.shape.rows,
            hidden: matrix.shape.cols,
        };
        let ids = workspaces.token_ids.range(0, input.tokens());
        let count = input.tokens() * table.hidden;
        let hidden = activations.hidden.range_mut(0, count);
        embedding::run(pool, ids, &table, hidden);
        comm.all_reduce_sum(hidden)?;
        activations
            .residual
            .range_mut::<f32>(0, count)
            .copy_from_slice(hidden);
        Ok(())
    }

    /// Adds the last sum into the residual stream (there is none before the first layer), and
    /// leaves the normalised stream for the next linear layer.
    fn normalise(&mut self, weight: super::layers::Vector, tokens: usize, first: bool) {
        let Tensors {
            weights,
            activations,
            ..
        } = &mut self.tensors;
        let Activations {
            residual,
            normed,
            partial,
            ..
        } = activations;
        let count = tokens * self.shape.hidden as usize;
        let (weight, eps) = (weight.values(weights), self.params.rms_eps);
        let (residual, normed) = (residual.range_mut(0, count), normed.range_mut(0, count));
        if first {
            rms_norm::run(&self.pool, residual, weight, eps, normed);
        } else {
            rms_norm::run_residual(
                &self.pool,
                partial.range(0, count),
                residual,
                weight,
                eps,
                normed,
            );
        }
    }

    fn attend(&mut self, layer: &Layer, index: usize, input: &StepInput) {
        let Forward {
            tensors,
            shard,
            params,
            pool,
            ..
        } = self;
        let Tensors {
            weights,
            kv,
            kv_shape,
            activations,
            workspaces,
            ..
        } = tensors;
        let Activations {
            normed,
            qkv,
            attention,
            partial,
            ..
        } = activations;
        let tokens = input.tokens();
        let query_heads = shard.query_head_count() as usize;
        let query = query_heads * kv_shape.head_dim;
        let width = layer.qkv.shape.rows;
        let scratch = &mut workspaces.gemm_input;

        let qkv = qkv.range_mut(0, tokens * width);
        project(pool, normed, tokens, layer.qkv, weights, qkv, scratch);
        let cache = kv.as_mut_slice::<u8>();
        let norm = layer.head_norms.map(|(query, key)| HeadNorm {
            query: query.values(weights),
            key: key.values(weights),
            eps: params.rms_eps,
        });
        let step = Step {
            query_heads,
            layer: index,
            norm,
            tables: RopeTables {
                cos: workspaces.rope_cos.as_slice(),
                sin: workspaces.rope_sin.as_slice(),
            },
            positions: workspaces.positions.range(0, tokens),
            slots: workspaces.slots.range(0, tokens),
        };
        rope_kv::run(pool, qkv, &step, cache, kv_shape);

        let layer_index = u32::try_from(index).unwrap_or(u32::MAX);
        #[expect(clippy::cast_precision_loss, reason = "head sizes are small")]
        let scale = 1.0 / (kv_shape.head_dim as f32).sqrt();
        let heads = Heads {
            query: query_heads,
            layer: index,
            scale,
            sliding_window: params.window(layer_index),
        };
        let sequences = input.sequences();
        let batch = Batch {
            query_start: workspaces.query_start.range(0, sequences + 1),
            context_len: workspaces.context_len.range(0, sequences),
            block_tables: workspaces
                .block_tables
                .range(0, sequences * input.table_stride),
            table_stride: input.table_stride,
        };
        let queries = Queries {
            data: qkv,
            stride: width,
        };
        let out = attention.range_mut(0, tokens * query);
        let parts = workspaces.attention.as_mut_slice();
        attention::run(pool, queries, &heads, &batch, (cache, kv_shape), out, parts);
        let hidden = layer.output.shape.rows;
        let partial = partial.range_mut(0, tokens * hidden);
        project(
            pool,
            attention,
            tokens,
            layer.output,
            weights,
            partial,
            scratch,
        );
    }

    fn feed_forward(&mut self, layer: &Layer, tokens: usize) {
        let Forward { tensors, pool, .. } = self;
        let Tensors {
            weights,
            activations,
            workspaces,
            ..
        } = tensors;
        let Activations {
            normed,
            gate_up,
            activated,
            partial,
            ..
        } = activations;
        let scratch = &mut workspaces.gemm_input;
        let columns = layer.down.shape.cols;
        let gate_up = gate_up.range_mut(0, tokens * 2 * columns);
        project(
            pool,
            normed,
            tokens,
            layer.gate_up,
            weights,
            gate_up,
            scratch,
        );
        silu_mul::run(
            pool,
            gate_up,
            tokens,
            columns,
            activated.range_mut(0, tokens * columns),
        );
        let partial = partial.range_mut(0, tokens * layer.down.shape.rows);
        project(
            pool, activated, tokens, layer.down, weights, partial, scratch,
        );
    }

    /// The last norm and the head, for the sampled rows only, moved together at the front.
    fn logits(&mut self, input: &StepInput) {
        let Forward {
            tensors,
            decoder,
            params,
            pool,
            ..
        } = self;
        let Tensors {
            weights,
            activations,
            workspaces,
            ..
        } = tensors;
        let Activations {
            residual,
            normed,
            partial,
            logits,
            ..
        } = activations;
        let rows = input.samples.len();
        let hidden = decoder.head.shape.cols;
        if rows == 0 {
            return;
        }
        let last = input.samples[rows - 1].row as usize + 1;
        for buffer in [&mut *residual, &mut *partial] {
            let values = buffer.range_mut::<f32>(0, last * hidden);
            // Rows ascend, so a row is never overwritten before it is moved.
            for (to, sample) in input.samples.iter().enumerate() {
                let from = sample.row as usize;
                values.copy_within(from * hidden..(from + 1) * hidden, to * hidden);
            }
        }
        let count = rows * hidden;
        let norm = decoder.final_norm.values(weights);
        rms_norm::run_residual(
            pool,
            partial.range(0, count),
            residual.range_mut(0, count),
            norm,
            params.rms_eps,
            normed.range_mut(0, count),
        );
        let logits = logits.range_mut(0, rows * decoder.head.shape.rows);
        let scratch = &mut workspaces.gemm_input;
        project(pool, normed, rows, decoder.head, weights, logits, scratch);
    }
}

/// `out = input x weight + bias`. A rank without columns contributes its bias alone.
fn project(
    pool: &Pool,
    input: &Buffer,
    tokens: usize,
    matrix: Matrix,
    weights: &Buffer,
    out: &mut [f32],
    scratch: &mut Buffer,
) {
    let weight = matrix.weight(weights);
    if matrix.shape.cols == 0 {
        match weight.bias {
            Some(bias) => out
                .chunks_mut(bias.len())
                .for_each(|row| row.copy_from_slice(bias)),
            None => out.fill(0.0),
        }
        return;
    }
    let x = input.range(0, tokens * matrix.shape.cols);
    let x = Input::dense(x, tokens, matrix.shape.cols);
    linear::run(pool, x, &weight, out, scratch.as_mut_slice());
}

/// Copies the step's description into the rank's own memory.
fn copy_input(workspaces: &mut Workspaces, input: &StepInput) {
    fn copy<T: plimsoll_kernels::element::Element>(to: &mut Buffer, from: &[T]) {
        to.range_mut(0, from.len()).copy_from_slice(from);
    }
    copy(&mut workspaces.token_ids, &input.ids);
    copy(&mut workspaces.positions, &input.positions);
    copy(&mut workspaces.slots, &input.slots);
    copy(&mut workspaces.query_start, &input.query_start);
    copy(&mut workspaces.context_len, &input.context_len);
    copy(&mut workspaces.block_tables, &input.block_tables);
}
