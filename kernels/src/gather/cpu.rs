//! A copy of each number, rows divided over threads.

use crate::pool::Pool;

/// Numbers that are worth handing to another thread.
const CELLS_PER_CHUNK: usize = 16 << 10;

pub(super) fn run(pool: &Pool, x: &[f32], columns: &[u32], out: &mut [f32]) {
    let cols = columns.len();
    let rows = pool.rows_per_chunk(out.len() / cols, cols, CELLS_PER_CHUNK);
    pool.run_rows(out, cols, rows, |first, out| {
        let rows = x[first * cols..].chunks_exact(cols);
        for (x, out) in rows.zip(out.chunks_exact_mut(cols)) {
            for (out, column) in out.iter_mut().zip(columns) {
                *out = x.get(*column as usize).copied().unwrap_or(f32::NAN);
            }
        }
    });
}
