//! Weights that stay in 4- or 8-bit blocks, as a GGUF file has them: 32 columns of a row share a
//! scale d, and a minimum m with Q4_1. Their exact products have the bits of those of the weight that is
//! expanded to the compute type first; those by integers (`int8`) quantise x, too.
//!
//! A panel of 16 rows is group after group of 32 columns. A group: 16 d in f16, with Q4_1 16 m, then
//! the numbers, column pair by column pair. The 32 numbers of a pair, `[row16][2]`, are two halves
//! of 16 (rows 0..8, rows 8..16), a vector each. Q8_0: both halves, a byte each number. 4 bits: four
//! pairs lie in 16 words, lane l of half h of pair p in bits `8 p + 4 h` of word l; so one shift
//! brings sixteen numbers to the bottom of their lanes, where a table lookup takes them.

mod cell;
#[cfg(target_arch = "x86_64")]
#[expect(
    unsafe_code,
    reason = "bf16 dot products on registers, proved by the pool's check"
)]
mod dot;
#[expect(
    unsafe_code,
    reason = "a buffer on the stack that is written, then read"
)]
mod expand;
pub(super) mod int8;
mod pack;
mod scales;

#[cfg(test)]
mod tests;

use plimsoll_planner::{BlockFormat, blocks};

pub(super) use expand::multiply;
pub(super) use pack::unpack_row;
pub use pack::{StoredBlocks, pack_blocks};
pub use scales::{BadScale, check_scales};

use super::PANEL_ROWS;

/// Columns of a block.
pub(super) const GROUP: usize = size(blocks::GROUP);
/// Column pairs of a group.
const PAIRS: usize = GROUP / 2;
/// Bytes of f16, one for each row of a panel.
const SCALE_BYTES: usize = 2 * PANEL_ROWS;
/// Column pairs whose 4-bit numbers lie in sixteen words.
const WORD_PAIRS: usize = 4;
const WORDS_BYTES: usize = 64;

/// Bytes of one block, in a file and in memory.
const fn block_bytes(format: BlockFormat) -> usize {
    size(format.bytes())
}

#[expect(clippy::cast_possible_truncation, reason = "sizes of a block")]
const fn size(n: u64) -> usize {
    n as usize
}

/// Bytes of one group of a panel.
pub(super) const fn group_bytes(format: BlockFormat) -> usize {
    PANEL_ROWS * block_bytes(format)
}

/// Bytes in front of a group's numbers.
const fn head_bytes(format: BlockFormat) -> usize {
    match format {
        BlockFormat::Q4_0 | BlockFormat::Q8_0 => SCALE_BYTES,
        BlockFormat::Q4_1 => 2 * SCALE_BYTES,
    }
}

/// A block type that code is compiled for.
trait Kind {
    const FORMAT: BlockFormat;
    /// What the 4-bit number 0 stands for, before it is scaled.
    const FIRST: f32;
}

struct Q4_0;
struct Q4_1;
struct Q8_0;

impl Kind for Q4_0 {
    const FORMAT: BlockFormat = BlockFormat::Q4_0;
    const FIRST: f32 = -8.0;
}

impl Kind for Q4_1 {
    const FORMAT: BlockFormat = BlockFormat::Q4_1;
    const FIRST: f32 = 0.0;
}

impl Kind for Q8_0 {
    const FORMAT: BlockFormat = BlockFormat::Q8_0;
    const FIRST: f32 = 0.0;
}
