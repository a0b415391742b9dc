//! The cache of a rank, and the two ops that know of it.
#![expect(clippy::cast_possible_truncation, reason = "test sizes are small")]

use plimsoll_planner::kv_cache;

use super::draw::{Planned, Sizes};
use super::place::{Place, takes};
use crate::attention::{self, Heads};
use crate::gpu::Kind;
use crate::gpu::trial::{Bench, Failure};
use crate::kv::KvCache;
use crate::rope_kv;

#[derive(Debug)]
pub(super) struct Cached {
    sizes: Sizes,
    shape: KvCache,
    context: usize,
    /// Blocks of each sequence.
    stride: usize,
    cache: Place,
    tables: [Place; 2],
    positions: Place,
    slots: Place,
    query_start: Place,
    context_len: Place,
    block_tables: Place,
    scratch: Place,
}

impl Cached {
    pub(super) fn new(
        bench: &Bench<'_>,
        (planned, rank): (&Planned, usize),
        sizes: &Sizes,
    ) -> Result<Cached, Failure> {
        let (shape, shard, kv) = (
            &planned.request.shape,
            &planned.shards[rank],
            &planned.request.kv,
        );
        let context = planned.context as usize;
        let stride = context.div_ceil(kv.block_size as usize);
        let blocks = 1 + sizes.sequences * stride;
        let at = planned.workspaces(rank);
        let block = kv_cache::block_bytes(shape, shard, kv);
        let mut cached = Cached {
            sizes: *sizes,
            shape: KvCache {
                dtype: sizes.dtype,
                blocks,
                block_size: kv.block_size as usize,
                layers: shape.layers as usize,
                heads: shard.kv_head_count() as usize,
                head_dim: shape.head_dim as usize,
            },
            context,
            stride,
            cache: Place::new(bench, "cache", block.get() * blocks as u64)?,
            tables: [
                Place::of(bench, "rope_cos", at.rope_cos)?,
                Place::of(bench, "rope_sin", at.rope_sin)?,
            ],
            positions: Place::of(bench, "positions", at.positions)?,
            slots: Place::of(bench, "slots", at.slots)?,
            query_start: Place::of(bench, "query_start", at.query_start)?,
            context_len: Place::of(bench, "context_len", at.context_len)?,
            block_tables: Place::of(bench, "block_tables", at.block_tables)?,
            scratch: Place::of(bench, "attention's scratch", at.attention)?,
        };
        cached.cache.fill()?;
        cached.tables.iter_mut().try_for_each(Place::fill)?;
        let tables: Vec<u32> = (1..blocks as u32).collect();
        cached.block_tables.put(&tables)?;
        cached
            .context_len
            .put(&vec![context as u32; sizes.sequences])?;
        Ok(cached)
    }

    /// New rows of each sequence in a step of the largest size: all but the first have one.
    fn largest(&self) -> Vec<usize> {
        let mut rows = vec![1; self.sizes.sequences];
        rows[0] = self.sizes.rows + 1 - self.sizes.sequences;
        rows
    }

    /// The last rows of every sequence's context.
    pub(super) fn rotate(&mut self, bench: &Bench<'_>, qkv: &mut Place) -> Result<(), Failure> {
        let (mut positions, mut slots) = (Vec::new(), Vec::new());
        for (sequence, rows) in self.largest().into_iter().enumerate() {
            for position in self.context - rows..self.context {
                positions.push(position as u32);
                let first = (1 + sequence * self.stride) * self.shape.block_size;
                slots.push((first + position) as u64);
            }
        }
        self.positions.put(&positions)?;
        self.slots.put(&slots)?;
        let last_slot = slots.iter().copied().max().unwrap_or(0);
        let kind = Kind::Number(self.sizes.dtype);
        let [cos, sin] = &self.tables;
        let operands = [&*qkv, cos, sin, &self.positions, &self.slots, &self.cache];
        takes("rope_kv", operands.map(Place::operand), |less| {
            let step = rope_kv::cuda::Step {
                tokens: self.sizes.rows,
                query_heads: self.sizes.query,
                layer: 0,
                norm: None,
                cos: cos.view(Kind::F32, less[1]),
                sin: sin.view(Kind::F32, less[2]),
                positions: self.positions.view(Kind::U32, less[3]),
                slots: self.slots.view(Kind::U64, less[4]),
                last_position: self.context as u32 - 1,
                last_slot,
            };
            let cache = self.cache.view_mut(kind, less[5]);
            rope_kv::cuda::run(
                bench.gpu,
                &qkv.view_mut(kind, less[0]),
                &step,
                &cache,
                &self.shape,
            )
        })?;
        let inside = [&*qkv, cos, sin, &self.positions, &self.slots, &self.cache];
        inside.into_iter().try_for_each(Place::stayed_inside)
    }

    /// A step of the largest size, and one that decodes: their keys are cut as there is scratch.
    pub(super) fn attend(
        &mut self,
        bench: &Bench<'_>,
        (qkv, out): (&Place, &mut Place),
    ) -> Result<(), Failure> {
        for rows in [self.largest(), vec![1; self.sizes.sequences]] {
            let tokens: usize = rows.iter().sum();
            let mut start = 0;
            let ends = rows.iter().map(|rows| {
                start += *rows as u32;
                start
            });
            let starts: Vec<u32> = std::iter::once(0).chain(ends).collect();
            self.query_start.put(&starts)?;
            let extent = attention::cuda::Extent {
                sequences: rows.len(),
                tokens,
                most_rows: rows.iter().copied().max().unwrap_or(0),
                most_context: self.context,
            };
            self.attend_to(bench, extent, (qkv, out))?;
        }
        Ok(())
    }

    fn attend_to(
        &mut self,
        bench: &Bench<'_>,
        extent: attention::cuda::Extent,
        (qkv, out): (&Place, &mut Place),
    ) -> Result<(), Failure> {
        let (kind, head_dim) = (Kind::Number(self.sizes.dtype), self.shape.head_dim);
        let heads = Heads {
            query: self.sizes.query,
            layer: 0,
            scale: 0.1,
            sliding_window: None,
        };
        let is_largest = extent.tokens == self.sizes.rows;
        let whole = (out.operand().0, out.operand().1 && is_largest);
        let operands = [
            self.query_start.operand(),
            self.context_len.operand(),
            self.block_tables.operand(),
            self.cache.operand(),
            whole,
        ];
        takes("attention", operands, |less| {
            attention::cuda::run(
                bench.gpu,
                attention::cuda::Queries {
                    data: qkv.view(kind, 0),
                    stride: (self.sizes.query + 2 * self.shape.heads) * head_dim,
                },
                &heads,
                &attention::cuda::Batch {
                    query_start: self.query_start.view(Kind::U32, less[0]),
                    context_len: self.context_len.view(Kind::U32, less[1]),
                    block_tables: self.block_tables.view(Kind::U32, less[2]),
                    table_stride: self.stride,
                    extent,
                },
                (self.cache.view(kind, less[3]), &self.shape),
                &out.view_mut(kind, less[4]),
                &mut self.scratch.view_mut(Kind::F32, 0),
            )
        })?;
        let inside = [
            &self.query_start,
            &self.context_len,
            &self.block_tables,
            &self.cache,
            &self.scratch,
            out,
        ];
        inside.into_iter().try_for_each(Place::stayed_inside)
    }
}
