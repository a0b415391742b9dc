//! One row at a time; a row is a few KiB, so plain loops do.

use crate::encoding;
use crate::linear;
use crate::pool::Pool;

use super::EmbeddingTable;

pub(super) fn run(pool: &Pool, ids: &[u32], table: &EmbeddingTable<'_>, out: &mut [f32]) {
    const CELLS_PER_CHUNK: usize = 16 << 10;
    let hidden = table.hidden;
    let rows = pool.rows_per_chunk(ids.len(), hidden, CELLS_PER_CHUNK);
    pool.run_rows(out, hidden, rows, |first, out| {
        for (out, id) in out.chunks_exact_mut(hidden).zip(&ids[first..]) {
            gather(*id as usize, table, out);
        }
    });
}

fn gather(id: usize, table: &EmbeddingTable<'_>, out: &mut [f32]) {
    match id
        .checked_sub(table.first_row)
        .filter(|row| *row < table.rows)
    {
        None => out.fill(0.0),
        Some(row) if table.packed => linear::unpack_row(table.bytes, &table.shape(), row, out),
        Some(row) => {
            let width = encoding::bytes_of(table.dtype);
            let bytes = &table.bytes[row * table.hidden * width..][..table.hidden * width];
            for (col, value) in out.iter_mut().enumerate() {
                *value = encoding::load(table.dtype, bytes, col * width);
            }
        }
    }
}
