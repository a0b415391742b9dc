//! Packing: rows of f32 into panels, and one row back (embeddings of a tied head, checks).

use crate::encoding;

use super::{LinearShape, PANEL_ROWS};

/// What a row has in one step of its panel: one f32, or a pair of 16-bit numbers.
const CELL_BYTES: usize = 4;
/// One step of a panel: the cells of sixteen rows.
const STEP_BYTES: usize = PANEL_ROWS * CELL_BYTES;

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
        for row in shape.rows..shape.panels() * PANEL_ROWS {
            pack_row(packed, shape, row, &[]);
        }
    }
}

/// Values, then zeros up to the padded width. A row has one number, or a pair, in every 64 bytes
/// of its panel.
fn pack_row(packed: &mut [u8], shape: &LinearShape, row: usize, values: &[f32]) {
    let bytes = shape.panel_bytes();
    let panel = &mut packed[row / PANEL_ROWS * bytes..][..bytes];
    let at = row % PANEL_ROWS * CELL_BYTES;
    let per_step = CELL_BYTES / encoding::bytes_of(shape.dtype);
    let mut values = values.chunks(per_step);
    for step in panel.chunks_exact_mut(STEP_BYTES) {
        let cell = &mut step[at..at + CELL_BYTES];
        cell.fill(0);
        for (i, value) in values.next().unwrap_or_default().iter().enumerate() {
            encoding::store(
                shape.dtype,
                cell,
                i * encoding::bytes_of(shape.dtype),
                *value,
            );
        }
    }
}

/// Reads row `row` (of `rows`) back into `values` (`[cols]`).
///
/// # Panics
/// When the row or the slices do not fit the shape.
pub fn unpack_row(packed: &[u8], shape: &LinearShape, row: usize, values: &mut [f32]) {
    assert!(row < shape.rows, "row {row} of {}", shape.rows);
    assert_eq!(values.len(), shape.cols, "a row has {} numbers", shape.cols);
    let bytes = shape.panel_bytes();
    let panel = &packed[row / PANEL_ROWS * bytes..][..bytes];
    let at = row % PANEL_ROWS * CELL_BYTES;
    let width = encoding::bytes_of(shape.dtype);
    let steps = panel.chunks_exact(STEP_BYTES);
    for (cells, step) in values.chunks_mut(CELL_BYTES / width).zip(steps) {
        for (i, value) in cells.iter_mut().enumerate() {
            *value = encoding::load(shape.dtype, step, at + i * width);
        }
    }
}
