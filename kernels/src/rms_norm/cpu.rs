//! One row at a time: squares are summed in four vectors, so the additions do not wait for each
//! other.

use crate::pool::Pool;
use crate::simd::{self, LANES, Simd, Work};

/// Numbers that are worth handing to another thread.
const CELLS_PER_CHUNK: usize = 16 << 10;

pub(super) fn run(pool: &Pool, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let (cols, isa) = (weight.len(), pool.isa());
    let rows = pool.rows_per_chunk(x.len() / cols, cols, CELLS_PER_CHUNK);
    pool.run_rows(out, cols, rows, |first, out| {
        let x = &x[first * cols..][..out.len()];
        simd::dispatch(
            isa,
            Normalise {
                x,
                weight,
                eps,
                out,
            },
        );
    });
}

pub(super) fn run_residual(
    pool: &Pool,
    x: &[f32],
    residual: &mut [f32],
    weight: &[f32],
    eps: f32,
    out: &mut [f32],
) {
    let (cols, isa) = (weight.len(), pool.isa());
    let rows = pool.rows_per_chunk(x.len() / cols, cols, CELLS_PER_CHUNK);
    pool.run_rows(residual, cols, rows, |first, residual| {
        let x = &x[first * cols..][..residual.len()];
        simd::dispatch(isa, Add { x, sum: residual });
    });
    run(pool, residual, weight, eps, out);
}

struct Add<'a> {
    x: &'a [f32],
    sum: &'a mut [f32],
}

impl Work for Add<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (sums, sums_rest) = self.sum.as_chunks_mut::<LANES>();
        let (x, x_rest) = self.x.as_chunks::<LANES>();
        for (sum, x) in sums.iter_mut().zip(x) {
            s.store(s.add(s.load(sum), s.load(x)), sum);
        }
        for (sum, x) in sums_rest.iter_mut().zip(x_rest) {
            *sum += x;
        }
    }
}

struct Normalise<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Work for Normalise<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let cols = self.weight.len();
        for (x, out) in self
            .x
            .chunks_exact(cols)
            .zip(self.out.chunks_exact_mut(cols))
        {
            out.copy_from_slice(x);
            normalise(s, out, self.weight, self.eps);
        }
    }
}

/// Normalises one row in place.
#[inline(always)]
pub(crate) fn normalise<S: Simd>(s: S, row: &mut [f32], weight: &[f32], eps: f32) {
    let scale = s.splat(scale(s, row, eps));
    let (cells, rest) = row.as_chunks_mut::<LANES>();
    let (weights, weights_rest) = weight.as_chunks::<LANES>();
    for (cell, weight) in cells.iter_mut().zip(weights) {
        s.store(s.mul(s.mul(s.load(cell), scale), s.load(weight)), cell);
    }
    if !rest.is_empty() {
        let product = s.mul(s.mul(s.load_part(rest), scale), s.load_part(weights_rest));
        s.store_part(product, rest);
    }
}

/// 1 / sqrt(mean of squares + eps)
#[inline(always)]
#[expect(
    clippy::cast_precision_loss,
    reason = "a row has far fewer than 2^24 columns"
)]
fn scale<S: Simd>(s: S, row: &[f32], eps: f32) -> f32 {
    let (cells, rest) = row.as_chunks::<LANES>();
    let (groups, last) = cells.as_chunks::<4>();
    let mut sums = [s.splat(0.0); 4];
    for group in groups {
        for (sum, cell) in sums.iter_mut().zip(group) {
            let v = s.load(cell);
            *sum = s.fma(v, v, *sum);
        }
    }
    for (sum, cell) in sums.iter_mut().zip(last) {
        let v = s.load(cell);
        *sum = s.fma(v, v, *sum);
    }
    let v = s.load_part(rest);
    sums[3] = s.fma(v, v, sums[3]);
    let squares = s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])));
    1.0 / (squares / row.len() as f32 + eps).sqrt()
}
