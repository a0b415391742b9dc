//! Scales that are no numbers: a file that has one is refused before its weight is packed.

use half::f16;
use plimsoll_planner::BlockFormat;

use super::kinds::Kind;
use super::{StoredBlocks, block_bytes, by_kind};

/// A scale, minimum or zero point that is infinite or not a number, and where it stands.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "{what} of block {block} in row {row} is {value}, which scales nothing; the file is damaged"
)]
pub struct BadScale {
    /// Of the rows that were looked at.
    pub row: usize,
    /// Of the row as the file has it.
    pub block: usize,
    /// "the scale", "the minimum" or "the zero point"
    pub what: &'static str,
    pub value: f32,
}

/// Looks at the scales of `cols` columns of rows that a file has.
///
/// # Errors
/// The first of these, row by row, that is not finite.
///
/// # Panics
/// When rows have fewer columns.
pub fn check_scales(
    format: BlockFormat,
    cols: usize,
    source: StoredBlocks<'_>,
) -> Result<(), BadScale> {
    let halves = by_kind!(format, K => <K as Kind>::HALVES);
    let names = match format.has_zero_point() {
        true => ["the scale", "the zero point"],
        false => ["the scale", "the minimum"],
    };
    for row in 0..source.rows {
        let blocks = source.row(format, cols, row);
        for (at, block) in blocks.chunks_exact(block_bytes(format)).enumerate() {
            for (what, from) in names.into_iter().zip(halves) {
                let value = f16::from_le_bytes([block[*from], block[from + 1]]);
                if !value.is_finite() {
                    return Err(BadScale {
                        row,
                        block: source.first_block + at,
                        what,
                        value: value.to_f32(),
                    });
                }
            }
        }
    }
    Ok(())
}
