//! A tile: 32 keys and values against the rows of a unit, and what its rows have summed so far.
//!
//! The score of a key is defined lane by lane: lane l sums, in f32 and in order, the products of the
//! numbers l, 16 + l, 32 + l, ... of key and query in a row's order (`load`); the sixteen sums are
//! then added by a fixed tree, (0 + 2) + (1 + 3) in each four and the fours likewise in pairs. `few` and
//! `many` both do that, whatever rows pass beside a row, so that its bits do not depend on them.

use crate::simd::{LANES, Simd};

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

/// Where a tile's keys lie in the cache; their values lie at one distance from them.
#[derive(Clone, Copy)]
pub(super) struct Spots {
    /// The position of the first key.
    pub(super) key: usize,
    pub(super) count: usize,
    /// Those past `count` are the last one's: they are scored and then masked.
    pub(super) at: [usize; KEYS],
}

/// A way to read the keys and values of a tile, for up to `N` rows.
pub(super) trait Read<S: Simd, const D: usize, const N: usize> {
    /// Products of all rows with all keys of the tile, while the `next` one's keys are asked for.
    fn score(&mut self, s: S, rows: &[Row<'_>], here: &Spots, next: &Spots, scores: &mut Scores<N>);

    /// Adds weight x value of the tile to all rows, while the `next` one's values are asked for.
    fn weigh(
        &self,
        s: S,
        rows: &[Row<'_>],
        here: &Spots,
        next: &Spots,
        scores: &Scores<N>,
        running: &mut Running<D, N>,
    );

    /// A row's sums of values, in the order of dimensions.
    fn values<'a>(&self, values: &'a mut [f32; D]) -> &'a [f32];
}

/// Scores of the tile's keys, then their weights.
pub(super) struct Scores<const N: usize> {
    pub(super) rows: [[f32; KEYS]; N],
    /// Whether the cache has integers, and what they are multiples of.
    pub(super) scaled: bool,
    pub(super) key_scales: [f32; KEYS],
    pub(super) value_scales: [f32; KEYS],
}

impl<const N: usize> Scores<N> {
    pub(super) const EMPTY: Scores<N> = Scores {
        rows: [[0.0; KEYS]; N],
        scaled: false,
        key_scales: [1.0; KEYS],
        value_scales: [1.0; KEYS],
    };
}

/// The running sums of all rows over one span.
pub(super) struct Running<const D: usize, const N: usize> {
    pub(super) largest: [f32; N],
    /// Sixteen partial sums of weights per row.
    pub(super) weights: [[f32; LANES]; N],
    pub(super) values: [[f32; D]; N],
}

impl<const D: usize, const N: usize> Running<D, N> {
    pub(super) const EMPTY: Running<D, N> = Running {
        largest: [f32::NEG_INFINITY; N],
        weights: [[0.0; LANES]; N],
        values: [[0.0; D]; N],
    };
}

/// Rows whose sums fit into registers.
#[inline(always)]
pub(super) const fn rows_at_once<S: Simd>() -> usize {
    match S::VECTORS {
        32.. => 4,
        8.. => 2,
        _ => 1,
    }
}

/// Calls `$work.some::<S, R>(s, r)` for all of so many rows, R of them at a time: as many as `$count` says
/// of those from `$r` on, 4 at most.
macro_rules! some_at_once {
    ($work:ident, $s:ident, $rows:expr, |$r:ident| $count:expr) => {{
        let (mut $r, rows) = (0, $rows);
        while $r < rows {
            let count = $count;
            match count {
                1 => $work.some::<S, 1>($s, $r),
                2 => $work.some::<S, 2>($s, $r),
                3 => $work.some::<S, 3>($s, $r),
                _ => $work.some::<S, 4>($s, $r),
            }
            $r += count;
        }
    }};
}
pub(super) use some_at_once;

/// Keys of the tile from position `key` on that a row sees.
#[inline(always)]
pub(super) fn seen(row: &Row<'_>, key: usize) -> (usize, usize) {
    (
        row.first.saturating_sub(key).min(KEYS),
        row.end.saturating_sub(key).min(KEYS),
    )
}

/// How many of `rows`, up to `most`, see the same keys as the first.
#[inline(always)]
pub(super) fn alike(rows: &[Row<'_>], key: usize, most: usize) -> usize {
    let first = seen(&rows[0], key);
    let next = rows.iter().take(most);
    next.take_while(|row| seen(row, key) == first).count()
}

/// Turns a row's products into weights exp(score - largest), each times its value's scale, and scales
/// what it has so far when the largest grows.
#[inline(always)]
pub(super) fn soften<S: Simd, const D: usize, const N: usize>(
    s: S,
    (begin, end): (usize, usize),
    scale: f32,
    r: usize,
    scores: &mut Scores<N>,
    running: &mut Running<D, N>,
) {
    if begin >= end {
        return;
    }
    let scaled = scores.scaled;
    let (cells, _) = scores.rows[r].as_chunks_mut::<LANES>();
    let (key_scales, _) = scores.key_scales.as_chunks::<LANES>();
    let (value_scales, _) = scores.value_scales.as_chunks::<LANES>();
    let mut products = [s.load(&cells[0]), s.load(&cells[1])];
    if scaled {
        products[0] = s.mul(products[0], s.load(&key_scales[0]));
        products[1] = s.mul(products[1], s.load(&key_scales[1]));
    }
    let scale = s.splat(scale);
    let mut scores = [s.mul(products[0], scale), s.mul(products[1], scale)];
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
    let mut weights = [
        s.exp(s.sub(scores[0], largest)),
        s.exp(s.sub(scores[1], largest)),
    ];
    let sum = s.add(s.load(&running.weights[r]), s.add(weights[0], weights[1]));
    s.store(sum, &mut running.weights[r]);
    if scaled {
        weights[0] = s.mul(weights[0], s.load(&value_scales[0]));
        weights[1] = s.mul(weights[1], s.load(&value_scales[1]));
    }
    s.store(weights[0], &mut cells[0]);
    s.store(weights[1], &mut cells[1]);
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
