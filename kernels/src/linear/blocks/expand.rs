//! Expanding a part of two panels into a buffer on the stack, exactly as a weight is expanded at
//! load, and running the kernels of expanded weights on it.
//!
//! A part is some groups of columns. Sums go on from part to part through `out`, where they are f32
//! as in registers; so every sum adds the same numbers in the same order as on a whole panel.

use std::mem::MaybeUninit;
use std::ops::Range;

use plimsoll_planner::{BlockFormat, Dtype};

use crate::encoding;
use crate::isa::Isa;
use crate::simd::{self, LANES, Simd, Work, array};

use super::super::LinearShape;
use super::super::product::{Chunk, Product, TOKEN_STEP};
#[cfg(target_arch = "x86_64")]
use super::Short;
use super::cell::{CELL_BYTES, Cell};
#[cfg(target_arch = "x86_64")]
use super::dot;
use super::kinds::{self, Kind};
use super::{GROUP, Grid, PAIRS, SCALE_BYTES, WORDS_BYTES, by_kind, head_bytes, step_bytes};

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
    if let Some(format) = Short::of(format)
        && dot::takes(isa, product, chunk)
    {
        return dot::multiply(product, chunk, format);
    }
    let dtype = product.shape.dtype;
    let groups = product.shape.cols / GROUP;
    let cells_per_group = GROUP * encoding::bytes_of(dtype) * LANES / CELL_BYTES;
    let bytes = part_bytes(chunk.tokens.len());
    let at_once = bytes / CELL_BYTES / PANEL_STEP / cells_per_group;
    let grid = Grid::of(&product.shape, format);
    let mut buffer = [const { MaybeUninit::uninit() }; BUFFER_BYTES / CELL_BYTES];
    for first in chunk.panels.clone().step_by(PANEL_STEP) {
        let panels = first..(first + PANEL_STEP).min(chunk.panels.end);
        let mut group = 0;
        // Once where there are no columns: the sums are empty.
        while group < groups.max(1) {
            let end = (group + at_once).min(groups);
            let cells = (end - group) * cells_per_group;
            for panel in panels.clone() {
                let to = &mut buffer[(panel - first) * cells..][..cells];
                expand(isa, dtype, grid, (product.panel(panel), group..end), to);
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

/// Writes every cell of `cells`: steps of one panel in `dtype`.
///
/// # Panics
/// When `cells` is not what the steps take.
fn expand(
    isa: Isa,
    dtype: Dtype,
    grid: Grid,
    (panel, steps): (&[u8], Range<usize>),
    cells: &mut [MaybeUninit<Cell>],
) {
    let numbers = steps.len() * GROUP * LANES;
    assert_eq!(
        cells.len() * CELL_BYTES,
        numbers * encoding::bytes_of(dtype),
        "cells of {numbers} numbers"
    );
    #[cfg(target_arch = "x86_64")]
    if let Some(format) = Short::of(grid.format)
        && dtype == Dtype::BFloat16
        && isa >= Isa::Avx512Bf16
    {
        return dot::expand(format, grid, (panel, steps), cells);
    }
    let work = Expand {
        dtype,
        grid,
        panel,
        steps,
        cells,
    };
    simd::dispatch(isa, work);
}

struct Expand<'a> {
    dtype: Dtype,
    grid: Grid,
    panel: &'a [u8],
    steps: Range<usize>,
    cells: &'a mut [MaybeUninit<Cell>],
}

impl Work for Expand<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        by_kind!(self.grid.format, K => groups::<S, K>(s, self));
    }
}

#[inline(always)]
fn groups<S: Simd, K: Kind>(s: S, work: Expand<'_>) {
    // A constant format, so that the sizes are.
    let grid = Grid {
        format: K::FORMAT,
        ..work.grid
    };
    let dtype = work.dtype;
    let per_step = GROUP * encoding::bytes_of(dtype) * LANES / CELL_BYTES;
    for (step, cells) in work.steps.zip(work.cells.chunks_exact_mut(per_step)) {
        let (block, inside) = grid.place(step);
        let head = &work.panel[grid.head(block)..][..const { head_bytes(K::FORMAT) }];
        let numbers = &work.panel[grid.numbers(step)..][..const { step_bytes(K::FORMAT) }];
        for (of, cells) in cells.chunks_exact_mut(per_step / 2).enumerate() {
            let scales = Scales::of::<S, K>(s, head, 2 * inside + of);
            let pairs = of * (PAIRS / 2)..(of + 1) * (PAIRS / 2);
            for (pair, cells) in pairs.zip(cells.chunks_exact_mut(per_step / PAIRS)) {
                let [first, second] = pair_of::<S, K>(s, numbers, &scales, pair);
                if dtype == Dtype::Float32 {
                    let (first, second) = s.unzip(first, second);
                    cells[0].write(cell(s, first));
                    cells[1].write(cell(s, second));
                } else {
                    let mut cell = Cell([0; CELL_BYTES]);
                    s.store_as(first, dtype, &mut cell.0);
                    s.store_as(second, dtype, &mut cell.0[CELL_BYTES / 2..]);
                    cells[0].write(cell);
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

/// The scale and the minimum of sixteen columns for either half of a pair: each row's twice.
struct Scales<V> {
    d: [V; 2],
    /// Zeros where the type has none.
    m: [V; 2],
}

impl<V: Copy> Scales<V> {
    #[inline(always)]
    fn of<S: Simd<V = V>, K: Kind>(s: S, head: &[u8], part: usize) -> Scales<V> {
        let d = s.load_f16(array(head));
        let m = match K::HALVES.len() {
            1 => s.splat(0.0),
            _ => kinds::minimum::<S, K>(s, d, s.load_f16(array(&head[SCALE_BYTES..])), 0.0),
        };
        let (small, _) = head[K::HALVES.len() * SCALE_BYTES..].as_chunks();
        let (d, m) = match K::small(small, part) {
            None => (d, m),
            Some([scale, minimum]) => (s.mul(d, s.load(&scale)), s.mul(m, s.load(&minimum))),
        };
        Scales {
            d: s.twice(d),
            m: s.twice(m),
        }
    }
}

/// Both halves of a column pair: numbers of eight rows by two columns each.
#[inline(always)]
fn pair_of<S: Simd, K: Kind>(
    s: S,
    numbers: &[u8],
    scales: &Scales<S::V>,
    pair: usize,
) -> [S::V; 2] {
    [
        half::<S, K>(s, numbers, scales, pair, 0),
        half::<S, K>(s, numbers, scales, pair, 1),
    ]
}

/// A function and no closure, which would not be compiled for the instruction set.
#[inline(always)]
fn half<S: Simd, K: Kind>(
    s: S,
    numbers: &[u8],
    scales: &Scales<S::V>,
    pair: usize,
    half: usize,
) -> S::V {
    let number = number::<S, K>(s, numbers, 2 * pair + half);
    // Products are exact (at most 23 bits), so a fused sum rounds as one of two steps does.
    match K::HALVES.len() {
        1 => s.mul(scales.d[half], number),
        _ => s.fma(scales.d[half], number, scales.m[half]),
    }
}

/// What d is multiplied with.
#[inline(always)]
fn number<S: Simd, K: Kind>(s: S, numbers: &[u8], half: usize) -> S::V {
    if K::LOW == 8 {
        return s.load_i8(array(&numbers[half * LANES..]));
    }
    let (low, at) = plane(s, numbers, K::LOW, half);
    if let Some(table) = K::TABLE {
        return s.lookup(low, at, table);
    }
    if K::LOW == 4 && K::HIGH == 0 {
        return s.nibble(low, at, 0.0 - K::ZERO);
    }
    let low = s.bits(low, at, const { field(K::LOW) });
    if K::HIGH == 0 {
        return low;
    }
    let (high, at) = plane(s, &numbers[K::LOW * WORDS_BYTES..], K::HIGH, half);
    let high = s.bits(high, at, const { field(K::HIGH) });
    let above = const { (1 << K::LOW) as f32 };
    s.sub(s.fma(high, s.splat(above), low), s.splat(K::ZERO))
}

/// So many bits.
const fn field(bits: usize) -> u32 {
    (1 << bits) - 1
}

/// The words that have a half's numbers of a plane, and the bit at which these begin.
#[inline(always)]
fn plane<S: Simd>(s: S, words: &[u8], bits: usize, half: usize) -> (S::V, u32) {
    let bit = bits * half;
    #[expect(clippy::cast_possible_truncation, reason = "below 32")]
    let shift = (bit % 32) as u32;
    (s.load_bits(array(&words[bit / 32 * WORDS_BYTES..])), shift)
}

/// A panel in `dtype`: for tests.
#[cfg(test)]
pub(super) fn to_bytes(isa: Isa, shape: &LinearShape, panel: &[u8]) -> Vec<u8> {
    let Some(format) = shape.blocks else {
        panic!("{shape:?} is not in blocks");
    };
    let cells = shape.cols * LANES * encoding::bytes_of(shape.dtype) / CELL_BYTES;
    let mut cells = vec![MaybeUninit::uninit(); cells];
    let steps = 0..shape.cols / GROUP;
    let grid = Grid::of(shape, format);
    expand(isa, shape.dtype, grid, (panel, steps), &mut cells);
    // SAFETY: `expand` wrote every cell.
    bytes_of(unsafe { cells.assume_init_ref() }).to_vec()
}
