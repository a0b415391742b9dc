//! Whether two tables of tokens are the same, row by row.

use std::ops::Range;

use super::factor::Factor;
use crate::model_error::ModelError;
use crate::weights::TensorSource;

/// Bytes of each table that are compared at once.
const PIECE_BYTES: usize = 1 << 20;

/// The first row in which a copy is not the base's tensor, in the copy's type. Both have one shape.
///
/// # Errors
/// Where a file fails.
pub(super) fn difference(
    base: &dyn TensorSource,
    tensor: &str,
    copy: &Factor,
) -> Result<Option<usize>, ModelError> {
    let dtype = copy.dtype();
    first_unlike(copy, |rows, cols, bytes| {
        base.read_as(dtype, tensor, rows, cols, bytes)
    })
}

/// The first row in which two tensors of one shape differ, in the first one's type.
///
/// # Errors
/// Where a file fails.
pub(super) fn unlike(one: &Factor, other: &Factor) -> Result<Option<usize>, ModelError> {
    if one.dtype() != other.dtype() {
        return Ok(Some(0));
    }
    first_unlike(one, |rows, cols, bytes| other.read_bytes(rows, cols, bytes))
}

fn first_unlike(
    copy: &Factor,
    read: impl Fn(Range<usize>, Range<usize>, &mut [u8]) -> Result<(), ModelError>,
) -> Result<Option<usize>, ModelError> {
    let (rows, cols) = copy.info.rows_cols();
    let row_bytes = (cols * copy.stored.encoding.block_bytes()).max(1);
    let at_once = (PIECE_BYTES / row_bytes).max(1);
    let mut bytes = [vec![0; at_once * row_bytes], vec![0; at_once * row_bytes]];
    for first in (0..rows).step_by(at_once) {
        let some = first..rows.min(first + at_once);
        let [one, other] = bytes
            .each_mut()
            .map(|bytes| &mut bytes[..some.len() * row_bytes]);
        copy.read_bytes(some.clone(), 0..cols, one)?;
        read(some, 0..cols, other)?;
        let mut pairs = one
            .chunks_exact(row_bytes)
            .zip(other.chunks_exact(row_bytes));
        if let Some(row) = pairs.position(|(one, other)| one != other) {
            return Ok(Some(first + row));
        }
    }
    Ok(None)
}
