//! The ops of the pass, each on the slices that its handles name.

use plimsoll_kernels::attention::{self, Heads, Queries};
use plimsoll_kernels::comm::{Collective, Member, RankFailed};
use plimsoll_kernels::element::Element;
use plimsoll_kernels::embedding::{self, EmbeddingTable};
use plimsoll_kernels::linear::{self, Input};
use plimsoll_kernels::rope::RopeTables;
use plimsoll_kernels::rope_kv::{self, HeadNorm, Step};
use plimsoll_kernels::sampling::{self, VocabShard};
use plimsoll_kernels::{rms_norm, silu_mul};

use super::CpuRank;
use super::views::{apart, bytes, vector, weight};
use crate::forward::StepOutput;
use crate::forward::backend::{Backend, Batch};
use crate::forward::handle::{Format, Handle};
use crate::forward::input::{SampleRow, StepInput};
use crate::forward::layers::{Attention, Embedding, Matrix, Norm};
use crate::forward::places::Inputs;

impl Backend for CpuRank {
    type Comm = Member;

    fn describe(&mut self, inputs: &Inputs, input: &StepInput) {
        self.fill(inputs.token_ids, &input.ids);
        let ids = self.workspaces[inputs.token_ids.index].as_mut_slice::<u32>();
        for carried in &input.carried_ids {
            ids[carried.at] = self.drawn[carried.sample];
        }
        self.fill(inputs.positions, &input.positions);
        self.fill(inputs.slots, &input.slots);
        self.fill(inputs.query_start, &input.query_start);
        self.fill(inputs.context_len, &input.context_len);
        self.fill(inputs.block_tables, &input.block_tables);
    }

    fn embed(&mut self, batch: &Batch<'_>, embedding: &Embedding, out: Handle) {
        let Matrix {
            rows, cols, dtype, ..
        } = embedding.table;
        let table = EmbeddingTable {
            bytes: bytes(&self.weights, embedding.table.weight),
            dtype,
            packed: matches!(embedding.table.weight.format, Format::Panels(_)),
            first_row: embedding.first_row,
            rows,
            hidden: cols,
        };
        let ids = self.workspaces[batch.inputs.token_ids.index].range(0, batch.rows);
        let out = self.activations[out.index].range_mut(0, batch.rows * cols);
        embedding::run(&self.pool, ids, &table, out);
    }

    fn copy(&mut self, from: Handle, to: Handle, count: usize) {
        let [from, to] = apart(&mut self.activations, [from, to]);
        to.range_mut::<f32>(0, count)
            .copy_from_slice(from.range(0, count));
    }

    fn sum(&mut self, comm: &mut Member, of: Handle, count: usize) -> Result<(), RankFailed> {
        comm.all_reduce_sum(self.activations[of.index].range_mut(0, count))
    }

    fn norm(&mut self, x: Handle, norm: &Norm, out: Handle, rows: usize) {
        let weight = vector(&self.weights, norm.weight);
        let count = rows * weight.len();
        let [x, out] = apart(&mut self.activations, [x, out]);
        let (x, out) = (x.range(0, count), out.range_mut(0, count));
        rms_norm::run(&self.pool, x, weight, norm.eps, out);
    }

    fn add_norm(&mut self, x: Handle, stream: Handle, norm: &Norm, out: Handle, rows: usize) {
        let weight = vector(&self.weights, norm.weight);
        let count = rows * weight.len();
        let [x, stream, out] = apart(&mut self.activations, [x, stream, out]);
        let (x, stream) = (x.range(0, count), stream.range_mut(0, count));
        let out = out.range_mut(0, count);
        rms_norm::run_residual(&self.pool, x, stream, weight, norm.eps, out);
    }

    fn project(&mut self, x: Handle, by: &Matrix, out: Handle, rows: usize) {
        let weight = weight(&self.weights, by);
        let [x, out] = apart(&mut self.activations, [x, out]);
        let out: &mut [f32] = out.range_mut(0, rows * by.rows);
        if by.cols == 0 {
            match weight.bias {
                Some(bias) => out
                    .chunks_mut(bias.len())
                    .for_each(|row| row.copy_from_slice(bias)),
                None => out.fill(0.0),
            }
            return;
        }
        let x = Input::dense(x.range(0, rows * by.cols), rows, by.cols);
        let scratch = self.workspaces[self.scratch.gemm_input.index].as_mut_slice();
        linear::run(&self.pool, x, &weight, out, scratch);
    }

    fn rope_kv(&mut self, qkv: Handle, how: &Attention, batch: &Batch<'_>) {
        let norm = how.head_norms.map(|(query, key)| HeadNorm {
            query: vector(&self.weights, query.weight),
            key: vector(&self.weights, key.weight),
            eps: query.eps,
        });
        let spaces = &self.workspaces;
        let step = Step {
            query_heads: how.query_heads,
            layer: how.layer,
            norm,
            tables: RopeTables {
                cos: spaces[self.scratch.rope_cos.index].as_slice(),
                sin: spaces[self.scratch.rope_sin.index].as_slice(),
            },
            positions: spaces[batch.inputs.positions.index].range(0, batch.rows),
            slots: spaces[batch.inputs.slots.index].range(0, batch.rows),
        };
        let qkv = self.activations[qkv.index].range_mut(0, batch.rows * how.width);
        let cache = self.kv.as_mut_slice();
        rope_kv::run(&self.pool, qkv, &step, cache, &self.kv_shape);
    }

    fn attend(&mut self, qkv: Handle, how: &Attention, batch: &Batch<'_>, out: Handle) {
        let Batch {
            inputs,
            rows,
            sequences,
            table_stride,
        } = *batch;
        let heads = Heads {
            query: how.query_heads,
            layer: how.layer,
            scale: how.scale,
            sliding_window: how.sliding_window,
        };
        let [parts, query_start, context_len, block_tables] = apart(
            &mut self.workspaces,
            [
                self.scratch.attention,
                inputs.query_start,
                inputs.context_len,
                inputs.block_tables,
            ],
        );
        let sequences = attention::Batch {
            query_start: query_start.range(0, sequences + 1),
            context_len: context_len.range(0, sequences),
            block_tables: block_tables.range(0, sequences * table_stride),
            table_stride,
        };
        let [qkv, out] = apart(&mut self.activations, [qkv, out]);
        let queries = Queries {
            data: qkv.range(0, rows * how.width),
            stride: how.width,
        };
        let cache = (self.kv.as_slice(), &self.kv_shape);
        let out = out.range_mut(0, rows * how.query_heads * self.kv_shape.head_dim);
        let parts = parts.as_mut_slice();
        attention::run(&self.pool, queries, &heads, &sequences, cache, out, parts);
    }

    fn silu_mul(&mut self, gate_up: Handle, out: Handle, rows: usize, columns: usize) {
        let [gate_up, out] = apart(&mut self.activations, [gate_up, out]);
        let gate_up = gate_up.range(0, rows * 2 * columns);
        let out = out.range_mut(0, rows * columns);
        silu_mul::run(&self.pool, gate_up, rows, columns, out);
    }

    fn pick(&mut self, of: Handle, samples: &[SampleRow], width: usize) {
        let Some(last) = samples.last() else { return };
        let end = (last.row as usize + 1) * width;
        let values = self.activations[of.index].range_mut::<f32>(0, end);
        // Rows ascend, so a row is never overwritten before it is moved.
        for (to, sample) in samples.iter().enumerate() {
            let from = sample.row as usize * width;
            values.copy_within(from..from + width, to * width);
        }
    }

    fn sample(
        &mut self,
        comm: &mut Member,
        logits: Handle,
        shard: VocabShard,
        input: &StepInput,
        output: &mut StepOutput,
    ) -> Result<(), RankFailed> {
        let count = input.samples.len() * shard.rows as usize;
        let logits = self.activations[logits.index].range_mut::<f32>(0, count);
        output.logits.clear();
        if input.keep_logits {
            output.logits.extend_from_slice(logits);
        }
        self.history.clone_from(&input.history);
        for carried in &input.carried_history {
            self.history[carried.at] = self.drawn[carried.sample];
        }
        let history = &self.history;
        let rows: Vec<sampling::Row<'_>> = input
            .samples
            .iter()
            .map(|sample| {
                let [start, generated, end] = sample.history;
                let [first_bias, last_bias] = sample.bias;
                sampling::Row {
                    params: &sample.params,
                    prompt: &history[start..generated],
                    output: &history[generated..end],
                    bias: &input.bias[first_bias..last_bias],
                    target: sample.target,
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
            self.workspaces[self.scratch.sampling.index].as_mut_slice(),
            &mut output.sampled,
        )?;
        self.drawn.clear();
        self.drawn
            .extend(output.sampled.iter().map(|sampled| sampled.id));
        Ok(())
    }
}

impl CpuRank {
    fn fill<T: Element>(&mut self, input: Handle, values: &[T]) {
        self.workspaces[input.index]
            .range_mut(0, values.len())
            .copy_from_slice(values);
    }
}
