//! Rows of blocks into panels, and one row back as numbers.

use half::f16;
use plimsoll_planner::BlockFormat;

use super::super::{LinearShape, PANEL_ROWS};
use super::{GROUP, PAIRS, SCALE_BYTES, WORD_PAIRS, WORDS_BYTES};
use super::{block_bytes, group_bytes, head_bytes};
use crate::encoding;

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
    /// The blocks of `cols` columns of row `row`.
    ///
    /// # Panics
    /// When the row has fewer.
    pub(super) fn row(&self, format: BlockFormat, cols: usize, row: usize) -> &'a [u8] {
        let bytes = block_bytes(format);
        let first = self.first_block * bytes;
        let whole = &self.bytes[row * self.row_bytes..][..self.row_bytes];
        &whole[first..first + cols / GROUP * bytes]
    }
}

/// A block of zeros: padding rows are made of these.
pub(super) const fn zero_block(format: BlockFormat) -> &'static [u8] {
    const SHIFTED: [u8; 18] = {
        let mut block = [0x88; 18];
        block[0] = 0;
        block[1] = 0;
        block
    };
    match format {
        BlockFormat::Q4_0 => &SHIFTED,
        BlockFormat::Q4_1 => &[0; 20],
        BlockFormat::Q8_0 => &[0; 34],
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
    for row in 0..source.rows {
        let blocks = source.row(format, shape.cols, row);
        let blocks = blocks.chunks_exact(block_bytes(format));
        pack_row(packed, shape, format, first_row + row, blocks);
    }
    if end == shape.rows {
        for row in shape.rows..shape.panels() * PANEL_ROWS {
            let zeros = std::iter::repeat_n(zero_block(format), shape.cols / GROUP);
            pack_row(packed, shape, format, row, zeros);
        }
    }
}

pub(super) fn format_of(shape: &LinearShape) -> BlockFormat {
    let Some(format) = shape.blocks else {
        panic!("{shape:?} is not in blocks");
    };
    assert!(
        shape.cols.is_multiple_of(GROUP),
        "{} columns are not whole blocks of {GROUP}",
        shape.cols
    );
    format
}

fn pack_row<'a>(
    packed: &mut [u8],
    shape: &LinearShape,
    format: BlockFormat,
    row: usize,
    blocks: impl Iterator<Item = &'a [u8]>,
) {
    let bytes = shape.panel_bytes();
    let panel = &mut packed[row / PANEL_ROWS * bytes..][..bytes];
    let lane = row % PANEL_ROWS;
    for (group, block) in panel.chunks_exact_mut(group_bytes(format)).zip(blocks) {
        let (head, numbers) = group.split_at_mut(head_bytes(format));
        let (scales, quants) = block.split_at(head_bytes(format) / PANEL_ROWS);
        for (to, from) in head
            .chunks_exact_mut(SCALE_BYTES)
            .zip(scales.chunks_exact(2))
        {
            to[2 * lane..2 * lane + 2].copy_from_slice(from);
        }
        match format {
            BlockFormat::Q4_0 | BlockFormat::Q4_1 => pack_nibbles(numbers, lane, quants),
            BlockFormat::Q8_0 => {
                for (pair, from) in quants.chunks_exact(2).enumerate() {
                    numbers[pair * 2 * PANEL_ROWS + 2 * lane..][..2].copy_from_slice(from);
                }
            }
        }
    }
}

/// A file's block has columns 0..16 in the low halves of its bytes, 16..32 in the high ones.
fn pack_nibbles(numbers: &mut [u8], lane: usize, quants: &[u8]) {
    let (eights, _) = quants.as_chunks::<8>();
    let shift = lane / 8 * 4;
    for (at, words) in numbers.chunks_exact_mut(WORDS_BYTES).enumerate() {
        // Eight columns, a byte each.
        let columns = u64::from_le_bytes(eights[at % 2]) >> (at / 2 * 4) & 0x0F0F_0F0F_0F0F_0F0F;
        let (words, _) = words.as_chunks_mut::<4>();
        for parity in 0..2 {
            let word = &mut words[2 * (lane % 8) + parity];
            let others = u32::from_le_bytes(*word) & !(0x0F0F_0F0F << shift);
            let own = every_second_byte(columns >> (8 * parity));
            *word = (others | own << shift).to_le_bytes();
        }
    }
}

/// Bytes 0, 2, 4 and 6.
fn every_second_byte(bytes: u64) -> u32 {
    let [a, _, b, _, c, _, d, _] = bytes.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
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
    let lane = row % PANEL_ROWS;
    let scale = |group: &[u8], at: usize| {
        let at = at * SCALE_BYTES + 2 * lane;
        f16::from_le_bytes([group[at], group[at + 1]]).to_f32()
    };
    let groups = panel.chunks_exact(group_bytes(format));
    for (group, values) in groups.zip(values.chunks_exact_mut(GROUP)) {
        let d = scale(group, 0);
        let numbers = &group[head_bytes(format)..];
        for (col, value) in values.iter_mut().enumerate() {
            let exact = match format {
                BlockFormat::Q4_0 => d * (nibble(numbers, lane, col) - 8.0),
                BlockFormat::Q4_1 => d * nibble(numbers, lane, col) + scale(group, 1),
                BlockFormat::Q8_0 => {
                    let at = col / 2 * 2 * PANEL_ROWS + 2 * lane + col % 2;
                    d * f32::from(numbers[at].cast_signed())
                }
            };
            *value = encoding::rounded(shape.dtype, exact);
        }
    }
}

fn nibble(numbers: &[u8], lane: usize, col: usize) -> f32 {
    let (pair, parity) = (col / 2, col % 2);
    debug_assert!(pair < PAIRS, "column {col} of a group");
    let word = pair / WORD_PAIRS * WORDS_BYTES + (2 * (lane % 8) + parity) * 4;
    let byte = numbers[word + pair % WORD_PAIRS];
    f32::from(byte >> (lane / 8 * 4) & 15)
}
