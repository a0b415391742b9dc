//! Cuts a product into chunks of weight panels and rows of x, and gives each to the kernel of the
//! pool's instruction set.
//!
//! A chunk's panels (about 64 KiB) stay in the first caches while all rows of the chunk pass over
//! them, and the rows of x (at most 1 MiB) stay in the second while all panels pass over those.

use std::ops::Range;

use plimsoll_planner::Dtype;

use crate::encoding;
use crate::isa::Isa;
use crate::pool::Pool;
use crate::simd::{self, LANES, Simd, Work, array, array_mut};

use super::blocks;
use super::lanes;
use super::output::Output;
use super::product::{Chunk, Product, STEP_BYTES, TILE_BYTES, TILE_ROWS, TOKEN_STEP};
use super::{Columns, Input, LinearShape, Weight};
#[cfg(target_arch = "x86_64")]
use super::{amx, bf16};

const CHUNK_WEIGHT_BYTES: usize = 64 << 10;
const CHUNK_INPUT_BYTES: usize = 1 << 20;
/// Kernels take panels by two.
const PANEL_STEP: usize = 2;

pub(super) fn run(
    pool: &Pool,
    x: Input<'_>,
    weight: &Weight<'_>,
    (out, columns): (&mut [f32], Columns),
    scratch: &mut [u8],
) {
    let shape = weight.shape;
    let out = Output::new(out, columns, shape.rows, weight.bias);
    let cuts = Cuts::of(pool, &shape, x.tokens);
    if shape.is_by_integers() {
        let chunk = |at| cuts.chunk(at);
        return blocks::integers::run(pool, x, weight, (&out, scratch), cuts.chunks(), chunk);
    }
    let x_bf16: &[u8] = match shape.dtype {
        Dtype::BFloat16 => convert(pool, x, &shape, scratch),
        Dtype::Float32 | Dtype::Float16 => &[],
    };
    let product = Product {
        shape,
        packed: weight.packed,
        first_panel: 0,
        x,
        x_bf16,
        x_cols: shape.padded_cols(),
        first_col: 0,
        resumes: false,
        ends: true,
        out: &out,
    };
    let isa = kernel_isa(pool.isa(), shape.dtype);
    pool.run(cuts.chunks(), |chunk| {
        let chunk = cuts.chunk(chunk);
        match shape.blocks {
            None => multiply(isa, product, chunk),
            Some(format) => blocks::multiply(isa, &product, &chunk, format, multiply),
        }
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
    fn of(pool: &Pool, shape: &LinearShape, tokens: usize) -> Cuts {
        let row_bytes = shape.padded_cols() * encoding::bytes_of(shape.dtype);
        let panels = CHUNK_WEIGHT_BYTES / shape.panel_bytes().max(1) / PANEL_STEP * PANEL_STEP;
        // So many panels in blocks are few chunks.
        let panels = match shape.blocks {
            None => panels,
            Some(_) => panels.min(pool.rows_per_chunk(shape.panels(), 1, PANEL_STEP)),
        };
        let panels = panels.next_multiple_of(PANEL_STEP);
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

/// How rows of rounded x lie: all of `padded_cols` numbers, padded with zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rounded {
    /// `[tokens, padded_cols]`
    Rows,
    /// For tiles: `[block of 32 rows][32 columns][16 rows, 16 rows][32]`, so that a tile is 1 KiB in
    /// one piece and a block is read from front to back. A last block of 16 rows or fewer has
    /// one tile per 32 columns. Rows past the last token are not written.
    Tiles,
}

/// Rounds x to bf16 into scratch.
fn convert<'a>(pool: &Pool, x: Input<'_>, shape: &LinearShape, scratch: &'a mut [u8]) -> &'a [u8] {
    const CELLS_PER_CHUNK: usize = 32 << 10;
    let row_bytes = shape.padded_cols() * 2;
    let order = if pool.isa() == Isa::Amx {
        Rounded::Tiles
    } else {
        Rounded::Rows
    };
    let rows = match order {
        Rounded::Rows => x.tokens,
        Rounded::Tiles => x.tokens.next_multiple_of(TILE_ROWS),
    };
    let rounded = &mut scratch[..rows * row_bytes];
    if row_bytes > 0 {
        let rows_per_chunk = pool.rows_per_chunk(rows, shape.cols, CELLS_PER_CHUNK);
        let rows_per_chunk = rows_per_chunk.next_multiple_of(TOKEN_STEP);
        let isa = pool.isa();
        pool.run_rows(rounded, row_bytes, rows_per_chunk, |first, rows| {
            let end = (first + rows.len() / row_bytes).min(x.tokens);
            simd::dispatch(
                isa,
                Convert {
                    x,
                    cols: shape.cols,
                    tokens: first..end,
                    rows,
                    order,
                },
            );
        });
    }
    rounded
}

struct Convert<'a> {
    x: Input<'a>,
    cols: usize,
    /// From a multiple of 32 on.
    tokens: Range<usize>,
    rows: &'a mut [u8],
    order: Rounded,
}

impl Work for Convert<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let row_bytes = self.cols.next_multiple_of(super::PANEL_COLS) * 2;
        for token in self.tokens.clone() {
            let x = &self.x.data[token * self.x.stride..][..self.cols];
            let row = token - self.tokens.start;
            match self.order {
                Rounded::Rows => {
                    round_row(
                        s,
                        x,
                        &mut self.rows[row * row_bytes..][..row_bytes],
                        STEP_BYTES,
                    );
                }
                Rounded::Tiles => {
                    let block = row / TOKEN_STEP * TOKEN_STEP;
                    let rows_left = self.rows.len() / row_bytes - block;
                    let tiles = if rows_left > TILE_ROWS { 2 } else { 1 };
                    let tile = row % TOKEN_STEP / TILE_ROWS;
                    let at = block * row_bytes + tile * TILE_BYTES + row % TILE_ROWS * STEP_BYTES;
                    round_row(s, x, &mut self.rows[at..], tiles * TILE_BYTES);
                }
            }
        }
    }
}

/// Writes a row by 32 columns, one group every `stride` bytes.
#[inline(always)]
fn round_row<S: Simd>(s: S, x: &[f32], out: &mut [u8], stride: usize) {
    let (groups, rest) = x.as_chunks::<{ super::PANEL_COLS }>();
    for (i, group) in groups.iter().enumerate() {
        let cells: &mut [u8; STEP_BYTES] = array_mut(&mut out[i * stride..]);
        let (cells, _) = cells.as_chunks_mut::<{ 2 * LANES }>();
        s.store_bf16(s.load(array(group)), &mut cells[0]);
        s.store_bf16(s.load(array(&group[LANES..])), &mut cells[1]);
    }
    if !rest.is_empty() {
        let (first, second) = rest.split_at(rest.len().min(LANES));
        let cells: &mut [u8; STEP_BYTES] = array_mut(&mut out[groups.len() * stride..]);
        let (cells, _) = cells.as_chunks_mut::<{ 2 * LANES }>();
        s.store_bf16(s.load_part(first), &mut cells[0]);
        s.store_bf16(s.load_part(second), &mut cells[1]);
    }
}
