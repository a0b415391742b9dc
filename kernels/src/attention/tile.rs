//! The arithmetic of a tile: 32 keys and values against the rows of a unit.
//!
//! Keys are turned so that a vector holds sixteen keys of one dimension: scores then need no sums
//! across lanes. Rows pass by several at a time, so that each key and value that is loaded serves
//! all of them. Every row's arithmetic is the same whatever rows pass beside it.

use crate::simd::{LANES, Simd, array, unroll};

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
    /// What the keys are to be multiplied by: 1 where the cache has floats.
    pub(super) key_scales: [f32; KEYS],
    pub(super) value_scales: [f32; KEYS],
    pub(super) scores: [[f32; KEYS]; ROWS],
}

impl<const D: usize> Tile<D> {
    pub(super) const EMPTY: Tile<D> = Tile {
        keys: [[0.0; KEYS]; D],
        values: [[0.0; D]; KEYS],
        key_scales: [1.0; KEYS],
        value_scales: [1.0; KEYS],
        scores: [[0.0; KEYS]; ROWS],
    };
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

/// Turns a row's products into weights exp(score - largest), each times its value's scale, and scales
/// what it has so far when the largest grows.
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
    let (key_scales, _) = tile.key_scales.as_chunks::<LANES>();
    let (value_scales, _) = tile.value_scales.as_chunks::<LANES>();
    // Times 1 no bit changes.
    let score = |half: usize| {
        s.mul(
            s.mul(s.load(&cells[half]), s.load(&key_scales[half])),
            s.splat(scale),
        )
    };
    let mut scores = [score(0), score(1)];
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
    s.store(s.mul(weights[0], s.load(&value_scales[0])), &mut cells[0]);
    s.store(s.mul(weights[1], s.load(&value_scales[1])), &mut cells[1]);
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
