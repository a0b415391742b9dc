//! Tries every split. Shares the layouts of weights, cache and adapters with the planner (they have tests
//! of their own) and nothing else: it has its own sizes of the rest (`sizes`), enumerates every way to cut heads, MLP units and vocabulary units, and searches
//! the longest cache of each by stepping through it.
#![allow(clippy::cast_possible_truncation, reason = "small numbers")]

use std::cmp::Reverse;

use plimsoll_planner::{
    Bytes, ModelShape, RankCapacity, Request, Shard, adapters, kv_cache, weights,
};

use crate::sizes;

/// What a split is judged by, best first: most tokens; then the least work of the busiest rank;
/// then, among those within 1/128 of the least, how even it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Score {
    pub(crate) blocks: u64,
    pub(crate) step_bytes: u64,
    pub(crate) even: Evenness,
}

/// The smallest largest and the largest smallest share of heads, then of MLP units; less is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Evenness {
    most_heads: u32,
    fewest_heads: Reverse<u32>,
    most_columns: u32,
    fewest_columns: Reverse<u32>,
}

/// In whole granules of the backend.
fn rounded(request: &Request, bytes: u64) -> u64 {
    let granule = sizes::granule(request.backend);
    bytes.div_ceil(granule) * granule
}

fn context_of(request: &Request, blocks: u64) -> u32 {
    let tokens = blocks * u64::from(request.kv.block_size);
    request
        .limits
        .max_model_len
        .unwrap_or(tokens.min(request.shape.context.into()) as u32)
}

fn blocks_for(request: &Request, tokens: u64) -> u64 {
    tokens.div_ceil(request.kv.block_size.into())
}

fn fewest_blocks(request: &Request) -> u64 {
    let least = request
        .limits
        .max_model_len
        .unwrap_or(request.shape.context.min(256));
    blocks_for(request, least.into())
}

pub(crate) fn blocks_wanted(request: &Request) -> u64 {
    let context = request
        .limits
        .max_model_len
        .unwrap_or(request.shape.context);
    blocks_for(
        request,
        u64::from(context) * u64::from(request.limits.max_num_seqs),
    )
}

fn budget(request: &Request, rank: usize) -> u64 {
    let RankCapacity { quota, total } = request.ranks[rank];
    let share = total.map(|t| t.get() * u64::from(request.utilization.0) / 1000);
    quota
        .map_or(u64::MAX, Bytes::get)
        .min(share.unwrap_or(u64::MAX))
}

/// Weights of a rank that offloads as many layers as fit, when that gains anything.
fn weight_bytes(request: &Request, rank: usize, shard: &Shard) -> u64 {
    let all = weights::layout(&request.shape, shard, request.kept(), rank as u32).total();
    let granule = sizes::granule(request.backend);
    let most = request.cpu_offload.unwrap_or_default().get() / granule * granule;
    let sizes = layer_sizes(request, rank, shard);
    let mut moved = 0;
    for layer in from_the_end_by_halves(request.shape.layers) {
        if moved + sizes[layer] > most {
            break;
        }
        moved += sizes[layer];
    }
    let largest = sizes.into_iter().max().unwrap_or(0);
    let ring = rounded(request, largest) * 2;
    match moved > ring {
        true => rounded(request, all.get() - moved) + ring,
        false => rounded(request, all.get()),
    }
}

/// Bytes of each layer's matrices, of the layout of all of them.
fn layer_sizes(request: &Request, rank: usize, shard: &Shard) -> Vec<u64> {
    let mut sizes = vec![0; request.shape.layers as usize];
    let layout = weights::layout(&request.shape, shard, request.kept(), rank as u32);
    for place in layout.places() {
        if let Some(layer) = place.tensor.matrix_of() {
            sizes[layer as usize] += place.bytes.next_multiple_of(64);
        }
    }
    sizes
}

/// The last layer, that half of all away from it, those a quarter away from these, and so on.
fn from_the_end_by_halves(layers: u32) -> Vec<usize> {
    let mut order = Vec::new();
    let (mut step, mut starts) = (layers.next_power_of_two() as usize, vec![0]);
    while step > 0 {
        order.extend(starts.iter().copied());
        step /= 2;
        starts = order.iter().map(|start| start + step).collect();
    }
    let last = layers as usize - 1;
    order.retain(|back| *back <= last);
    order.iter().map(|back| last - back).collect()
}

fn rank_fits(request: &Request, rank: usize, shard: &Shard, blocks: u64) -> bool {
    let Request {
        shape, limits, kv, ..
    } = request;
    let context = context_of(request, blocks);
    let cache = kv_cache::block_bytes(shape, shard, kv).get() * (blocks + 1);
    let cache = rounded(request, cache);
    let adapters = adapters::layout(shape, shard, limits, request.adapters).total();
    let rounded = |bytes| rounded(request, bytes);
    let bytes = weight_bytes(request, rank, shard)
        + cache
        + rounded(sizes::activations(request, shard))
        + rounded(sizes::workspaces(request, shard, context))
        + rounded(adapters.get())
        + rounded(sizes::comm(request))
        + sizes::driver(request.backend, request.ranks.len() as u64);
    bytes <= budget(request, rank) && kv.size.is_none_or(|size| cache <= size.get())
}

pub(crate) fn fits(request: &Request, shards: &[Shard], blocks: u64) -> bool {
    shards
        .iter()
        .enumerate()
        .all(|(rank, shard)| rank_fits(request, rank, shard, blocks))
}

/// The most blocks up to `bound` that fit, null block not counted.
fn most_blocks(request: &Request, shards: &[Shard], bound: u64) -> Option<u64> {
    let first = fewest_blocks(request);
    let mut blocks = (first <= bound && fits(request, shards, first)).then_some(first)?;
    while blocks < bound && fits(request, shards, blocks + 1) {
        blocks += 1;
    }
    Some(blocks)
}

fn step_bytes(request: &Request, shards: &[Shard], blocks: u64) -> u64 {
    let of_rank = |(rank, shard): (usize, &Shard)| {
        weights::layout(&request.shape, shard, request.kept(), rank as u32)
            .total()
            .get()
            + kv_cache::block_bytes(&request.shape, shard, &request.kv).get() * blocks
    };
    shards.iter().enumerate().map(of_rank).max().unwrap_or(0)
}

pub(crate) fn score(request: &Request, shards: &[Shard], blocks: u64) -> Score {
    let heads: Vec<u32> = shards.iter().map(Shard::query_head_count).collect();
    let columns: Vec<u32> = shards
        .iter()
        .map(|shard| shard.mlp_column_count().div_ceil(128))
        .collect();
    let even = Evenness {
        most_heads: heads.iter().copied().max().unwrap_or(0),
        fewest_heads: Reverse(heads.iter().copied().min().unwrap_or(0)),
        most_columns: columns.iter().copied().max().unwrap_or(0),
        fewest_columns: Reverse(columns.iter().copied().min().unwrap_or(0)),
    };
    Score {
        blocks,
        step_bytes: step_bytes(request, shards, blocks),
        even,
    }
}

/// All ways to write `total` as `parts` numbers.
fn compositions(total: u32, parts: usize) -> Vec<Vec<u32>> {
    if parts == 1 {
        return vec![vec![total]];
    }
    let tail = |first: u32| {
        compositions(total - first, parts - 1)
            .into_iter()
            .map(move |mut rest| {
                rest.insert(0, first);
                rest
            })
    };
    (0..=total).flat_map(tail).collect()
}

/// Contiguous ranges of `units` units of `unit` each, of `total` in all.
fn ranges(units: &[u32], unit: u32, total: u32) -> Vec<std::ops::Range<u32>> {
    let mut end = 0;
    let range = |count: &u32| {
        let start = end;
        end += count;
        (start * unit).min(total)..(end * unit).min(total)
    };
    units.iter().map(range).collect()
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Family {
    Whole,
    Divided,
    DividedOverAll,
}

/// The cuts of query heads that a family allows: whole groups, or parts of one group.
fn head_cuts(request: &Request, family: Family) -> Vec<Vec<u32>> {
    let ModelShape { query_heads, .. } = request.shape;
    let group = request.shape.group();
    let mut cuts = compositions(query_heads, request.ranks.len());
    cuts.retain(|cut| {
        let mut start = 0;
        cut.iter().all(|heads| {
            let end = start + heads;
            let whole = start % group == 0 && end % group == 0;
            let inside = start / group == (end - 1.min(end)) / group && start < end;
            start = end;
            match family {
                Family::Whole => whole,
                Family::Divided => whole || inside || *heads == 0,
                Family::DividedOverAll => (whole || inside) && *heads > 0,
            }
        })
    });
    cuts
}

fn best_of_family(request: &Request, family: Family) -> Option<Score> {
    let shape = &request.shape;
    let ranks = request.ranks.len();
    let group = shape.group();
    let mut scores = Vec::new();
    for heads in head_cuts(request, family) {
        let heads = ranges(&heads, 1, shape.query_heads);
        for columns in compositions(shape.ffn.div_ceil(128), ranks) {
            let columns = ranges(&columns, 128, shape.ffn);
            for rows in compositions(shape.vocab.div_ceil(64), ranks) {
                let rows = ranges(&rows, 64, shape.vocab);
                let shard = |rank: usize| {
                    let query_heads: std::ops::Range<u32> = heads[rank].clone();
                    let start = query_heads.start / group;
                    let end = if query_heads.is_empty() {
                        start
                    } else {
                        query_heads.end.div_ceil(group)
                    };
                    Shard {
                        kv_heads: start..end,
                        query_heads,
                        mlp_columns: columns[rank].clone(),
                        vocab_rows: rows[rank].clone(),
                    }
                };
                let shards: Vec<Shard> = (0..ranks).map(shard).collect();
                if let Some(blocks) = most_blocks(request, &shards, blocks_wanted(request)) {
                    scores.push(score(request, &shards, blocks));
                }
            }
        }
    }
    let blocks = scores.iter().map(|score| score.blocks).max()?;
    scores.retain(|score| score.blocks == blocks);
    let step_bytes = scores.iter().map(|score| score.step_bytes).min()?;
    scores.retain(|score| score.step_bytes <= step_bytes + step_bytes / 128);
    let even = scores.iter().map(|score| score.even).min()?;
    Some(Score {
        blocks,
        step_bytes,
        even,
    })
}

pub(crate) fn best(request: &Request) -> Option<Score> {
    let families: &[Family] = if request.ranks.len() > request.shape.kv_heads as usize {
        &[Family::DividedOverAll, Family::Whole, Family::Divided]
    } else {
        &[Family::Whole, Family::Divided]
    };
    families
        .iter()
        .find_map(|family| best_of_family(request, *family))
}
