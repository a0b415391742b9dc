//! Expanding a part of two panels into a buffer on the stack, exactly as a weight is expanded at
//! load, and running the kernels of expanded weights on it.
//!
//! A part is some groups of columns. Sums go on from part to part through `out`, where they are f32
//! as in registers; so every sum adds the same numbers in the same order as on a whole panel.

use std::mem::MaybeUninit;

use plimsoll_planner::{BlockFormat, Dtype};

use crate::encoding;
use crate::isa::Isa;
use crate::simd::{self, LANES, Simd, Work, array};

use super::super::LinearShape;
use super::super::product::{Chunk, Product, TOKEN_STEP};
use super::cell::{CELL_BYTES, Cell};
#[cfg(target_arch = "x86_64")]
use super::dot;
use super::{GROUP, Kind, PAIRS, Q4_0, Q4_1, Q8_0, SCALE_BYTES, WORD_PAIRS, WORDS_BYTES};
use super::{group_bytes, head_bytes};

/// Kernels take panels by two.
const PANEL_STEP: usize = 2;
const BUFFER_BYTES: usize = 64 << 10;

/// Bytes of a part. Few rows of x read it once or twice, so it stays in the first cache; many pay for
/// every part with sums in and out, and where there are tiles with a configuration.
const fn part_bytes(tokens: usize) -> usize {
    if tokens <= TOKEN_STEP {
        40 << 10
    } else {
        BUFFER_BYTES
    }
}

/// Multiplies a chunk by `kernel`, which knows expanded weights only.
pub(in super::super) fn multiply(
    isa: Isa,
    product: &Product<'_>,
    chunk: &Chunk,
    format: BlockFormat,
    kernel: impl Fn(Isa, Product<'_>, Chunk),
) {
    #[cfg(target_arch = "x86_64")]
    if dot::takes(isa, product, chunk) {
        return dot::multiply(product, chunk, format);
    }
    let dtype = product.shape.dtype;
    let groups = product.shape.cols / GROUP;
    let cells_per_group = GROUP * encoding::bytes_of(dtype) * LANES / CELL_BYTES;
    let bytes = part_bytes(chunk.tokens.len());
    let at_once = bytes / CELL_BYTES / PANEL_STEP / cells_per_group;
    let mut buffer = [const { MaybeUninit::uninit() }; BUFFER_BYTES / CELL_BYTES];
    for first in chunk.panels.clone().step_by(PANEL_STEP) {
        let panels = first..(first + PANEL_STEP).min(chunk.panels.end);
        let mut group = 0;
        // Once where there are no columns: the sums are empty.
        while group < groups.max(1) {
            let end = (group + at_once).min(groups);
            let cells = (end - group) * cells_per_group;
            for panel in panels.clone() {
                let bytes = group_bytes(format);
                let stored = &product.panel(panel)[group * bytes..end * bytes];
                let to = &mut buffer[(panel - first) * cells..][..cells];
                expand(isa, dtype, format, stored, to);
            }
            let written = &buffer[..panels.len() * cells];
            // SAFETY: `expand` wrote every cell of each panel's piece, which lie one after the other.
            let written = unsafe { written.assume_init_ref() };
            let part = Product {
                shape: LinearShape::dense(product.shape.rows, (end - group) * GROUP, dtype),
                packed: bytes_of(written),
                first_panel: first,
                first_col: group * GROUP,
                resumes: group > 0,
                ends: end == groups,
                ..*product
            };
            let tokens = chunk.tokens.clone();
            kernel(
                isa,
                part,
                Chunk {
                    panels: panels.clone(),
                    tokens,
                },
            );
            group += at_once;
        }
    }
}

fn bytes_of(cells: &[Cell]) -> &[u8] {
    // SAFETY: a cell is 64 bytes without padding, and bytes need no alignment.
    unsafe { std::slice::from_raw_parts(cells.as_ptr().cast(), size_of_val(cells)) }
}

/// Writes every cell of `cells`: whole groups of one panel in `dtype`.
///
/// # Panics
/// When `cells` is not what the groups of `stored` take.
fn expand(
    isa: Isa,
    dtype: Dtype,
    format: BlockFormat,
    stored: &[u8],
    cells: &mut [MaybeUninit<Cell>],
) {
    let numbers = stored.len() / group_bytes(format) * GROUP * LANES;
    assert_eq!(
        cells.len() * CELL_BYTES,
        numbers * encoding::bytes_of(dtype),
        "cells of {numbers} numbers"
    );
    #[cfg(target_arch = "x86_64")]
    if dtype == Dtype::BFloat16 && isa >= Isa::Avx512Bf16 {
        return dot::expand(format, stored, cells);
    }
    let work = Expand {
        dtype,
        format,
        stored,
        cells,
    };
    simd::dispatch(isa, work);
}

struct Expand<'a> {
    dtype: Dtype,
    format: BlockFormat,
    stored: &'a [u8],
    cells: &'a mut [MaybeUninit<Cell>],
}

impl Work for Expand<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.format {
            BlockFormat::Q4_0 => groups::<S, Q4_0>(s, self),
            BlockFormat::Q4_1 => groups::<S, Q4_1>(s, self),
            BlockFormat::Q8_0 => groups::<S, Q8_0>(s, self),
        }
    }
}

#[inline(always)]
fn groups<S: Simd, K: Kind>(s: S, work: Expand<'_>) {
    let stored = work.stored.chunks_exact(const { group_bytes(K::FORMAT) });
    match work.dtype {
        Dtype::Float32 => {
            let (cells, _) = work.cells.as_chunks_mut::<GROUP>();
            for (group, cells) in stored.zip(cells) {
                let scales = Scales::of::<K>(s, group);
                for pair in 0..PAIRS {
                    let halves = numbers::<S, K>(s, group, &scales, pair);
                    let (first, second) = s.unzip(halves[0], halves[1]);
                    cells[2 * pair].write(cell(s, first));
                    cells[2 * pair + 1].write(cell(s, second));
                }
            }
        }
        dtype @ (Dtype::BFloat16 | Dtype::Float16) => {
            let (cells, _) = work.cells.as_chunks_mut::<PAIRS>();
            for (group, cells) in stored.zip(cells) {
                let scales = Scales::of::<K>(s, group);
                for pair in 0..PAIRS {
                    let [first, second] = numbers::<S, K>(s, group, &scales, pair);
                    let mut cell = Cell([0; CELL_BYTES]);
                    s.store_as(first, dtype, &mut cell.0);
                    s.store_as(second, dtype, &mut cell.0[CELL_BYTES / 2..]);
                    cells[pair].write(cell);
                }
            }
        }
    }
}

#[inline(always)]
fn cell<S: Simd>(s: S, v: S::V) -> Cell {
    let mut cell = Cell([0; CELL_BYTES]);
    s.store_as(v, Dtype::Float32, &mut cell.0);
    cell
}

/// d and m of a group for either half of a pair: each row's twice.
struct Scales<V> {
    d: [V; 2],
    /// Zeros where the type has none.
    m: [V; 2],
}

impl<V: Copy> Scales<V> {
    #[inline(always)]
    fn of<K: Kind>(s: impl Simd<V = V>, group: &[u8]) -> Scales<V> {
        let m = match K::FORMAT {
            BlockFormat::Q4_0 | BlockFormat::Q8_0 => [s.splat(0.0); 2],
            BlockFormat::Q4_1 => s.twice(s.load_f16(array(&group[SCALE_BYTES..]))),
        };
        Scales {
            d: s.twice(s.load_f16(array(group))),
            m,
        }
    }
}

/// Both halves of a column pair: numbers of eight rows by two columns each.
#[inline(always)]
fn numbers<S: Simd, K: Kind>(s: S, group: &[u8], scales: &Scales<S::V>, pair: usize) -> [S::V; 2] {
    [
        half::<S, K>(s, group, scales, pair, 0),
        half::<S, K>(s, group, scales, pair, 1),
    ]
}

/// A function and no closure, which would not be compiled for the instruction set.
#[inline(always)]
fn half<S: Simd, K: Kind>(
    s: S,
    group: &[u8],
    scales: &Scales<S::V>,
    pair: usize,
    half: usize,
) -> S::V {
    let quants = &group[const { head_bytes(K::FORMAT) }..];
    let number = match K::FORMAT {
        BlockFormat::Q4_0 | BlockFormat::Q4_1 => {
            let words = s.load_bits(array(&quants[pair / WORD_PAIRS * WORDS_BYTES..]));
            let shift = [[0, 4], [8, 12], [16, 20], [24, 28]][pair % WORD_PAIRS][half];
            s.nibble(words, shift, K::FIRST)
        }
        BlockFormat::Q8_0 => s.load_i8(array(&quants[(2 * pair + half) * LANES..])),
    };
    // Products are exact (at most 19 bits), so a fused sum rounds as one of two steps does.
    match K::FORMAT {
        BlockFormat::Q4_0 | BlockFormat::Q8_0 => s.mul(scales.d[half], number),
        BlockFormat::Q4_1 => s.fma(scales.d[half], number, scales.m[half]),
    }
}

/// A panel in `dtype`: for tests.
#[cfg(test)]
pub(super) fn to_bytes(isa: Isa, dtype: Dtype, format: BlockFormat, stored: &[u8]) -> Vec<u8> {
    let numbers = stored.len() / group_bytes(format) * GROUP * LANES;
    let cells = numbers * encoding::bytes_of(dtype) / CELL_BYTES;
    let mut cells = vec![MaybeUninit::uninit(); cells];
    expand(isa, dtype, format, stored, &mut cells);
    // SAFETY: `expand` wrote every cell.
    bytes_of(unsafe { cells.assume_init_ref() }).to_vec()
}
