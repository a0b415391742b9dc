//! Filling a weight with rows: pieces of whole panels, or rows, each read and packed by one thread.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use plimsoll_kernels::linear::{self, LinearShape, StoredBlocks};
use plimsoll_kernels::pool::Pool;

use crate::forward::backend::ReadRows;
use crate::forward::handle::Format;
use crate::forward::layers::Matrix;
use crate::model::ModelError;

/// Bytes that a thread reads before it packs them: they stay in its core's cache, and are worth a
/// call to the kernel.
const PIECE_BYTES: usize = 512 << 10;
/// Rows of one panel, see `kernels::linear`.
const PANEL_ROWS: usize = 16;

/// Fills `rows` of `target`, the whole of a weight.
///
/// # Errors
/// The first that `read` gives; what other threads had begun is in place then.
pub(super) fn run(
    pool: &Pool,
    target: &mut [u8],
    to: &Matrix,
    rows: Range<usize>,
    read: &ReadRows<'_>,
) -> Result<(), ModelError> {
    let shape = to.shape();
    let row_bytes = match shape.blocks {
        // Columns that pad a row are in no file.
        None => shape.panel_bytes() / PANEL_ROWS * shape.cols / shape.padded_cols(),
        Some(format) => {
            let touched = shape.skipped.unwrap_or(0) + shape.cols;
            usize::try_from(format.row_bytes(touched as u64)).unwrap_or(usize::MAX)
        }
    };
    // What is filled as one: a panel holds the rows of several.
    let (unit_rows, unit_bytes) = match to.weight.format {
        Format::Panels(_) | Format::Blocks(_) => (PANEL_ROWS, shape.panel_bytes()),
        Format::RowMajor(_) | Format::F32 | Format::U32 => (1, row_bytes),
        Format::U64 | Format::Raw => unreachable!("{to:?} is no weight"),
    };
    let units = rows.start / unit_rows..rows.end.div_ceil(unit_rows);
    let target = &mut target[units.start * unit_bytes..units.end * unit_bytes];
    // A cut of a long block is read as the whole block.
    let at_once = (PIECE_BYTES / unit_bytes.max(unit_rows * row_bytes)).max(1);
    let buffers: Mutex<Vec<Vec<u8>>> = Mutex::default();
    let failed: Mutex<Option<ModelError>> = Mutex::default();
    pool.run_rows(target, unit_bytes, at_once, |unit, piece| {
        if lock(&failed).is_some() {
            return;
        }
        let start = (units.start + unit) * unit_rows;
        let end = start + piece.len() / unit_bytes * unit_rows;
        let (first, last) = (start.max(rows.start), end.min(rows.end));
        let filled = match to.weight.format {
            Format::Panels(_) | Format::Blocks(_) => {
                let mut buffer = lock(&buffers).pop().unwrap_or_default();
                buffer.resize((last - first) * row_bytes, 0);
                let part = LinearShape {
                    rows: end.min(shape.rows) - start,
                    ..shape
                };
                let filled = read(first..last, &mut buffer)
                    .map(|()| pack(piece, &part, first - start, (&buffer, row_bytes)));
                lock(&buffers).push(buffer);
                filled
            }
            _ => read(first..last, piece),
        };
        if let Err(error) = filled {
            *lock(&failed) = Some(error);
        }
    });
    let failed = failed.into_inner();
    match failed.unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Rows of a panel, as numbers or as blocks.
fn pack(
    piece: &mut [u8],
    part: &LinearShape,
    first_row: usize,
    (bytes, row_bytes): (&[u8], usize),
) {
    if part.blocks.is_none() {
        return linear::pack_stored(piece, part, first_row, bytes);
    }
    let source = StoredBlocks {
        bytes,
        rows: bytes.len() / row_bytes.max(1),
        row_bytes,
        first_block: 0,
    };
    linear::pack_blocks(piece, part, first_row, source);
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
