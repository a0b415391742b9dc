//! The plain loops: two passes over the keys of each row.

use crate::encoding;
use crate::kv::{KvCache, Part};
use crate::pool::Pool;

use super::{Batch, Heads, Queries};

pub(super) fn run(
    pool: &Pool,
    queries: Queries<'_>,
    heads: &Heads,
    batch: &Batch<'_>,
    cache: (&[u8], &KvCache),
    out: &mut [f32],
    _scratch: &mut [f32],
) {
    let shape = cache.1;
    pool.run_rows(out, heads.query * shape.head_dim, 1, |token, out| {
        let sequence = batch
            .query_start
            .partition_point(|start| *start as usize <= token)
            - 1;
        let rows_after = batch.query_start[sequence + 1] as usize - token;
        let position = batch.context_len[sequence] as usize - rows_after;
        let table = &batch.block_tables[sequence * batch.table_stride..];
        let query = &queries.data[token * queries.stride..];
        for (head, out) in out.chunks_exact_mut(shape.head_dim).enumerate() {
            let query = &query[head * shape.head_dim..][..shape.head_dim];
            attend(query, head, position, table, heads, cache, out);
        }
    });
}

fn attend(
    query: &[f32],
    head: usize,
    position: usize,
    table: &[u32],
    heads: &Heads,
    (bytes, shape): (&[u8], &KvCache),
    out: &mut [f32],
) {
    let kv_head = head / (heads.query / shape.heads);
    let window = heads
        .sliding_window
        .map_or(usize::MAX, |window| window as usize);
    let first = (position + 1).saturating_sub(window);
    let row = |j: usize, part| {
        let slot = table[j / shape.block_size] as usize * shape.block_size + j % shape.block_size;
        &bytes[shape.row(slot, heads.layer, part, kv_head)]
    };
    let width = shape.element_bytes();
    let scores: Vec<f32> = (first..=position)
        .map(|j| {
            let key = row(j, Part::Keys);
            let dot = |(i, q): (usize, &f32)| q * encoding::load(shape.dtype, key, i * width);
            query.iter().enumerate().map(dot).sum::<f32>() * heads.scale
        })
        .collect();
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = scores.iter().map(|score| (score - largest).exp()).sum();
    out.fill(0.0);
    for (score, j) in scores.iter().zip(first..) {
        let value = row(j, Part::Values);
        let share = (score - largest).exp() / sum;
        for (i, out) in out.iter_mut().enumerate() {
            *out += share * encoding::load(shape.dtype, value, i * width);
        }
    }
}
