//! One chunk per head: it owns that head's columns of qkv and that head's rows of the cache,
//! whatever the slots say. A few rows are not worth handing out and are done by the caller.

use plimsoll_planner::{Dtype, KvDtype};

use crate::encoding;
use crate::kv::{KvCache, Part};
use crate::pool::{Disjoint, Pool};
use crate::rms_norm;
use crate::simd::{self, LANES, Simd, Work};

use super::{NO_SLOT, Step, integers};

/// Numbers that are worth handing to another thread.
const CELLS_PER_CHUNK: usize = 8 << 10;

pub(super) fn run(
    pool: &Pool,
    qkv: &mut [f32],
    step: &Step<'_>,
    cache: &mut [u8],
    shape: &KvCache<KvDtype>,
) {
    let heads = step.query_heads + 2 * shape.heads;
    let cells_per_head = step.positions.len() * shape.head_dim;
    let heads_per_chunk = pool.rows_per_chunk(heads, cells_per_head, CELLS_PER_CHUNK);
    let (qkv, cache) = (Disjoint::new(qkv), Disjoint::new(cache));
    let isa = pool.isa();
    pool.run(heads.div_ceil(heads_per_chunk), |chunk| {
        let first = chunk * heads_per_chunk;
        for head in first..(first + heads_per_chunk).min(heads) {
            simd::dispatch(
                isa,
                Head {
                    head,
                    heads,
                    qkv: &qkv,
                    cache: &cache,
                    step,
                    shape,
                },
            );
        }
    });
}

/// All tokens of one head.
struct Head<'a> {
    head: usize,
    heads: usize,
    qkv: &'a Disjoint<'a, f32>,
    cache: &'a Disjoint<'a, u8>,
    step: &'a Step<'a>,
    shape: &'a KvCache<KvDtype>,
}

impl Work for Head<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Head {
            head,
            heads,
            qkv,
            cache,
            step,
            shape,
        } = self;
        let norm = |weight| step.norm.as_ref().map(|norm| (weight, norm.eps));
        let kv_head = head.checked_sub(step.query_heads);
        let (part, norm) = match kv_head {
            None => (None, step.norm.as_ref().and_then(|n| norm(n.query))),
            Some(key) if key < shape.heads => (
                Some((Part::Keys, key)),
                step.norm.as_ref().and_then(|n| norm(n.key)),
            ),
            Some(value) => (Some((Part::Values, value - shape.heads)), None),
        };
        let is_value = matches!(part, Some((Part::Values, _)));
        for (token, slot) in step.slots.iter().enumerate() {
            let at = (token * heads + head) * shape.head_dim;
            // SAFETY: a head belongs to one chunk, and only that chunk touches its columns.
            let row = unsafe { qkv.chunk(at..at + shape.head_dim) };
            if let Some((weight, eps)) = norm {
                rms_norm::normalise(s, row, weight, eps);
            }
            if !is_value {
                rotate(s, row, step, step.positions[token] as usize);
            }
            if let Some((part, kv_head)) = part.filter(|_| *slot != NO_SLOT) {
                let slot = usize::try_from(*slot).unwrap_or(usize::MAX);
                // SAFETY: only this head's chunk touches the keys (or values) of this KV head.
                let kept = unsafe { cache.chunk(shape.row(slot, step.layer, part, kv_head)) };
                match (
                    shape.dtype.float(),
                    shape.scale(slot, step.layer, part, kv_head),
                ) {
                    (Some(dtype), _) => keep(s, row, dtype, kept),
                    (None, Some(scale)) => {
                        // SAFETY: as above; a scale lies past all numbers of its head.
                        let scale = unsafe { cache.chunk(scale) };
                        integers::keep(s, row, kept, scale);
                    }
                    (None, None) => unreachable!("integers without scales"),
                }
            }
        }
    }
}

/// Rotates the pairs of one head.
#[inline(always)]
fn rotate<S: Simd>(s: S, row: &mut [f32], step: &Step<'_>, position: usize) {
    let half = row.len() / 2;
    let cos = &step.tables.cos[position * half..][..half];
    let sin = &step.tables.sin[position * half..][..half];
    let (first, second) = row.split_at_mut(half);
    let (firsts, first_rest) = first.as_chunks_mut::<LANES>();
    let (seconds, second_rest) = second.as_chunks_mut::<LANES>();
    let (coses, cos_rest) = cos.as_chunks::<LANES>();
    let (sins, sin_rest) = sin.as_chunks::<LANES>();
    for (i, (a, b)) in firsts.iter_mut().zip(seconds).enumerate() {
        let (x, y) = turn(s, s.load(a), s.load(b), s.load(&coses[i]), s.load(&sins[i]));
        s.store(x, a);
        s.store(y, b);
    }
    if !first_rest.is_empty() {
        let (a, b) = (s.load_part(first_rest), s.load_part(second_rest));
        let (x, y) = turn(s, a, b, s.load_part(cos_rest), s.load_part(sin_rest));
        s.store_part(x, first_rest);
        s.store_part(y, second_rest);
    }
}

/// The pair (a, b), turned.
#[inline(always)]
fn turn<S: Simd>(s: S, a: S::V, b: S::V, cos: S::V, sin: S::V) -> (S::V, S::V) {
    (
        s.sub(s.mul(a, cos), s.mul(b, sin)),
        s.fma(b, cos, s.mul(a, sin)),
    )
}

/// Writes one head of one token into the cache.
#[inline(always)]
fn keep<S: Simd>(s: S, row: &[f32], dtype: Dtype, kept: &mut [u8]) {
    let width = encoding::bytes_of(dtype);
    let (cells, rest) = row.as_chunks::<LANES>();
    for (i, cell) in cells.iter().enumerate() {
        s.store_as(s.load(cell), dtype, &mut kept[i * LANES * width..]);
    }
    for (i, value) in rest.iter().enumerate() {
        encoding::store(dtype, kept, (cells.len() * LANES + i) * width, *value);
    }
}
