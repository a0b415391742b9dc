//! attention: out[t, h] = sum over j of softmax_j(scale * q[t, h] . k[j]) * v[j], over the paged
//! keys and values of t's own sequence at positions j <= position(t), the last `sliding_window`
//! of them where there is a window.
//!
//! Ragged: each sequence brings any number of new rows (one for decode, a chunk for prefill), which
//! are the last of its context, and whose keys and values are in the cache already. Sums are f32. In a
//! cache of integers k[j] = s[j] * integers: s[j] multiplies their product with q, and a value's its
//! weight. A scale that is NaN makes all of its key's (or value's) part of the sums NaN.
//! A row's result depends on its own query, position, keys and values alone: it has the same bits
//! decoded or prefilled, chunked in any way, in any batch, on any number of threads.

mod cpu;
mod job;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(feature = "cuda")]
mod cut;
mod few;
mod load;
mod many;
#[expect(unsafe_code, reason = "concurrent chunks write different rows")]
mod merge;
#[cfg(feature = "cuda")]
mod pass;
mod span;
mod tile;
#[expect(
    unsafe_code,
    reason = "concurrent chunks write different rows and parts"
)]
mod unit;

#[cfg(any(test, feature = "gpu-tests"))]
mod case;
#[cfg(feature = "gpu-tests")]
pub(crate) mod edge_trials;
#[cfg(feature = "gpu-tests")]
pub(crate) mod refusal_trials;
#[cfg(test)]
mod int8_tests;
#[cfg(test)]
mod tests;
#[cfg(feature = "gpu-tests")]
pub(crate) mod trials;

use plimsoll_planner::{KvDtype, limits};

use crate::kv::KvCache;
use crate::pool::Pool;

/// The largest head size, as the planner's table has it.
pub const MAX_HEAD_DIM: usize = limits::HEAD_DIM.most as usize;

/// Query heads of this rank. KV heads and head size are the cache's; `query_heads` is a multiple
/// of its heads (the group may be part of the model's, where ranks share a KV head).
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    pub query: usize,
    pub layer: usize,
    /// Usually 1 / sqrt(head_dim).
    pub scale: f32,
    /// Keys a row sees, itself included.
    pub sliding_window: Option<u32>,
}

/// Which rows belong to which sequence, and where its blocks are.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// `[sequences + 1]`, ascending from 0: rows of sequence s are `query_start[s]..[s + 1]`.
    pub query_start: &'a [u32],
    /// `[sequences]`: tokens in the cache, the new rows included.
    pub context_len: &'a [u32],
    /// `[sequences, table_stride]`: block ids in order of position.
    pub block_tables: &'a [u32],
    pub table_stride: usize,
}

impl Batch<'_> {
    pub const fn sequences(&self) -> usize {
        self.context_len.len()
    }

    /// Rows of all sequences.
    pub fn tokens(&self) -> usize {
        self.query_start.last().map_or(0, |rows| *rows as usize)
    }
}

/// Query rows: row t is `data[t * stride..][..query * head_dim]` (the front of a qkv row).
#[derive(Clone, Copy, Debug)]
pub struct Queries<'a> {
    pub data: &'a [f32],
    pub stride: usize,
}

/// Attends every row of the batch into `out` (`[tokens, query * head_dim]`). `scratch` (f32, any
/// length, none is legal) lets long contexts be shared between threads; it changes no bits.
///
/// # Panics
/// When a slice does not fit the shapes, or a block id is out of range.
pub fn run<D: Copy + Into<KvDtype>>(
    pool: &Pool,
    queries: Queries<'_>,
    heads: &Heads,
    batch: &Batch<'_>,
    (bytes, shape): (&[u8], &KvCache<D>),
    out: &mut [f32],
    scratch: &mut [f32],
) {
    let shape = &shape.of_any();
    shape.check(bytes);
    assert!(
        heads.layer < shape.layers,
        "layer {} of {}",
        heads.layer,
        shape.layers
    );
    assert!(
        heads.sliding_window != Some(0),
        "a sliding window of 0 sees nothing"
    );
    let row = heads.query * shape.head_dim;
    let tokens = batch.tokens();
    assert!(
        queries.stride >= row,
        "query stride {} below {row}",
        queries.stride
    );
    let needed = tokens.saturating_sub(1) * queries.stride + row;
    assert!(
        tokens == 0 || queries.data.len() >= needed,
        "queries end before row {tokens}"
    );
    assert_eq!(out.len(), tokens * row, "out is not [{tokens}, {row}]");
    check_batch(batch, shape);
    assert!(
        shape.head_dim <= MAX_HEAD_DIM,
        "heads of {}, at most {MAX_HEAD_DIM}",
        shape.head_dim
    );
    if tokens == 0 || heads.query == 0 {
        return;
    }
    assert!(
        shape.heads > 0 && heads.query.is_multiple_of(shape.heads),
        "{} query heads on {} KV heads",
        heads.query,
        shape.heads
    );
    cpu::run(pool, queries, heads, batch, (bytes, shape), out, scratch);
}

fn check_batch(batch: &Batch<'_>, shape: &KvCache<KvDtype>) {
    let sequences = batch.sequences();
    assert_eq!(
        batch.query_start.len(),
        sequences + 1,
        "query_start is not [{}]",
        sequences + 1
    );
    assert_eq!(batch.query_start[0], 0, "query_start does not begin at 0");
    assert!(
        batch.block_tables.len() >= sequences * batch.table_stride,
        "block tables too short"
    );
    for (s, context) in batch.context_len.iter().enumerate() {
        let (first, end) = (batch.query_start[s], batch.query_start[s + 1]);
        let context = *context as usize;
        assert!(first <= end, "query_start descends at sequence {s}");
        assert!(
            (end - first) as usize <= context,
            "sequence {s} has {} rows and a context of {context}",
            end - first
        );
        let blocks = context.div_ceil(shape.block_size);
        assert!(
            blocks <= batch.table_stride,
            "sequence {s} needs {blocks} blocks in its table"
        );
        let table = &batch.block_tables[s * batch.table_stride..][..blocks];
        assert!(
            table.iter().all(|block| (*block as usize) < shape.blocks),
            "sequence {s} names a block past the {} of the cache",
            shape.blocks
        );
    }
}
