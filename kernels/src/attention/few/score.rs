//! Scores of a tile's keys as they lie.

use std::marker::PhantomData;

use crate::simd::{LANES, Simd, Work, array, array_mut, unroll};

use super::Lying;
use crate::attention::load::{BLOCK, Numbers, rest};
use crate::attention::tile::{KEYS, Spots, rows_at_once, some_at_once};

/// Keys that are summed across lanes at once.
const QUAD: usize = 4;

/// Dot products of all rows with all keys of the tile. For each key one of the next tile is asked for:
/// asked for all at once, they would fill the machine's queue of misses.
pub(super) struct Score<'a, T> {
    pub(super) cache: Lying<'a>,
    pub(super) here: &'a Spots,
    pub(super) next: &'a Spots,
    pub(super) queries: &'a [f32],
    pub(super) stride: usize,
    pub(super) scores: &'a mut [[f32; KEYS]],
    pub(super) numbers: PhantomData<T>,
}

impl<T: Numbers> Work for Score<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let (rows, most) = (self.scores.len(), rows_at_once::<S>());
        some_at_once!(self, s, rows, |r| (rows - r).min(most));
    }
}

impl<T: Numbers> Score<'_, T> {
    #[inline(always)]
    fn some<S: Simd, const R: usize>(&mut self, s: S, first: usize) {
        for half in 0..KEYS / LANES {
            let mut quads = [[s.splat(0.0); LANES / QUAD]; R];
            for quad in 0..LANES / QUAD {
                let key = half * LANES + quad * QUAD;
                let at = array(&self.here.at[key..]);
                if first == 0 {
                    let end = (key + QUAD).min(self.next.count);
                    for at in &self.next.at[key.min(end)..end] {
                        s.prefetch_l2(self.cache.key(*at));
                    }
                }
                let mut sums = [[s.splat(0.0); QUAD]; R];
                if S::VECTORS >= 32 {
                    self.products::<S, R, 4>(s, first, at, 0, &mut sums);
                } else {
                    self.products::<S, R, 2>(s, first, at, 0, &mut sums);
                    self.products::<S, R, 2>(s, first, at, 2, &mut sums);
                }
                unroll!(I in 0..4 {
                    if I < R {
                        quads[I][quad] = s.sum_quads(sums[I]);
                    }
                });
            }
            for r in 0..R {
                let to = array_mut(&mut self.scores[first + r][half * LANES..]);
                s.store(s.add_quads(quads[r]), to);
            }
        }
    }

    /// Lane by lane the products of `R` rows with keys `from..from + K`, summed in a row's order.
    #[inline(always)]
    fn products<S: Simd, const R: usize, const K: usize>(
        &self,
        s: S,
        first: usize,
        at: &[usize; QUAD],
        from: usize,
        to: &mut [[S::V; QUAD]; R],
    ) {
        let (cache, whole) = (&self.cache, self.cache.whole());
        let mut keys: [&[T::Block]; K] = [&[]; K];
        for k in 0..K {
            keys[k] = &T::blocks(cache.key(at[from + k]))[..whole / BLOCK];
        }
        let mut queries: [&[f32]; R] = [&[]; R];
        let mut blocks: [&[[f32; BLOCK]]; R] = [&[]; R];
        for r in 0..R {
            queries[r] = &self.queries[(first + r) * self.stride..][..self.stride];
            blocks[r] = &queries[r].as_chunks().0[..whole / BLOCK];
        }
        let mut sums = [[s.splat(0.0); K]; R];
        for block in 0..whole / BLOCK {
            let mut cells = [[s.splat(0.0); 2]; K];
            unroll!(J in 0..4 {
                if J < K {
                    cells[J] = T::two(s, &keys[J][block]);
                }
            });
            unroll!(H in 0..2 {
                unroll!(I in 0..4 {
                    if I < R {
                        let query = s.load(array(&blocks[I][block][H * LANES..]));
                        unroll!(J in 0..4 {
                            if J < K {
                                sums[I][J] = s.fma(cells[J][H], query, sums[I][J]);
                            }
                        });
                    }
                });
            });
        }
        let mut tail = whole;
        while tail < cache.head_dim {
            for k in 0..K {
                let lanes = rest::<T>(cache.key(at[from + k]), cache.head_dim);
                let cells = s.load(array(&lanes[tail - whole..]));
                for r in 0..R {
                    let query = s.load(array(&queries[r][tail..]));
                    sums[r][k] = s.fma(cells, query, sums[r][k]);
                }
            }
            tail += LANES;
        }
        for r in 0..R {
            for k in 0..K {
                to[r][from + k] = sums[r][k];
            }
        }
    }
}
