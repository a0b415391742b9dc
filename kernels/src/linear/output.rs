//! Where chunks put their sums: sixteen columns of one row at a time, bias added.

use super::Columns;
use crate::pool::Disjoint;
use crate::simd::{LANES, Simd};

/// `[tokens, rows]`, in some columns of wider rows, written by concurrent chunks, each with panels and tokens of its own.
#[derive(Debug)]
pub(super) struct Output<'a> {
    cells: Disjoint<'a, f32>,
    columns: Columns,
    rows: usize,
    bias: Option<&'a [f32]>,
}

impl<'a> Output<'a> {
    pub(super) fn new(
        cells: &'a mut [f32],
        columns: Columns,
        rows: usize,
        bias: Option<&'a [f32]>,
    ) -> Output<'a> {
        Output {
            cells: Disjoint::new(cells),
            columns,
            rows,
            bias,
        }
    }

    /// Writes the sums of `panel` for `token`, which must belong to the caller's chunk; with the bias
    /// where they are whole.
    #[inline(always)]
    pub(super) fn put<S: Simd>(&self, s: S, token: usize, panel: usize, sums: S::V, whole: bool) {
        let (first, end) = self.range(panel);
        let row = self.row(token);
        let bias = self.bias.filter(|_| whole);
        // SAFETY: chunks are pairwise disjoint in panels or in tokens (`Cuts`), each is run by one
        // thread, kernels put only panels and tokens of their own chunk, and the part is let go
        // before this returns.
        let cells = unsafe { self.cells.chunk(row + first..row + end) };
        match cells.first_chunk_mut::<LANES>() {
            Some(cells) => {
                let sums = match bias {
                    Some(bias) => s.add(sums, s.load(crate::simd::array(&bias[first..]))),
                    None => sums,
                };
                s.store(sums, cells);
            }
            None => {
                let sums = match bias {
                    Some(bias) => s.add(sums, s.load_part(&bias[first..end])),
                    None => sums,
                };
                s.store_part(sums, cells);
            }
        }
    }

    /// What [`Output::put`] wrote last at the same place, in the same chunk.
    #[inline(always)]
    pub(super) fn held<S: Simd>(&self, s: S, token: usize, panel: usize) -> S::V {
        let (first, end) = self.range(panel);
        let row = self.row(token);
        // SAFETY: as in `put`.
        let cells = unsafe { self.cells.chunk(row + first..row + end) };
        match cells.first_chunk::<LANES>() {
            Some(cells) => s.load(cells),
            None => s.load_part(cells),
        }
    }

    /// Where a token's columns begin.
    #[inline(always)]
    fn row(&self, token: usize) -> usize {
        token * self.columns.stride + self.columns.first
    }

    #[inline(always)]
    fn range(&self, panel: usize) -> (usize, usize) {
        let first = panel * LANES;
        (first, (first + LANES).min(self.rows))
    }
}
