//! Packing: rows of f32 into panels, and one row back (embeddings of a tied head, checks).

use crate::encoding;

use super::{LinearShape, PANEL_ROWS, blocks};

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
/// When `source` is not whole rows, they pass the last row, `packed` is too short, or the weight's
/// numbers stay in blocks.
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
    assert!(shape.blocks.is_none(), "{shape:?} takes blocks");
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

/// As [`pack_rows`], of rows whose numbers have the weight's dtype already: `source` is
/// `[n, cols]` of them, little endian. Whole panels go four bytes at a time.
///
/// # Panics
/// As [`pack_rows`].
pub fn pack_stored(packed: &mut [u8], shape: &LinearShape, first_row: usize, source: &[u8]) {
    let row_bytes = shape.cols * encoding::bytes_of(shape.dtype);
    assert!(
        row_bytes > 0 && source.len().is_multiple_of(row_bytes),
        "rows of {row_bytes} bytes"
    );
    let end = first_row + source.len() / row_bytes;
    assert!(
        end <= shape.rows,
        "rows {first_row}..{end} of {}",
        shape.rows
    );
    assert!(shape.blocks.is_none(), "{shape:?} takes blocks");
    assert!(
        packed.len() >= shape.packed_bytes(),
        "packed weight has {} of {} bytes",
        packed.len(),
        shape.packed_bytes()
    );
    let (mut row, mut left) = (first_row, source);
    while row < end {
        let panel = row / PANEL_ROWS;
        let count = ((panel + 1) * PANEL_ROWS).min(end) - row;
        let rows;
        (rows, left) = left.split_at(count * row_bytes);
        let bytes = shape.panel_bytes();
        let panel = &mut packed[panel * bytes..][..bytes];
        let is_last = row + count == shape.rows;
        pack_lanes(panel, row % PANEL_ROWS, rows, row_bytes, is_last);
        row += count;
    }
}

/// Rows of one panel, from lane `first` on; the lanes behind the last row become zeros.
fn pack_lanes(panel: &mut [u8], first: usize, rows: &[u8], row_bytes: usize, is_last: bool) {
    let count = rows.len() / row_bytes;
    let mut cells: [&[[u8; CELL_BYTES]]; PANEL_ROWS] = [&[]; PANEL_ROWS];
    for (cells, row) in cells.iter_mut().zip(rows.chunks_exact(row_bytes)) {
        *cells = row.as_chunks().0;
    }
    let lanes = if is_last { PANEL_ROWS - first } else { count };
    let (steps, _) = panel.as_chunks_mut::<STEP_BYTES>();
    let whole = row_bytes / CELL_BYTES;
    let (full, rest) = steps.split_at_mut(whole);
    if count == PANEL_ROWS {
        // All rows have as many cells: the check is made once per row, not per cell.
        let cells = cells.map(|row| &row[..whole]);
        for (at, step) in full.iter_mut().enumerate() {
            let (to, _) = step.as_chunks_mut::<CELL_BYTES>();
            for (to, row) in to.iter_mut().zip(&cells) {
                *to = row[at];
            }
        }
    } else {
        for (at, step) in full.iter_mut().enumerate() {
            let to = &mut step.as_chunks_mut::<CELL_BYTES>().0[first..first + lanes];
            for (to, row) in to.iter_mut().zip(&cells) {
                *to = row.get(at).copied().unwrap_or_default();
            }
        }
    }
    // The columns behind the whole cells: half a cell of numbers, then zeros.
    for (at, step) in rest.iter_mut().enumerate() {
        let to = &mut step.as_chunks_mut::<CELL_BYTES>().0[first..first + lanes];
        for (lane, to) in to.iter_mut().enumerate() {
            *to = [0; CELL_BYTES];
            let tail = &rows[(lane * row_bytes + whole * CELL_BYTES).min(rows.len())..];
            let tail = &tail[..tail.len().min(row_bytes - whole * CELL_BYTES)];
            if at == 0 {
                to[..tail.len()].copy_from_slice(tail);
            }
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

/// Reads row `row` (of `rows`) back into `values` (`[cols]`), as products see it.
///
/// # Panics
/// When the row or the slices do not fit the shape.
pub fn unpack_row(packed: &[u8], shape: &LinearShape, row: usize, values: &mut [f32]) {
    assert!(row < shape.rows, "row {row} of {}", shape.rows);
    assert_eq!(values.len(), shape.cols, "a row has {} numbers", shape.cols);
    if shape.blocks.is_some() {
        return blocks::unpack_row(packed, shape, row, values);
    }
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
