//! Weights that stay in 2 to 8 bits: blocks of 32, 128 or 256 columns of a row with scales of their own, as
//! a GGUF file has them, or with the zero points of a packed Hugging Face folder. Their exact products have the bits of those of the weight that is expanded to the
//! compute type first; those by integers (`integers`) quantise x, too.
//!
//! A panel of 16 rows is block after block of columns. A block: its head, then its numbers, 32 columns
//! after the other. The head: of all rows d in f16, then m or z where there is one, then byte by byte
//! the small scales. Where columns are cut inside of a block, the numbers of the others are left out.
//!
//! Numbers of 32 columns lie column pair by column pair. The 32 numbers of a pair, `[row16][2]`, are two
//! halves of 16 (rows 0..8, rows 8..16), a vector each; half h of the 32 is rows `h % 2` of pair `h / 2`.
//! Of 8 bits: half after half, a byte each number. Others: planes of b = 4, 2 or 1 bits, first the low bits,
//! then the high ones. A plane is b vectors of 16 words; half h has bits `b * h % 32` of word l for lane l,
//! in vector `b * h / 32`: so one shift brings sixteen numbers to the bottom of their lanes.

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
pub(super) mod integers;
mod kinds;
mod pack;
mod planes;
mod scales;

#[cfg(test)]
mod tests;

use plimsoll_planner::{BlockFormat, blocks};

pub(super) use expand::multiply;
pub(super) use pack::unpack_row;
pub use pack::{StoredBlocks, pack_blocks};
pub use scales::{BadScale, check_scales};

use super::{LinearShape, PANEL_ROWS};

/// Columns of a short block, and of a step of every other: what kernels take at a time.
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

/// Bytes in front of a block's numbers.
const fn head_bytes(format: BlockFormat) -> usize {
    PANEL_ROWS * size(format.head_bytes())
}

/// Bytes of 32 columns' numbers.
const fn step_bytes(format: BlockFormat) -> usize {
    PANEL_ROWS * GROUP * size(format.bits()) / 8
}

/// 32 columns each.
const fn steps_of_block(format: BlockFormat) -> usize {
    size(format.columns()) / GROUP
}

/// Bytes of a panel.
pub(super) const fn panel_bytes(shape: &LinearShape, format: BlockFormat) -> usize {
    let cols = shape.cols as u64;
    let bytes = match shape.skipped {
        None => format.row_bytes(cols),
        Some(_) => format.piece_bytes(cols),
    };
    PANEL_ROWS * size(bytes)
}

/// Where the parts of a panel's blocks lie.
#[derive(Clone, Copy, Debug)]
struct Grid {
    format: BlockFormat,
    /// Steps of the first block that are not here.
    skipped: usize,
}

impl Grid {
    const fn of(shape: &LinearShape, format: BlockFormat) -> Grid {
        let skipped = match shape.skipped {
            None => 0,
            Some(cols) => cols / GROUP,
        };
        Grid { format, skipped }
    }

    /// The block of a step, and which of its steps it is.
    const fn place(&self, step: usize) -> (usize, usize) {
        let (step, of) = (step + self.skipped, steps_of_block(self.format));
        (step / of, step % of)
    }

    /// The first byte of a block's head.
    const fn head(&self, block: usize) -> usize {
        let before = (block * steps_of_block(self.format)).saturating_sub(self.skipped);
        block * head_bytes(self.format) + before * step_bytes(self.format)
    }

    /// The first byte of a step's numbers.
    const fn numbers(&self, step: usize) -> usize {
        let (block, _) = self.place(step);
        (block + 1) * head_bytes(self.format) + step * step_bytes(self.format)
    }
}

/// Calls what is generic over a [`kinds::Kind`] with that of a format.
macro_rules! by_kind {
    ($format:expr, $kind:ident => $body:expr) => {
        by_kind!(@ $format, $kind, $body, [
            Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Iq4Nl Q2K Q3K Q4K Q5K Q6K Iq4Xs
            Z4By32 Z4By128 Z8By32
        ])
    };
    (@ $format:expr, $kind:ident, $body:expr, [$($name:ident)*]) => {
        match $format {
            $(plimsoll_planner::BlockFormat::$name => {
                type $kind = super::kinds::$name;
                $body
            })*
        }
    };
}
use by_kind;

/// The formats that have kernels of their own (`dot`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Short {
    Q4_0,
    Q4_1,
    Q8_0,
    Z4By32,
    Z4By128,
    Z8By32,
}

impl Short {
    const fn of(format: BlockFormat) -> Option<Short> {
        match format {
            BlockFormat::Q4_0 => Some(Short::Q4_0),
            BlockFormat::Q4_1 => Some(Short::Q4_1),
            BlockFormat::Q8_0 => Some(Short::Q8_0),
            BlockFormat::Z4By32 => Some(Short::Z4By32),
            BlockFormat::Z4By128 => Some(Short::Z4By128),
            BlockFormat::Z8By32 => Some(Short::Z8By32),
            BlockFormat::Q5_0
            | BlockFormat::Q5_1
            | BlockFormat::Iq4Nl
            | BlockFormat::Q2K
            | BlockFormat::Q3K
            | BlockFormat::Q4K
            | BlockFormat::Q5K
            | BlockFormat::Q6K
            | BlockFormat::Iq4Xs => None,
        }
    }
}
