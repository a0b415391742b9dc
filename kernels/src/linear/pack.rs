//! Packing: rows of f32 into panels, and one row back (embeddings of a tied head, checks).

use crate::encoding;

use super::LinearShape;

/// Writes rows `first_row..` of the weight, given as f32 `[n, cols]`, into the packed tensor
/// `packed` (all of it), rounded to the weight's dtype. Padding columns of these rows become
/// zero; the panel's other rows are left alone, so rows may come in any order and size.
///
/// The padding rows of the last panel are written as zeros with the last row.
///
/// # Panics
/// When `source` is not whole rows, they pass the last row, or `packed` is too short.
pub fn pack_rows(packed: &mut [u8], shape: &LinearShape, first_row: usize, source: &[f32]) {
    assert!(
        shape.cols > 0 && source.len().is_multiple_of(shape.cols),
        "rows of {}",
        shape.cols
    );
    let rows = source.len() / shape.cols;
    assert!(
        first_row + rows <= shape.rows,
        "rows {first_row}..{} of {}",
        first_row + rows,
        shape.rows
    );
    assert!(
        packed.len() >= shape.packed_bytes(),
        "packed weight has {} of {} bytes",
        packed.len(),
        shape.packed_bytes()
    );
    for (row, values) in source.chunks_exact(shape.cols).enumerate() {
        pack_row(packed, shape, first_row + row, values);
    }
    if first_row + rows == shape.rows {
        for row in shape.rows..shape.panels() * super::PANEL_ROWS {
            pack_row(packed, shape, row, &[]);
        }
    }
}

/// Values, then zeros up to the padded width.
fn pack_row(packed: &mut [u8], shape: &LinearShape, row: usize, values: &[f32]) {
    for (col, value) in values.iter().enumerate() {
        encoding::store(shape.dtype, packed, shape.offset(row, col), *value);
    }
    for col in values.len()..shape.padded_cols() {
        encoding::store(shape.dtype, packed, shape.offset(row, col), 0.0);
    }
}

/// Reads row `row` (of `rows`) back into `values` (`[cols]`).
///
/// # Panics
/// When the row or the slices do not fit the shape.
pub fn unpack_row(packed: &[u8], shape: &LinearShape, row: usize, values: &mut [f32]) {
    assert!(row < shape.rows, "row {row} of {}", shape.rows);
    assert_eq!(values.len(), shape.cols, "a row has {} numbers", shape.cols);
    for (col, value) in values.iter_mut().enumerate() {
        *value = encoding::load(shape.dtype, packed, shape.offset(row, col));
    }
}
