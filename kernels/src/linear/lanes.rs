//! The kernel on f32 lanes: a panel's sixteen rows in one vector, each number of x spread over
//! all lanes. One sum per row and token, columns in order, so blocking changes no bits.

use plimsoll_planner::Dtype;

use crate::simd::{LANES, Simd, Work, unroll};

use super::product::{Chunk, Product};

/// Bytes of a panel that one step reads: one column of f32, or two of 16 bits.
const STEP_BYTES: usize = 4 * LANES;

pub(super) struct Multiply<'a> {
    pub(super) product: Product<'a>,
    pub(super) chunk: Chunk,
}

impl Work for Multiply<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.product.shape.dtype {
            Dtype::Float32 => panels::<S, Float32>(s, &self.product, &self.chunk),
            Dtype::Float16 => panels::<S, Float16>(s, &self.product, &self.chunk),
            Dtype::BFloat16 => panels::<S, BFloat16>(s, &self.product, &self.chunk),
        }
    }
}

/// How a weight's panel and a row of x are read, step by step.
trait Format {
    /// A row of x.
    type Row<'a>: Copy;
    /// Vectors of weights that a step holds.
    const STEP_VECTORS: usize;

    fn row<'a>(product: &Product<'a>, token: usize) -> Self::Row<'a>;

    /// Whole steps of a row.
    fn steps(columns: usize) -> usize;

    /// The numbers of x that step `k` multiplies.
    fn x(row: Self::Row<'_>, k: usize) -> (f32, f32);

    /// The one number after the last whole step, where there is one.
    fn rest(row: Self::Row<'_>) -> Option<f32>;

    /// The weights of a step, column by column.
    fn weights<S: Simd>(s: S, step: &[u8; STEP_BYTES]) -> (S::V, S::V);

    /// sums + weights * x
    fn add<S: Simd>(s: S, weights: (S::V, S::V), x: (f32, f32), sums: S::V) -> S::V;
}

struct Float32;
struct Float16;
struct BFloat16;

impl Format for Float32 {
    type Row<'a> = &'a [f32];
    const STEP_VECTORS: usize = 1;

    #[inline(always)]
    fn row<'a>(product: &Product<'a>, token: usize) -> &'a [f32] {
        product.row(token)
    }

    #[inline(always)]
    fn steps(columns: usize) -> usize {
        columns
    }

    #[inline(always)]
    fn x(row: &[f32], k: usize) -> (f32, f32) {
        (row[k], 0.0)
    }

    #[inline(always)]
    fn rest(_: &[f32]) -> Option<f32> {
        None
    }

    #[inline(always)]
    fn weights<S: Simd>(s: S, step: &[u8; STEP_BYTES]) -> (S::V, S::V) {
        (s.load_bits(step), s.splat(0.0))
    }

    #[inline(always)]
    fn add<S: Simd>(s: S, weights: (S::V, S::V), x: (f32, f32), sums: S::V) -> S::V {
        s.fma(weights.0, s.splat(x.0), sums)
    }
}

impl Format for Float16 {
    type Row<'a> = (&'a [[f32; 2]], &'a [f32]);
    const STEP_VECTORS: usize = 2;

    #[inline(always)]
    fn row<'a>(product: &Product<'a>, token: usize) -> Self::Row<'a> {
        product.row(token).as_chunks()
    }

    #[inline(always)]
    fn steps(columns: usize) -> usize {
        columns / 2
    }

    #[inline(always)]
    fn x(row: Self::Row<'_>, k: usize) -> (f32, f32) {
        (row.0[k][0], row.0[k][1])
    }

    #[inline(always)]
    fn rest(row: Self::Row<'_>) -> Option<f32> {
        row.1.first().copied()
    }

    #[inline(always)]
    fn weights<S: Simd>(s: S, step: &[u8; STEP_BYTES]) -> (S::V, S::V) {
        s.split_f16(s.load_bits(step))
    }

    #[inline(always)]
    fn add<S: Simd>(s: S, weights: (S::V, S::V), x: (f32, f32), sums: S::V) -> S::V {
        s.fma(
            weights.1,
            s.splat(x.1),
            s.fma(weights.0, s.splat(x.0), sums),
        )
    }
}

impl Format for BFloat16 {
    /// Pairs of bf16, zeros behind the last column.
    type Row<'a> = &'a [[u8; 4]];
    const STEP_VECTORS: usize = 2;

    #[inline(always)]
    fn row<'a>(product: &Product<'a>, token: usize) -> Self::Row<'a> {
        product.row_bf16(token).as_chunks().0
    }

    #[inline(always)]
    fn steps(columns: usize) -> usize {
        columns.div_ceil(2)
    }

    #[inline(always)]
    fn x(row: Self::Row<'_>, k: usize) -> (f32, f32) {
        let pair = u32::from_le_bytes(row[k]);
        (
            f32::from_bits(pair << 16),
            f32::from_bits(pair & 0xFFFF_0000),
        )
    }

    #[inline(always)]
    fn rest(_: Self::Row<'_>) -> Option<f32> {
        None
    }

    #[inline(always)]
    fn weights<S: Simd>(s: S, step: &[u8; STEP_BYTES]) -> (S::V, S::V) {
        s.split_bf16(s.load_bits(step))
    }

    #[inline(always)]
    fn add<S: Simd>(s: S, weights: (S::V, S::V), x: (f32, f32), sums: S::V) -> S::V {
        s.fma(
            weights.1,
            s.splat(x.1),
            s.fma(weights.0, s.splat(x.0), sums),
        )
    }
}

/// Panels by two, then the last one.
#[inline(always)]
fn panels<S: Simd, F: Format>(s: S, product: &Product<'_>, chunk: &Chunk) {
    let mut panel = chunk.panels.start;
    while panel < chunk.panels.end {
        if chunk.panels.end - panel >= 2 && S::VECTORS >= 32 {
            rows::<S, F, 2>(s, product, chunk, panel);
            panel += 2;
        } else {
            rows::<S, F, 1>(s, product, chunk, panel);
            panel += 1;
        }
    }
}

/// As many rows of x at a time as sums fit into registers.
#[inline(always)]
fn rows<S: Simd, F: Format, const P: usize>(
    s: S,
    product: &Product<'_>,
    chunk: &Chunk,
    panel: usize,
) {
    let mut token = chunk.tokens.start;
    while token < chunk.tokens.end {
        let left = chunk.tokens.end - token;
        if left >= 12 && F::STEP_VECTORS == 1 && S::VECTORS >= 32 {
            block::<S, F, P, 12>(s, product, panel, token);
            token += 12;
        } else if left >= 8 && S::VECTORS >= 32 {
            block::<S, F, P, 8>(s, product, panel, token);
            token += 8;
        } else if left >= 4 && S::VECTORS >= 8 {
            block::<S, F, P, 4>(s, product, panel, token);
            token += 4;
        } else if left >= 2 {
            block::<S, F, P, 2>(s, product, panel, token);
            token += 2;
        } else {
            block::<S, F, P, 1>(s, product, panel, token);
            token += 1;
        }
    }
}

#[inline(always)]
fn block<S: Simd, F: Format, const P: usize, const T: usize>(
    s: S,
    product: &Product<'_>,
    panel: usize,
    token: usize,
) {
    let steps = F::steps(product.shape.cols);
    let mut weights: [&[[u8; STEP_BYTES]]; P] = [&[]; P];
    for p in 0..P {
        weights[p] = product.panel(panel + p).as_chunks().0;
    }
    let inner: [&[[u8; STEP_BYTES]]; P] = weights.map(|weights| &weights[..steps]);
    let mut x = [F::row(product, token); T];
    for t in 1..T {
        x[t] = F::row(product, token + t);
    }
    let mut sums = [[s.splat(0.0); T]; P];
    if product.resumes {
        let held = product.held::<S, P, T>(s, token, panel);
        unroll!(J in 0..12 { if J < T {
            unroll!(I in 0..4 { if I < P { sums[I][J] = s.load(&held[I][J]); } });
        } });
    }
    for k in 0..steps {
        let mut step = [(s.splat(0.0), s.splat(0.0)); P];
        unroll!(I in 0..4 { if I < P { step[I] = F::weights(s, &inner[I][k]); } });
        unroll!(J in 0..12 { if J < T {
            let x = F::x(x[J], k);
            unroll!(I in 0..4 { if I < P { sums[I][J] = F::add(s, step[I], x, sums[I][J]); } });
        } });
    }
    unroll!(J in 0..12 { if J < T {
        unroll!(I in 0..4 { if I < P {
            if let Some(x) = F::rest(x[J]) {
                let step = F::weights(s, &weights[I][steps]);
                sums[I][J] = F::add(s, step, (x, 0.0), sums[I][J]);
            }
            product.put(s, token + J, panel + I, sums[I][J]);
        } });
    } });
}
