//! How the pass names memory: an arena, a region of it, and what lies there. A handle is no address;
//! only a backend turns it into one.

use plimsoll_planner::scratch::Region;
use plimsoll_planner::{Account, BlockFormat, Dtype};

/// What lies in a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    F32,
    U32,
    U64,
    /// Scratch of one op, laid out as that op likes.
    Raw,
    /// A matrix row after row.
    RowMajor(Dtype),
    /// A matrix as `kernels::linear` packs it.
    Panels(Dtype),
    /// The same of numbers that stay in blocks.
    Blocks(BlockFormat),
}

impl Format {
    /// Of a matrix whose numbers stay in blocks, their format.
    pub const fn blocks(self) -> Option<BlockFormat> {
        match self {
            Format::Blocks(format) => Some(format),
            Format::F32
            | Format::U32
            | Format::U64
            | Format::Raw
            | Format::RowMajor(_)
            | Format::Panels(_) => None,
        }
    }
}

/// The place of one tensor on one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle {
    pub arena: Account,
    /// Bytes of the arena.
    pub region: Region,
    pub format: Format,
}
