//! Rows of blocks into panels, and one row back as numbers.

use half::f16;
use plimsoll_planner::BlockFormat;

use super::super::{LinearShape, PANEL_ROWS};
use super::kinds::Kind;
use super::planes::{self, Planes};
use super::{GROUP, Grid, SCALE_BYTES, block_bytes, by_kind, head_bytes, size, step_bytes};
use super::{WORDS_BYTES, steps_of_block};
use crate::encoding;
use crate::simd::LANES;

/// Rows as a file has them, block after block; of each those from `first_block` on are meant.
#[derive(Clone, Copy, Debug)]
pub struct StoredBlocks<'a> {
    pub bytes: &'a [u8],
    pub rows: usize,
    /// From one row to the next.
    pub row_bytes: usize,
    pub first_block: usize,
}

impl<'a> StoredBlocks<'a> {
    /// The blocks that `cols` columns of row `row` touch.
    ///
    /// # Panics
    /// When the row has fewer.
    pub(super) fn row(&self, format: BlockFormat, cols: usize, row: usize) -> &'a [u8] {
        let bytes = block_bytes(format);
        let first = self.first_block * bytes;
        let whole = &self.bytes[row * self.row_bytes..][..self.row_bytes];
        &whole[first..first + cols.div_ceil(size(format.columns())) * bytes]
    }
}

/// Writes rows `first_row..` of the weight into the packed tensor `packed` (all of it). The panel's
/// other rows are left alone, so rows may come in any order and number, from several tensors. The
/// padding rows of the last panel are written as zeros with the last row.
///
/// # Panics
/// When the weight is not in blocks, the rows pass its last one, or slices are too short.
pub fn pack_blocks(
    packed: &mut [u8],
    shape: &LinearShape,
    first_row: usize,
    source: StoredBlocks<'_>,
) {
    let format = format_of(shape);
    let end = first_row + source.rows;
    assert!(
        end <= shape.rows,
        "rows {first_row}..{end} of {}",
        shape.rows
    );
    assert!(
        packed.len() >= shape.packed_bytes(),
        "packed weight has {} of {} bytes",
        packed.len(),
        shape.packed_bytes()
    );
    by_kind!(format, K => pack_rows::<K>(packed, shape, first_row, source));
}

fn pack_rows<K: Kind>(
    packed: &mut [u8],
    shape: &LinearShape,
    first_row: usize,
    source: StoredBlocks<'_>,
) {
    let touched = shape.skipped.unwrap_or(0) + shape.cols;
    for row in 0..source.rows {
        let blocks = source.row(K::FORMAT, touched, row);
        pack_row::<K>(packed, shape, first_row + row, |at| {
            &blocks[at * const { block_bytes(K::FORMAT) }..][..const { block_bytes(K::FORMAT) }]
        });
    }
    if first_row + source.rows == shape.rows {
        for row in shape.rows..shape.panels() * PANEL_ROWS {
            pack_row::<K>(packed, shape, row, |_| K::EMPTY);
        }
    }
}

pub(super) fn format_of(shape: &LinearShape) -> BlockFormat {
    let Some(format) = shape.blocks else {
        panic!("{shape:?} is not in blocks");
    };
    shape.check_blocks();
    format
}

fn pack_row<'a, K: Kind>(
    packed: &mut [u8],
    shape: &LinearShape,
    row: usize,
    block: impl Fn(usize) -> &'a [u8],
) {
    let bytes = shape.panel_bytes();
    let panel = &mut packed[row / PANEL_ROWS * bytes..][..bytes];
    let lane = row % PANEL_ROWS;
    let grid = Grid::of(shape, K::FORMAT);
    let mut headed = None;
    for step in 0..shape.cols / GROUP {
        let (at, inside) = grid.place(step);
        let block = block(at);
        if headed != Some(at) {
            let head = &mut panel[grid.head(at)..][..const { head_bytes(K::FORMAT) }];
            pack_head::<K>(head, lane, block);
            headed = Some(at);
        }
        let numbers = &mut panel[grid.numbers(step)..][..const { step_bytes(K::FORMAT) }];
        if K::LOW == 8 {
            let quants = block[2 * K::HALVES.len()..].chunks_exact(2);
            for (pair, from) in quants.enumerate() {
                numbers[pair * 2 * PANEL_ROWS + 2 * lane..][..2].copy_from_slice(from);
            }
            continue;
        }
        let Planes { low, high } = K::planes(block, inside);
        let (lows, highs) = numbers.split_at_mut(K::LOW * WORDS_BYTES);
        planes::write(lows, K::LOW, lane, low);
        planes::write(highs, K::HIGH, lane, high);
    }
}

fn pack_head<K: Kind>(head: &mut [u8], lane: usize, block: &[u8]) {
    let (halves, small) = head.split_at_mut(K::HALVES.len() * SCALE_BYTES);
    for (to, from) in halves.chunks_exact_mut(SCALE_BYTES).zip(K::HALVES) {
        to[2 * lane..2 * lane + 2].copy_from_slice(&block[*from..from + 2]);
    }
    let (first, count) = K::SMALL;
    let from = &block[first..first + count];
    for (to, from) in small.chunks_exact_mut(LANES).zip(from) {
        to[lane] = *from;
    }
}

/// Reads row `row` back into `values` (`[cols]`), rounded to the weight's compute type.
///
/// # Panics
/// When the weight is not in blocks, or the row or the slices do not fit it.
pub(in super::super) fn unpack_row(
    packed: &[u8],
    shape: &LinearShape,
    row: usize,
    values: &mut [f32],
) {
    let format = format_of(shape);
    let bytes = shape.panel_bytes();
    let panel = &packed[row / PANEL_ROWS * bytes..][..bytes];
    let grid = Grid::of(shape, format);
    by_kind!(format, K => unpack::<K>(panel, grid, row % PANEL_ROWS, values));
    for value in values {
        *value = encoding::rounded(shape.dtype, *value);
    }
}

fn unpack<K: Kind>(panel: &[u8], grid: Grid, lane: usize, values: &mut [f32]) {
    let half = |head: &[u8], at: usize| {
        let at = at * SCALE_BYTES + 2 * lane;
        f16::from_le_bytes([head[at], head[at + 1]]).to_f32()
    };
    for (step, values) in values.chunks_exact_mut(GROUP).enumerate() {
        let (block, inside) = grid.place(step);
        debug_assert!(inside < steps_of_block(K::FORMAT), "step {inside}");
        let head = &panel[grid.head(block)..][..const { head_bytes(K::FORMAT) }];
        let numbers = &panel[grid.numbers(step)..][..const { step_bytes(K::FORMAT) }];
        let d = half(head, 0);
        let m = (K::HALVES.len() > 1).then(|| match K::HAS_ZERO_POINT {
            true => -(d * half(head, 1)),
            false => half(head, 1),
        });
        let (small, _) = head[K::HALVES.len() * SCALE_BYTES..].as_chunks();
        for (of, values) in values.chunks_exact_mut(GROUP / 2).enumerate() {
            let (d, m) = match K::small(small, 2 * inside + of) {
                None => (d, m),
                Some([s, t]) => (d * s[lane], m.map(|m| m * t[lane])),
            };
            for (col, value) in values.iter_mut().enumerate() {
                let product = d * number::<K>(numbers, lane, of * (GROUP / 2) + col);
                *value = m.map_or(product, |m| product + m);
            }
        }
    }
}

/// What d is multiplied with.
pub(super) fn number<K: Kind>(numbers: &[u8], lane: usize, col: usize) -> f32 {
    if K::LOW == 8 {
        let at = col / 2 * 2 * PANEL_ROWS + 2 * lane + col % 2;
        return f32::from(numbers[at].cast_signed());
    }
    let (lows, highs) = numbers.split_at(K::LOW * WORDS_BYTES);
    let low = planes::read(lows, K::LOW, lane, col);
    let high = match K::HIGH {
        0 => 0,
        bits => planes::read(highs, bits, lane, col),
    };
    match K::TABLE {
        Some(table) => table[usize::from(low)],
        None => f32::from(low | high << K::LOW) - K::ZERO,
    }
}
