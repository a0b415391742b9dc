//! The arithmetic of a unit of many rows, as in prefill. Keys are turned so that a vector holds
//! sixteen keys of one number: scores then need no sums across lanes. Turned keys and widened values
//! serve all rows, which pass by several at a time.

use plimsoll_planner::KvDtype;

use crate::simd::{LANES, Simd, Work, array, unroll};

use super::job::{Job, ROWS};
use super::load::{arrange, turn, widen};
use super::tile::{
    KEYS, Read, Row, Running, Scores, Spots, alike, rows_at_once, seen, some_at_once,
};

pub(super) struct Many<'a, const D: usize> {
    bytes: &'a [u8],
    /// From a key to its value.
    values_at: usize,
    /// Bytes of a key.
    row: usize,
    dtype: KvDtype,
    head_dim: usize,
    queries: [[f32; D]; ROWS],
    keys: [[f32; KEYS]; D],
    values: [[f32; D]; KEYS],
}

impl<'a, const D: usize> Many<'a, D> {
    #[inline(always)]
    pub(super) fn new<S: Simd>(s: S, job: &Job<'a>, rows: &[Row<'_>]) -> Many<'a, D> {
        let mut queries = [[0.0; D]; ROWS];
        for (to, row) in queries.iter_mut().zip(rows) {
            arrange(s, job.shape.dtype, row.query, to);
        }
        Many {
            bytes: job.bytes,
            values_at: job.places.values,
            row: job.places.row,
            dtype: job.shape.dtype,
            head_dim: job.shape.head_dim,
            queries,
            // Numbers past a row's are zeros for good.
            keys: [[0.0; KEYS]; D],
            values: [[0.0; D]; KEYS],
        }
    }
}

impl<S: Simd, const D: usize> Read<S, D, ROWS> for Many<'_, D> {
    #[inline(always)]
    fn score(
        &mut self,
        s: S,
        rows: &[Row<'_>],
        here: &Spots,
        next: &Spots,
        scores: &mut Scores<ROWS>,
    ) {
        s.apart(Load {
            bytes: self.bytes,
            values_at: self.values_at,
            row: self.row,
            dtype: self.dtype,
            head_dim: self.head_dim,
            here,
            next,
            keys: &mut self.keys,
            values: self.values.as_flattened_mut(),
        });
        s.apart(Score {
            queries: &self.queries.as_flattened()[..rows.len() * D],
            stride: D,
            keys: &self.keys[..self.head_dim.next_multiple_of(LANES)],
            scores: &mut scores.rows[..rows.len()],
        });
    }

    #[inline(always)]
    fn weigh(
        &self,
        s: S,
        rows: &[Row<'_>],
        here: &Spots,
        _next: &Spots,
        scores: &Scores<ROWS>,
        running: &mut Running<D, ROWS>,
    ) {
        s.apart(Weigh {
            rows,
            key: here.key,
            head_dim: self.head_dim,
            stride: D,
            values: self.values.as_flattened(),
            weights: &scores.rows,
            sums: running.values.as_flattened_mut(),
        });
    }

    #[inline(always)]
    fn values<'a>(&self, values: &'a mut [f32; D]) -> &'a [f32] {
        &values[..self.head_dim]
    }
}

/// Loads a tile, and asks for the next: blocks lie far apart, so the machine does not guess them.
struct Load<'a> {
    bytes: &'a [u8],
    values_at: usize,
    row: usize,
    dtype: KvDtype,
    head_dim: usize,
    here: &'a Spots,
    next: &'a Spots,
    keys: &'a mut [[f32; KEYS]],
    values: &'a mut [f32],
}

impl Work for Load<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut rows: [&[u8]; KEYS] = [&[]; KEYS];
        for k in 0..KEYS {
            rows[k] = &self.bytes[self.here.at[k]..][..self.row];
        }
        let stride = self.values.len() / KEYS;
        for k in 0..self.here.count {
            let value = &self.bytes[self.here.at[k] + self.values_at..][..self.row];
            let to = &mut self.values[k * stride..][..stride];
            widen(s, (self.dtype, self.head_dim), value, to);
        }
        for at in &self.next.at[..self.next.count] {
            s.prefetch_l2(&self.bytes[*at..][..self.row]);
            s.prefetch_l2(&self.bytes[at + self.values_at..][..self.row]);
        }
        turn(s, (self.dtype, self.head_dim), &rows, self.keys);
    }
}

/// Dot products of all rows with all keys of the tile.
struct Score<'a> {
    queries: &'a [f32],
    stride: usize,
    /// By number of a row, whole vectors of them.
    keys: &'a [[f32; KEYS]],
    scores: &'a mut [[f32; KEYS]],
}

impl Work for Score<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let (rows, most) = (self.scores.len(), rows_at_once::<S>());
        some_at_once!(self, s, rows, |r| (rows - r).min(most));
    }
}

impl Score<'_> {
    #[inline(always)]
    fn some<S: Simd, const R: usize>(&mut self, s: S, first: usize) {
        let mut queries: [&[f32]; R] = [&[]; R];
        for r in 0..R {
            queries[r] = &self.queries[(first + r) * self.stride..][..self.keys.len()];
        }
        // Sums of four lanes each: what the tree adds last.
        let mut quads = [[[s.splat(0.0); 2]; R]; LANES / 4];
        for q in 0..LANES / 4 {
            let even = add(
                s,
                &lane(s, self.keys, &queries, 4 * q),
                &lane(s, self.keys, &queries, 4 * q + 2),
            );
            let odd = add(
                s,
                &lane(s, self.keys, &queries, 4 * q + 1),
                &lane(s, self.keys, &queries, 4 * q + 3),
            );
            quads[q] = add(s, &even, &odd);
        }
        let low = add(s, &quads[0], &quads[1]);
        let sums = add(s, &low, &add(s, &quads[2], &quads[3]));
        for r in 0..R {
            let (cells, _) = self.scores[first + r].as_chunks_mut::<LANES>();
            s.store(sums[r][0], &mut cells[0]);
            s.store(sums[r][1], &mut cells[1]);
        }
    }
}

/// What one lane sums of the products of `R` rows with all keys of the tile.
#[inline(always)]
fn lane<S: Simd, const R: usize>(
    s: S,
    keys: &[[f32; KEYS]],
    queries: &[&[f32]; R],
    lane: usize,
) -> [[S::V; 2]; R] {
    let mut sums = [[s.splat(0.0); 2]; R];
    let (cells, _) = keys[lane].as_chunks::<LANES>();
    let first = [s.load(&cells[0]), s.load(&cells[1])];
    unroll!(I in 0..4 {
        if I < R {
            let query = s.splat(queries[I][lane]);
            sums[I] = [s.mul(first[0], query), s.mul(first[1], query)];
        }
    });
    let mut at = lane + LANES;
    while at < keys.len() {
        step(s, keys, queries, at, &mut sums);
        at += LANES;
    }
    sums
}

#[inline(always)]
fn step<S: Simd, const R: usize>(
    s: S,
    keys: &[[f32; KEYS]],
    queries: &[&[f32]; R],
    at: usize,
    sums: &mut [[S::V; 2]; R],
) {
    let (cells, _) = keys[at].as_chunks::<LANES>();
    let keys = [s.load(&cells[0]), s.load(&cells[1])];
    unroll!(I in 0..4 {
        if I < R {
            let query = s.splat(queries[I][at]);
            sums[I][0] = s.fma(keys[0], query, sums[I][0]);
            sums[I][1] = s.fma(keys[1], query, sums[I][1]);
        }
    });
}

#[inline(always)]
fn add<S: Simd, const R: usize>(s: S, a: &[[S::V; 2]; R], b: &[[S::V; 2]; R]) -> [[S::V; 2]; R] {
    let mut sums = *a;
    unroll!(I in 0..4 {
        if I < R {
            sums[I] = [s.add(a[I][0], b[I][0]), s.add(a[I][1], b[I][1])];
        }
    });
    sums
}

/// Adds weight x value of the tile to all rows: several rows at once where they see the same keys.
struct Weigh<'a> {
    rows: &'a [Row<'a>],
    key: usize,
    head_dim: usize,
    stride: usize,
    values: &'a [f32],
    weights: &'a [[f32; KEYS]],
    sums: &'a mut [f32],
}

impl Work for Weigh<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let (rows, most) = (self.rows, rows_at_once::<S>());
        some_at_once!(self, s, rows.len(), |r| alike(&rows[r..], self.key, most));
    }
}

impl Weigh<'_> {
    #[inline(always)]
    fn some<S: Simd, const R: usize>(&mut self, s: S, first: usize) {
        /// Vectors of a row that are summed at once.
        const WIDTH: usize = 4;
        let (begin, end) = seen(&self.rows[first], self.key);
        for block in 0..self.head_dim.div_ceil(WIDTH * LANES) {
            let at = block * WIDTH * LANES;
            let mut sums = [[s.splat(0.0); WIDTH]; R];
            unroll!(I in 0..4 {
                if I < R {
                    let from = &self.sums[(first + I) * self.stride + at..];
                    let (cells, _) = from.as_chunks::<LANES>();
                    unroll!(J in 0..4 { sums[I][J] = s.load(&cells[J]); });
                }
            });
            for k in begin..end {
                let (cells, _) = self.values[k * self.stride + at..].as_chunks::<LANES>();
                let cells: &[[f32; LANES]; WIDTH] = array(cells);
                unroll!(I in 0..4 {
                    if I < R {
                        let weight = s.splat(self.weights[first + I][k]);
                        unroll!(J in 0..4 {
                            sums[I][J] = s.fma(s.load(&cells[J]), weight, sums[I][J]);
                        });
                    }
                });
            }
            unroll!(I in 0..4 {
                if I < R {
                    let to = &mut self.sums[(first + I) * self.stride + at..];
                    let (cells, _) = to.as_chunks_mut::<LANES>();
                    unroll!(J in 0..4 { s.store(sums[I][J], &mut cells[J]); });
                }
            });
        }
    }
}
