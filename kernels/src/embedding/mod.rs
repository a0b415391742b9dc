//! embedding: out[t] = table[ids[t]], as f32; ids outside this rank's rows give zeros, so that the
//! sum over ranks is the whole embedding.

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(feature = "gpu-tests")]
pub(crate) mod trials;

#[cfg(test)]
mod tests;

use plimsoll_planner::{BlockFormat, Dtype};

use crate::encoding;
use crate::linear::{LinearShape, Products};
use crate::pool::Pool;

/// This rank's rows of the input embedding.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingTable<'a> {
    pub bytes: &'a [u8],
    pub dtype: Dtype,
    /// True: the packed layout of `linear` (a tied head). False: row-major `[rows, hidden]`.
    pub packed: bool,
    /// A packed table whose numbers stay in blocks: its rows are rounded to `dtype`.
    pub blocks: Option<BlockFormat>,
    /// The vocabulary id of the first row.
    pub first_row: usize,
    pub rows: usize,
    pub hidden: usize,
}

impl EmbeddingTable<'_> {
    /// The table as a linear weight (packed tables only have this layout).
    pub const fn shape(&self) -> LinearShape {
        LinearShape {
            rows: self.rows,
            cols: self.hidden,
            dtype: self.dtype,
            blocks: self.blocks,
            products: Products::Exact,
            skipped: None,
        }
    }
}

/// Gathers one row per id into `out` (`[ids, hidden]`).
///
/// # Panics
/// When a slice does not fit the shape.
pub fn run(pool: &Pool, ids: &[u32], table: &EmbeddingTable<'_>, out: &mut [f32]) {
    assert!(
        table.packed || table.blocks.is_none(),
        "a table of blocks is packed"
    );
    let needed = if table.packed {
        table.shape().packed_bytes()
    } else {
        table.rows * table.hidden * encoding::bytes_of(table.dtype)
    };
    assert!(
        table.bytes.len() >= needed,
        "table has {} of {needed} bytes",
        table.bytes.len()
    );
    assert_eq!(
        out.len(),
        ids.len() * table.hidden,
        "out is not [{}, hidden]",
        ids.len()
    );
    if !ids.is_empty() {
        cpu::run(pool, ids, table, out);
    }
}
