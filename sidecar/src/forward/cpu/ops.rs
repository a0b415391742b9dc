//! The ops of the pass, each on the slices that its handles name.

use plimsoll_kernels::attention::{self, Heads, Queries};
use plimsoll_kernels::comm::{Collective, Member, RankFailed};
use plimsoll_kernels::element::Element;
use plimsoll_kernels::embedding::{self, EmbeddingTable};
use plimsoll_kernels::linear::{self, Columns, Input};
use plimsoll_kernels::lora;
use plimsoll_kernels::rope::RopeTables;
use plimsoll_kernels::rope_kv::{self, HeadNorm, Step};
use plimsoll_kernels::sampling::{self, VocabShard};
use plimsoll_kernels::{gather, rms_norm, silu_mul};

use plimsoll_planner::scratch::Region;

use super::stream::Stream;
use super::views::{vector, weight};
use super::{CpuRank, Slots};
use crate::forward::StepOutput;
use crate::forward::backend::{Backend, Batch};
use crate::forward::handle::{Format, Handle};
use crate::forward::input::{SampleRow, StepInput};
use crate::forward::layers::{Attention, Embedding, Matrix, Norm};
use crate::forward::lora::Adaption;
use crate::forward::places::Inputs;
use crate::memory::snapshot::Streamed;

impl Backend for CpuRank {
    type Comm = Member;

    fn describe(&mut self, inputs: &Inputs, input: &StepInput) {
        self.fill(inputs.token_ids, &input.ids);
        let ids = self.workspaces.all_mut::<u32>(inputs.token_ids.region);
        for carried in &input.carried_ids {
            ids[carried.at] = self.drawn[carried.sample];
        }
        self.fill(inputs.positions, &input.positions);
        self.fill(inputs.slots, &input.slots);
        self.fill(inputs.query_start, &input.query_start);
        self.fill(inputs.context_len, &input.context_len);
        self.fill(inputs.block_tables, &input.block_tables);
        self.slots.rows = input.adapted_rows.len();
        if self.slots.rows > 0 {
            for (at, values) in [
                (self.slots.at.rows, &input.adapted_rows),
                (self.slots.at.row_slots, &input.adapted_slots),
            ] {
                let to = self.adapters.first_mut(at.region, values.len());
                to.copy_from_slice(values);
            }
        }
    }

    fn embed(&mut self, batch: &Batch<'_>, embedding: &Embedding, out: Handle) {
        let Matrix {
            rows, cols, dtype, ..
        } = embedding.table;
        let table = EmbeddingTable {
            bytes: self.weights.all(embedding.table.weight.region),
            dtype,
            packed: matches!(
                embedding.table.weight.format,
                Format::Panels(_) | Format::Blocks(_)
            ),
            blocks: embedding.table.weight.format.blocks(),
            first_row: embedding.first_row,
            rows,
            hidden: cols,
        };
        let ids = self
            .workspaces
            .first(batch.inputs.token_ids.region, batch.rows);
        let out = self.activations.first_mut(out.region, batch.rows * cols);
        embedding::run(&self.pool, ids, &table, out);
    }

    fn copy(&mut self, from: Handle, to: Handle, count: usize) {
        let [from, mut to] = self.activations.apart([from.region, to.region]);
        to.first_mut::<f32>(count)
            .copy_from_slice(from.first(count));
    }

    fn sum(&mut self, comm: &mut Member, of: Handle, count: usize) -> Result<(), RankFailed> {
        comm.all_reduce_sum_on(&self.pool, self.activations.first_mut(of.region, count))
    }

    fn begin_layer(&mut self, layer: usize) {
        match &mut self.stream {
            Some(stream) => stream.begin(layer),
            None => unreachable!("layer {layer} is not streamed"),
        }
    }

    fn end_layer(&mut self) {
        if let Some(stream) = &mut self.stream {
            stream.end();
        }
    }

    fn take_streamed(&mut self) -> Streamed {
        let streamed = self.stream.as_mut().map(Stream::take_streamed);
        streamed.unwrap_or_default()
    }

    fn norm(&mut self, x: Handle, norm: &Norm, out: Handle, rows: usize) {
        let weight = vector(&self.weights, norm.weight);
        let count = rows * weight.len();
        let [x, mut out] = self.activations.apart([x.region, out.region]);
        let (x, out) = (x.first(count), out.first_mut(count));
        rms_norm::run(&self.pool, x, weight, norm.eps, out);
    }

    fn add_norm(&mut self, x: Handle, stream: Handle, norm: &Norm, out: Handle, rows: usize) {
        let weight = vector(&self.weights, norm.weight);
        let count = rows * weight.len();
        let [x, mut stream, mut out] =
            self.activations
                .apart([x.region, stream.region, out.region]);
        let (x, stream) = (x.first(count), stream.first_mut(count));
        let out = out.first_mut(count);
        rms_norm::run_residual(&self.pool, x, stream, weight, norm.eps, out);
    }

    fn gather(&mut self, x: Handle, columns: Handle, out: Handle, rows: usize) {
        let columns: &[u32] = self.weights.all(columns.region);
        let count = rows * columns.len();
        let [x, mut out] = self.activations.apart([x.region, out.region]);
        gather::run(&self.pool, x.first(count), columns, out.first_mut(count));
    }

    fn project(&mut self, x: Handle, by: &Matrix, out: Handle, rows: usize) {
        let weight = weight(&self.weights, &mut self.stream, by, self.products);
        let [x, mut out] = self.activations.apart([x.region, out.region]);
        let Columns { first, stride } = by.columns;
        let out: &mut [f32] = out.first_mut(rows * stride);
        if by.cols == 0 {
            let rows = out.chunks_mut(stride.max(1));
            let parts = rows.map(|row| &mut row[first..first + by.rows]);
            match weight.bias {
                Some(bias) => parts.for_each(|part| part.copy_from_slice(bias)),
                None => parts.for_each(|part| part.fill(0.0)),
            }
            return;
        }
        let x = Input::dense(x.first(rows * by.cols), rows, by.cols);
        let scratch = self.workspaces.all_mut(self.scratch.gemm_input.region);
        linear::run_into(&self.pool, x, &weight, (out, by.columns), scratch);
    }

    fn adapt(&mut self, x: Handle, by: &Adaption, out: Handle, rows: usize) {
        if let Some(beside) = &mut self.beside {
            let [x, mut out] = self.activations.apart([x.region, out.region]);
            let x = x.first(rows * by.inputs);
            beside.add(by, rows, x, out.first_mut(rows * by.stride));
        }
        let Slots {
            at,
            ranks,
            rows: adapted,
        } = &self.slots;
        if by.factors.is_empty() || *adapted == 0 {
            return;
        }
        let Some((first, last)) = at.slots.first().zip(at.slots.last()) else {
            return;
        };
        let slots = Region {
            offset: first.region.offset,
            bytes: last.region.offset + last.region.bytes - first.region.offset,
        };
        let size = usize::try_from(slots.bytes).unwrap_or(usize::MAX) / size_of::<f32>();
        let regions = [
            slots,
            at.rows.region,
            at.row_slots.region,
            at.products.region,
        ];
        let [written, of_rows, of_slots, mut products] = self.adapters.apart(regions);
        let numbers: &[f32] = written.first(size);
        let slots = lora::Slots {
            numbers,
            stride: numbers.len() / at.slots.len(),
            ranks,
            matrices: at.places.len(),
            largest_rank: at.largest_rank,
        };
        let named = lora::Rows {
            rows: of_rows.first(*adapted),
            slots: of_slots.first(*adapted),
        };
        let [x, mut out] = self.activations.apart([x.region, out.region]);
        let data = lora::Data {
            x: x.first(rows * by.inputs),
            inputs: by.inputs,
            out: out.first_mut(rows * by.stride),
            stride: by.stride,
        };
        lora::run(
            &self.pool,
            named,
            &slots,
            &by.factors,
            data,
            products.all_mut(),
        );
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
                cos: spaces.all(self.scratch.rope_cos.region),
                sin: spaces.all(self.scratch.rope_sin.region),
            },
            positions: spaces.first(batch.inputs.positions.region, batch.rows),
            slots: spaces.first(batch.inputs.slots.region, batch.rows),
        };
        let qkv = self
            .activations
            .first_mut(qkv.region, batch.rows * how.width);
        let cache = self.kv.all_mut(self.cache.region);
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
        let [mut parts, query_start, context_len, block_tables] = self.workspaces.apart([
            self.scratch.attention.region,
            inputs.query_start.region,
            inputs.context_len.region,
            inputs.block_tables.region,
        ]);
        let sequences = attention::Batch {
            query_start: query_start.first(sequences + 1),
            context_len: context_len.first(sequences),
            block_tables: block_tables.first(sequences * table_stride),
            table_stride,
        };
        let [qkv, mut out] = self.activations.apart([qkv.region, out.region]);
        let queries = Queries {
            data: qkv.first(rows * how.width),
            stride: how.width,
        };
        let cache = (self.kv.all(self.cache.region), &self.kv_shape);
        let out = out.first_mut(rows * how.query_heads * self.kv_shape.head_dim);
        let parts = parts.all_mut();
        attention::run(&self.pool, queries, &heads, &sequences, cache, out, parts);
    }

    fn silu_mul(&mut self, gate_up: Handle, out: Handle, rows: usize, columns: usize) {
        let [gate_up, mut out] = self.activations.apart([gate_up.region, out.region]);
        let gate_up = gate_up.first(rows * 2 * columns);
        let out = out.first_mut(rows * columns);
        silu_mul::run(&self.pool, gate_up, rows, columns, out);
    }

    fn pick(&mut self, of: Handle, samples: &[SampleRow], width: usize) {
        let Some(last) = samples.last() else { return };
        let end = (last.row as usize + 1) * width;
        let values = self.activations.first_mut::<f32>(of.region, end);
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
        let logits = self.activations.first_mut::<f32>(logits.region, count);
        output.logits.clear();
        if input.keep_logits {
            output.logits.extend_from_slice(logits);
        }
        let rows: Vec<sampling::Row<'_>> = input
            .samples
            .iter()
            .map(|sample| {
                let [first_seen, last_seen] = sample.seen;
                let [first_bias, last_bias] = sample.bias;
                sampling::Row {
                    params: &sample.params,
                    seen: &input.seen[first_seen..last_seen],
                    drawn: sample.drawn.map(|sample| self.drawn[sample]),
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
            self.workspaces.all_mut(self.scratch.sampling.region),
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
        self.workspaces
            .first_mut(input.region, values.len())
            .copy_from_slice(values);
    }
}
