//! A weight as it lies on a card: row-major, rows padded with zeros to [`PANEL_ROWS`] and columns to
//! [`PANEL_COLS`]. As many bytes as the packed layout, in another order.
//!
//! [`PANEL_COLS`]: super::PANEL_COLS

use std::ops::Range;

use super::{LinearShape, PANEL_ROWS};
use crate::encoding;

/// Numbers from one row to the next.
pub const fn stride(shape: &LinearShape) -> usize {
    shape.padded_cols()
}

pub const fn row_bytes(shape: &LinearShape) -> usize {
    stride(shape) * encoding::bytes_of(shape.dtype)
}

/// Numbers of the whole weight, padding included.
pub const fn numbers(shape: &LinearShape) -> usize {
    shape.rows.next_multiple_of(PANEL_ROWS) * stride(shape)
}

/// The bytes where `rows` rows from `first_row` on lie; behind the last row, its padding too.
///
/// # Panics
/// When the shape has not so many rows.
pub fn range(shape: &LinearShape, first_row: usize, rows: usize) -> Range<usize> {
    let end = first_row + rows;
    assert!(
        end <= shape.rows,
        "rows {first_row}..{end} of {}",
        shape.rows
    );
    let end = match end == shape.rows {
        true => shape.rows.next_multiple_of(PANEL_ROWS),
        false => end,
    };
    first_row * row_bytes(shape)..end * row_bytes(shape)
}

/// Writes rows as a file has them, `[n, cols]` in the weight's dtype, to `target`: all of what goes
/// to [`range`] of `first_row` and n. So a weight may be sent in pieces of any number of rows.
///
/// # Panics
/// When `source` is not whole rows, they pass the last row, or `target` is not the range's length.
pub fn pack_rows(target: &mut [u8], shape: &LinearShape, first_row: usize, source: &[u8]) {
    let bytes = shape.cols * encoding::bytes_of(shape.dtype);
    assert!(
        bytes > 0 && source.len().is_multiple_of(bytes),
        "rows of {bytes} bytes"
    );
    let rows = source.len() / bytes;
    let range = range(shape, first_row, rows);
    assert_eq!(target.len(), range.len(), "the rows' place in bytes");
    let mut source = source.chunks_exact(bytes);
    for row in target.chunks_exact_mut(row_bytes(shape)) {
        let values = source.next().unwrap_or_default();
        row[..values.len()].copy_from_slice(values);
        row[values.len()..].fill(0);
    }
}
