//! Sums of a tile's values as they lie.

use std::marker::PhantomData;

use crate::simd::{LANES, Simd, Work, array, array_mut, unroll};

use super::Lying;
use crate::attention::load::{BLOCK, Numbers, rest};
use crate::attention::tile::{KEYS, Row, Spots, alike, rows_at_once, seen, some_at_once};

/// Adds weight x value of the tile to all rows, several at once where they see the same keys; asks for
/// the next tile's values likewise.
pub(super) struct Weigh<'a, T> {
    pub(super) cache: Lying<'a>,
    pub(super) rows: &'a [Row<'a>],
    pub(super) here: &'a Spots,
    pub(super) next: &'a Spots,
    pub(super) weights: &'a [[f32; KEYS]],
    pub(super) sums: &'a mut [f32],
    pub(super) stride: usize,
    pub(super) numbers: PhantomData<T>,
}

impl<T: Numbers> Work for Weigh<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let (rows, most) = (self.rows, rows_at_once::<S>());
        some_at_once!(self, s, rows.len(), |r| alike(
            &rows[r..],
            self.here.key,
            most
        ));
    }
}

impl<T: Numbers> Weigh<'_, T> {
    #[inline(always)]
    fn some<S: Simd, const R: usize>(&mut self, s: S, first: usize) {
        let (begin, end) = seen(&self.rows[first], self.here.key);
        let keys = (begin, end.max(begin));
        let (mut from, whole) = (0, self.cache.whole());
        if S::VECTORS >= 32 {
            while from + 2 * BLOCK <= whole {
                self.blocks::<S, R, 2>(s, (first, from), keys);
                from += 2 * BLOCK;
            }
        }
        while from < whole {
            self.blocks::<S, R, 1>(s, (first, from), keys);
            from += BLOCK;
        }
        while from < self.cache.head_dim {
            for k in keys.0..keys.1 {
                let value = self.cache.value(self.here.at[k]);
                let lanes = rest::<T>(value, self.cache.head_dim);
                let cells = s.load(array(&lanes[from - whole..]));
                for r in first..first + R {
                    let sum = array_mut(&mut self.sums[r * self.stride + from..]);
                    s.store(s.fma(cells, s.splat(self.weights[r][k]), s.load(sum)), sum);
                }
            }
            from += LANES;
        }
    }

    /// `B` blocks of the values, from number `from` on.
    #[inline(always)]
    fn blocks<S: Simd, const R: usize, const B: usize>(
        &mut self,
        s: S,
        (first, from): (usize, usize),
        keys: (usize, usize),
    ) {
        let block = from / BLOCK;
        let mut sums = [[[s.splat(0.0); 2]; B]; R];
        unroll!(I in 0..4 {
            if I < R {
                let of_row = &self.sums[(first + I) * self.stride + from..];
                let (cells, _) = of_row.as_chunks::<LANES>();
                unroll!(J in 0..2 {
                    if J < B {
                        sums[I][J] = [s.load(&cells[2 * J]), s.load(&cells[2 * J + 1])];
                    }
                });
            }
        });
        for k in keys.0..keys.1 {
            let value = self.cache.value(self.here.at[k]);
            let blocks = &T::blocks(value)[block..block + B];
            if first == 0 && from == 0 && k < self.next.count {
                s.prefetch_l2(self.cache.value(self.next.at[k]));
            }
            let mut cells = [[s.splat(0.0); 2]; B];
            unroll!(J in 0..2 {
                if J < B {
                    cells[J] = T::two(s, &blocks[J]);
                }
            });
            unroll!(I in 0..4 {
                if I < R {
                    let weight = s.splat(self.weights[first + I][k]);
                    unroll!(J in 0..2 {
                        if J < B {
                            sums[I][J][0] = s.fma(cells[J][0], weight, sums[I][J][0]);
                            sums[I][J][1] = s.fma(cells[J][1], weight, sums[I][J][1]);
                        }
                    });
                }
            });
        }
        unroll!(I in 0..4 {
            if I < R {
                let to = &mut self.sums[(first + I) * self.stride + from..];
                let (cells, _) = to.as_chunks_mut::<LANES>();
                unroll!(J in 0..2 {
                    if J < B {
                        s.store(sums[I][J][0], &mut cells[2 * J]);
                        s.store(sums[I][J][1], &mut cells[2 * J + 1]);
                    }
                });
            }
        });
    }
}
