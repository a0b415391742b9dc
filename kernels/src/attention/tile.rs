//! The arithmetic of a tile: 32 keys and values against the rows of a unit.
//!
//! Keys are turned so that a vector holds sixteen keys of one dimension: scores then need no sums
//! across lanes. Rows pass by several at a time, so that each key and value that is loaded serves
//! all of them. Every row's arithmetic is the same whatever rows pass beside it.

use plimsoll_planner::Dtype;

use crate::encoding;
use crate::kv::KvCache;
use crate::simd::{LANES, Simd, array, array_mut, unroll};

use super::job::ROWS;

/// Keys of a tile; divides `SPAN`.
pub(super) const KEYS: usize = 2 * LANES;

/// A row of a unit.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    /// Index over (token, query head) of the call.
    pub(super) index: usize,
    pub(super) query: &'a [f32],
    /// Positions that it sees.
    pub(super) first: usize,
    pub(super) end: usize,
}

impl Row<'_> {
    pub(super) const NONE: Row<'static> = Row {
        index: 0,
        query: &[],
        first: 0,
        end: 0,
    };
}

/// The running sums of all rows over one span.
pub(super) struct Running<const D: usize> {
    pub(super) largest: [f32; ROWS],
    /// Sixteen partial sums of weights per row.
    pub(super) weights: [[f32; LANES]; ROWS],
    pub(super) values: [[f32; D]; ROWS],
}

/// Keys turned and values widened, and the scores of every row.
pub(super) struct Tile<const D: usize> {
    pub(super) keys: [[f32; KEYS]; D],
    pub(super) values: [[f32; D]; KEYS],
    pub(super) scores: [[f32; KEYS]; ROWS],
}

/// One row of the cache as f32.
#[inline(always)]
pub(super) fn widen<S: Simd, const D: usize>(
    s: S,
    shape: &KvCache,
    from: &[u8],
    to: &mut [f32; D],
) {
    let width = shape.element_bytes();
    let (cells, _) = to.as_chunks_mut::<LANES>();
    let whole = shape.head_dim / LANES;
    for (i, cell) in cells[..whole].iter_mut().enumerate() {
        s.store(s.load_as(shape.dtype, &from[i * LANES * width..]), cell);
    }
    for d in whole * LANES..shape.head_dim {
        to[d] = encoding::load(shape.dtype, from, d * width);
    }
}

/// Keys by dimension: `keys[d][k]` is dimension d of key k. Pairs of 16-bit numbers are turned as
/// one word and split afterwards.
#[inline(always)]
pub(super) fn turn<S: Simd, const D: usize>(
    s: S,
    shape: &KvCache,
    rows: &[&[u8]; KEYS],
    keys: &mut [[f32; KEYS]; D],
) {
    let (width, mut d) = (shape.element_bytes(), 0);
    if shape.dtype != Dtype::Float32 {
        while d + 2 * LANES <= shape.head_dim {
            turn_pairs(s, shape.dtype, rows, d, array_mut(&mut keys[d..]));
            d += 2 * LANES;
        }
    }
    while d + LANES <= shape.head_dim {
        for half in 0..KEYS / LANES {
            let mut square = [s.splat(0.0); LANES];
            for k in 0..LANES {
                square[k] = s.load_as(shape.dtype, &rows[half * LANES + k][d * width..]);
            }
            s.transpose(&mut square);
            for i in 0..LANES {
                s.store(square[i], array_mut(&mut keys[d + i][half * LANES..]));
            }
        }
        d += LANES;
    }
    while d < shape.head_dim {
        for k in 0..KEYS {
            keys[d][k] = encoding::load(shape.dtype, rows[k], d * width);
        }
        d += 1;
    }
}

/// Dimensions `first..first + 32` of all keys, 16 bits each.
#[inline(always)]
fn turn_pairs<S: Simd>(
    s: S,
    dtype: Dtype,
    rows: &[&[u8]; KEYS],
    first: usize,
    keys: &mut [[f32; KEYS]; 2 * LANES],
) {
    for half in 0..KEYS / LANES {
        let mut square = [s.splat(0.0); LANES];
        for k in 0..LANES {
            square[k] = s.load_bits(array(&rows[half * LANES + k][2 * first..]));
        }
        s.transpose(&mut square);
        for i in 0..LANES {
            let (even, odd) = match dtype {
                Dtype::Float16 => s.split_f16(square[i]),
                Dtype::BFloat16 | Dtype::Float32 => s.split_bf16(square[i]),
            };
            s.store(even, array_mut(&mut keys[2 * i][half * LANES..]));
            s.store(odd, array_mut(&mut keys[2 * i + 1][half * LANES..]));
        }
    }
}

/// Dot products of all rows with all keys of the tile.
#[inline(always)]
pub(super) fn score_rows<S: Simd, const D: usize>(
    s: S,
    rows: &[Row<'_>],
    tile: &mut Tile<D>,
    head_dim: usize,
) {
    let most = rows_at_once::<S>();
    let mut r = 0;
    while r < rows.len() {
        match (rows.len() - r).min(most) {
            1 => score::<S, D, 1>(s, rows, r, tile, head_dim),
            2 => score::<S, D, 2>(s, rows, r, tile, head_dim),
            3 => score::<S, D, 3>(s, rows, r, tile, head_dim),
            _ => score::<S, D, 4>(s, rows, r, tile, head_dim),
        }
        r += (rows.len() - r).min(most);
    }
}

/// Rows whose sums fit into registers.
#[inline(always)]
const fn rows_at_once<S: Simd>() -> usize {
    if S::VECTORS >= 32 { 4 } else { 2 }
}

#[inline(always)]
fn score<S: Simd, const D: usize, const R: usize>(
    s: S,
    rows: &[Row<'_>],
    first: usize,
    tile: &mut Tile<D>,
    head_dim: usize,
) {
    let keys = &tile.keys[..head_dim];
    let mut queries: [&[f32]; R] = [&[]; R];
    for r in 0..R {
        queries[r] = &rows[first + r].query[..head_dim];
    }
    let mut sums = [[s.splat(0.0); KEYS / LANES]; R];
    for d in 0..head_dim {
        let (cells, _) = keys[d].as_chunks::<LANES>();
        let keys = [s.load(&cells[0]), s.load(&cells[1])];
        unroll!(I in 0..4 {
            if I < R {
                let query = s.splat(queries[I][d]);
                sums[I][0] = s.fma(keys[0], query, sums[I][0]);
                sums[I][1] = s.fma(keys[1], query, sums[I][1]);
            }
        });
    }
    unroll!(I in 0..4 {
        if I < R {
            let (cells, _) = tile.scores[first + I].as_chunks_mut::<LANES>();
            s.store(sums[I][0], &mut cells[0]);
            s.store(sums[I][1], &mut cells[1]);
        }
    });
}

/// Turns a row's scores into weights exp(score - largest), and scales what it has so far when the
/// largest grows.
#[inline(always)]
pub(super) fn soften<S: Simd, const D: usize>(
    s: S,
    row: &Row<'_>,
    key: usize,
    scale: f32,
    r: usize,
    tile: &mut Tile<D>,
    running: &mut Running<D>,
) {
    let (begin, end) = seen(row, key);
    if begin >= end {
        return;
    }
    let (cells, _) = tile.scores[r].as_chunks_mut::<LANES>();
    let mut scores = [
        s.mul(s.load(&cells[0]), s.splat(scale)),
        s.mul(s.load(&cells[1]), s.splat(scale)),
    ];
    if begin > 0 || end < KEYS {
        scores[0] = mask(s, scores[0], begin, end, 0);
        scores[1] = mask(s, scores[1], begin, end, LANES);
    }
    let top = s.largest(s.max(scores[0], scores[1]));
    if top > running.largest[r] {
        let mut lanes = [0.0; LANES];
        s.store(s.exp(s.splat(running.largest[r] - top)), &mut lanes);
        running.largest[r] = top;
        let factor = s.splat(lanes[0]);
        s.store(
            s.mul(s.load(&running.weights[r]), factor),
            &mut running.weights[r],
        );
        for cell in running.values[r].as_chunks_mut::<LANES>().0 {
            s.store(s.mul(s.load(cell), factor), cell);
        }
    }
    let largest = s.splat(running.largest[r]);
    let weights = [
        s.exp(s.sub(scores[0], largest)),
        s.exp(s.sub(scores[1], largest)),
    ];
    let sum = s.add(s.load(&running.weights[r]), s.add(weights[0], weights[1]));
    s.store(sum, &mut running.weights[r]);
    s.store(weights[0], &mut cells[0]);
    s.store(weights[1], &mut cells[1]);
}

/// Keys of the tile that a row sees.
#[inline(always)]
fn seen(row: &Row<'_>, key: usize) -> (usize, usize) {
    (
        row.first.saturating_sub(key).min(KEYS),
        row.end.saturating_sub(key).min(KEYS),
    )
}

/// Minus infinity in lanes whose key is not in `begin..end`; lane 0 is key `from`.
#[inline(always)]
#[expect(clippy::cast_precision_loss, reason = "tiles have few keys")]
fn mask<S: Simd>(s: S, scores: S::V, begin: usize, end: usize, from: usize) -> S::V {
    const NUMBERS: [f32; LANES] = [
        0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.,
    ];
    let lanes = s.add(s.load(&NUMBERS), s.splat(from as f32));
    let nothing = s.splat(f32::NEG_INFINITY);
    let scores = s.select_lt(lanes, s.splat(end as f32), scores, nothing);
    s.select_lt(lanes, s.splat(begin as f32), nothing, scores)
}

/// Adds weight x value of the tile to all rows: several rows at once where they see the same keys.
#[inline(always)]
pub(super) fn weigh_rows<S: Simd, const D: usize>(
    s: S,
    rows: &[Row<'_>],
    key: usize,
    head_dim: usize,
    tile: &Tile<D>,
    running: &mut Running<D>,
) {
    let most = rows_at_once::<S>();
    let mut r = 0;
    while r < rows.len() {
        let (begin, end) = seen(&rows[r], key);
        let next = rows[r..].iter().take(most);
        let alike = next
            .take_while(|row| seen(row, key) == (begin, end))
            .count();
        match alike {
            1 => weigh::<S, D, 1>(s, r, begin..end, head_dim, tile, running),
            2 => weigh::<S, D, 2>(s, r, begin..end, head_dim, tile, running),
            3 => weigh::<S, D, 3>(s, r, begin..end, head_dim, tile, running),
            _ => weigh::<S, D, 4>(s, r, begin..end, head_dim, tile, running),
        }
        r += alike;
    }
}

#[inline(always)]
fn weigh<S: Simd, const D: usize, const R: usize>(
    s: S,
    first: usize,
    keys: std::ops::Range<usize>,
    head_dim: usize,
    tile: &Tile<D>,
    running: &mut Running<D>,
) {
    /// Vectors of a row that are summed at once.
    const WIDTH: usize = 4;
    for block in 0..head_dim.div_ceil(WIDTH * LANES) {
        let at = block * WIDTH;
        let mut sums = [[s.splat(0.0); WIDTH]; R];
        unroll!(I in 0..4 {
            if I < R {
                let (cells, _) = running.values[first + I].as_chunks::<LANES>();
                unroll!(J in 0..4 { sums[I][J] = s.load(&cells[at + J]); });
            }
        });
        for k in keys.clone() {
            let (cells, _) = tile.values[k].as_chunks::<LANES>();
            let cells: &[[f32; LANES]; WIDTH] = array(&cells[at..]);
            unroll!(I in 0..4 {
                if I < R {
                    let weight = s.splat(tile.scores[first + I][k]);
                    unroll!(J in 0..4 {
                        sums[I][J] = s.fma(s.load(&cells[J]), weight, sums[I][J]);
                    });
                }
            });
        }
        unroll!(I in 0..4 {
            if I < R {
                let (cells, _) = running.values[first + I].as_chunks_mut::<LANES>();
                unroll!(J in 0..4 { s.store(sums[I][J], &mut cells[at + J]); });
            }
        });
    }
}
