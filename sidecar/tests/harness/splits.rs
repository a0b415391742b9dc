//! Splits of a model over ranks that hold as much as each other, or less.

use std::ops::Range;

use plimsoll_planner::{ModelShape, Shard};

/// Runs of whole units up to `end`, one per rank.
pub fn cut(end: u32, ranks: u32, unit: u32, lean: u32) -> Vec<Range<u32>> {
    let units = end.div_ceil(unit);
    // Rank 0 gets `lean` units more than an even share.
    let edge = |rank: u32| match rank {
        0 => 0,
        rank if rank == ranks => end,
        rank => ((units * rank).div_ceil(ranks) + lean).min(units) * unit,
    };
    (0..ranks)
        .map(|rank| edge(rank).min(end)..edge(rank + 1).min(end))
        .collect()
}

/// A split of whole KV heads, MLP units and vocabulary units, leaning towards the first ranks.
pub fn split(shape: &ModelShape, ranks: u32, lean: [u32; 3]) -> Vec<Shard> {
    let group = shape.group();
    let heads = cut(shape.kv_heads, ranks, 1, lean[0]);
    let columns = cut(shape.ffn, ranks, 128, lean[1]);
    let rows = cut(shape.vocab, ranks, 64, lean[2]);
    let shard = |((kv_heads, mlp_columns), vocab_rows): ((Range<u32>, Range<u32>), Range<u32>)| {
        let query_heads = kv_heads.start * group..kv_heads.end * group;
        Shard {
            kv_heads,
            query_heads,
            mlp_columns,
            vocab_rows,
        }
    };
    heads
        .into_iter()
        .zip(columns)
        .zip(rows)
        .map(shard)
        .collect()
}
