//! Softmax over one span of keys, kept so that spans can be added: for one row the largest score
//! so far, the sum of exp(score - largest) and the sum of exp(score - largest) * value.

use crate::simd::{LANES, Simd};

/// Positions that are summed on their own before they are merged, in order, with the rest. It is
/// part of the definition of the result: a row's bits depend on it.
pub(super) const SPAN: usize = 256;

/// What a span's sums have in scratch before their `head_dim` values: largest score, weight.
pub(super) const HEADER: usize = 2;

/// One row's sums over some keys; `D` is the head size rounded up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sums<const D: usize> {
    pub(super) largest: f32,
    pub(super) weight: f32,
    pub(super) values: [f32; D],
}

impl<const D: usize> Sums<D> {
    pub(super) const EMPTY: Sums<D> = Sums {
        largest: f32::NEG_INFINITY,
        weight: 0.0,
        values: [0.0; D],
    };

    /// Adds the sums of the next span.
    #[inline(always)]
    pub(super) fn merge<S: Simd>(&mut self, s: S, largest: f32, weight: f32, values: &[f32]) {
        let top = if self.largest > largest {
            self.largest
        } else {
            largest
        };
        let mut lanes = [0.0; LANES];
        (lanes[0], lanes[1]) = (self.largest - top, largest - top);
        let mut scales = [0.0; LANES];
        s.store(s.exp(s.load(&lanes)), &mut scales);
        let (old, new) = (s.splat(scales[0]), s.splat(scales[1]));
        self.largest = top;
        self.weight = self.weight * scales[0] + weight * scales[1];
        let (sums, _) = self.values.as_chunks_mut::<LANES>();
        let (cells, rest) = values.as_chunks::<LANES>();
        for (sum, cell) in sums.iter_mut().zip(cells) {
            s.store(s.fma(s.load(cell), new, s.mul(s.load(sum), old)), sum);
        }
        if !rest.is_empty() {
            let sum = &mut sums[cells.len()];
            s.store(s.fma(s.load_part(rest), new, s.mul(s.load(sum), old)), sum);
        }
    }

    /// The weighted mean of the values.
    #[inline(always)]
    pub(super) fn finish<S: Simd>(&self, s: S, out: &mut [f32]) {
        let weight = s.splat(self.weight);
        let (sums, _) = self.values.as_chunks::<LANES>();
        let (cells, rest) = out.as_chunks_mut::<LANES>();
        for (cell, sum) in cells.iter_mut().zip(sums) {
            s.store(s.div(s.load(sum), weight), cell);
        }
        if !rest.is_empty() {
            s.store_part(s.div(s.load(&sums[cells.len()]), weight), rest);
        }
    }
}
