//! Cuts a product into chunks of weight panels and rows of x, and gives each to the kernel of the
//! pool's instruction set.
//!
//! A chunk's panels (about 64 KiB) stay in the first caches while all rows of the chunk pass over
//! them, and the rows of x (at most 1 MiB) stay in the second while all panels pass over those.

use std::ops::Range;

use plimsoll_planner::Dtype;

use crate::isa::Isa;
use crate::pool::Pool;
use crate::simd::{self, LANES, Simd, Work};

use super::lanes;
use super::output::Output;
use super::{Input, LinearShape, Weight};
#[cfg(target_arch = "x86_64")]
use super::{amx, bf16};

const CHUNK_WEIGHT_BYTES: usize = 64 << 10;
const CHUNK_INPUT_BYTES: usize = 1 << 20;
/// Kernels take rows of x by up to 32.
const TOKEN_STEP: usize = 32;
/// Kernels take panels by two.
const PANEL_STEP: usize = 2;

/// Everything that the chunks of one call share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product<'a> {
    pub(super) shape: LinearShape,
    pub(super) packed: &'a [u8],
    pub(super) x: Input<'a>,
    /// x rounded to bf16, `[tokens, padded_cols]`; empty unless the weight is bf16.
    pub(super) x_bf16: &'a [u8],
    pub(super) out: &'a Output<'a>,
}

impl<'a> Product<'a> {
    /// A panel of the weight.
    #[inline(always)]
    pub(super) fn panel(&self, panel: usize) -> &'a [u8] {
        &self.packed[panel * self.shape.panel_bytes()..][..self.shape.panel_bytes()]
    }

    /// A row of x.
    #[inline(always)]
    pub(super) fn row(&self, token: usize) -> &'a [f32] {
        &self.x.data[token * self.x.stride..][..self.shape.cols]
    }

    /// A row of x in bf16, padded.
    #[inline(always)]
    pub(super) fn row_bf16(&self, token: usize) -> &'a [u8] {
        let bytes = self.shape.padded_cols() * 2;
        &self.x_bf16[token * bytes..][..bytes]
    }
}

/// One claim of a thread.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub(super) panels: Range<usize>,
    pub(super) tokens: Range<usize>,
}

pub(super) fn run(
    pool: &Pool,
    x: Input<'_>,
    weight: &Weight<'_>,
    out: &mut [f32],
    scratch: &mut [u8],
) {
    let shape = weight.shape;
    let x_bf16: &[u8] = match shape.dtype {
        Dtype::BFloat16 => convert(pool, x, &shape, scratch),
        Dtype::Float32 | Dtype::Float16 => &[],
    };
    let out = Output::new(out, shape.rows, weight.bias);
    let product = Product {
        shape,
        packed: weight.packed,
        x,
        x_bf16,
        out: &out,
    };
    let cuts = Cuts::of(&shape, x.tokens);
    let isa = kernel_isa(pool.isa(), shape.dtype);
    pool.run(cuts.chunks(), |chunk| {
        multiply(isa, product, cuts.chunk(chunk))
    });
}

/// How a product is cut: chunks of equal rows follow each other, so that those stay cached.
#[derive(Clone, Copy, Debug)]
struct Cuts {
    panels: usize,
    panels_per_chunk: usize,
    tokens: usize,
    tokens_per_chunk: usize,
}

impl Cuts {
    fn of(shape: &LinearShape, tokens: usize) -> Cuts {
        let row_bytes = shape.panel_bytes() / LANES;
        let panels = CHUNK_WEIGHT_BYTES / shape.panel_bytes().max(1) / PANEL_STEP * PANEL_STEP;
        let rows = CHUNK_INPUT_BYTES / row_bytes.max(1) / TOKEN_STEP * TOKEN_STEP;
        Cuts {
            panels: shape.panels(),
            panels_per_chunk: panels.max(PANEL_STEP),
            tokens,
            tokens_per_chunk: rows.max(TOKEN_STEP),
        }
    }

    fn chunks(&self) -> usize {
        self.panels.div_ceil(self.panels_per_chunk) * self.tokens.div_ceil(self.tokens_per_chunk)
    }

    fn chunk(&self, chunk: usize) -> Chunk {
        let columns = self.panels.div_ceil(self.panels_per_chunk);
        let panel = chunk % columns * self.panels_per_chunk;
        let token = chunk / columns * self.tokens_per_chunk;
        Chunk {
            panels: panel..(panel + self.panels_per_chunk).min(self.panels),
            tokens: token..(token + self.tokens_per_chunk).min(self.tokens),
        }
    }
}

/// The bf16 kernels are for bf16 weights only.
fn kernel_isa(isa: Isa, dtype: Dtype) -> Isa {
    match dtype {
        Dtype::BFloat16 => isa,
        Dtype::Float32 | Dtype::Float16 => isa.min(Isa::Avx512),
    }
}

fn multiply(isa: Isa, product: Product<'_>, chunk: Chunk) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => amx::multiply(&product, &chunk),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 => bf16::multiply(&product, &chunk),
        _ => simd::dispatch(isa, lanes::Multiply { product, chunk }),
    }
}

/// Rounds x to bf16 rows of `padded_cols` numbers, padded with zeros.
fn convert<'a>(pool: &Pool, x: Input<'_>, shape: &LinearShape, scratch: &'a mut [u8]) -> &'a [u8] {
    const CELLS_PER_CHUNK: usize = 32 << 10;
    let row_bytes = shape.padded_cols() * 2;
    let rows = &mut scratch[..x.tokens * row_bytes];
    if row_bytes > 0 {
        let rows_per_chunk = pool.rows_per_chunk(x.tokens, shape.cols, CELLS_PER_CHUNK);
        let isa = pool.isa();
        pool.run_rows(rows, row_bytes, rows_per_chunk, |first, rows| {
            simd::dispatch(
                isa,
                Convert {
                    x,
                    cols: shape.cols,
                    first,
                    rows,
                    row_bytes,
                },
            );
        });
    }
    rows
}

struct Convert<'a> {
    x: Input<'a>,
    cols: usize,
    first: usize,
    rows: &'a mut [u8],
    row_bytes: usize,
}

impl Work for Convert<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (t, row) in self.rows.chunks_exact_mut(self.row_bytes).enumerate() {
            let x = &self.x.data[(self.first + t) * self.x.stride..][..self.cols];
            let (whole, rest) = x.as_chunks::<LANES>();
            let (cells, _) = row.as_chunks_mut::<{ 2 * LANES }>();
            for (cell, x) in cells.iter_mut().zip(whole) {
                s.store_bf16(s.load(x), cell);
            }
            for (at, cell) in cells[whole.len()..].iter_mut().enumerate() {
                let rest = if at == 0 { rest } else { &[] };
                s.store_bf16(s.load_part(rest), cell);
            }
        }
    }
}
