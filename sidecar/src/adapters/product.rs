//! `W + s * B * A` for some rows and columns, in pieces of bounded size.

use std::ops::Range;

use super::factor::Factor;
use super::held::Held;
use crate::model_error::ModelError;

/// Numbers of a weight, of A, and of B that are held at once, by each thread that reads.
pub(super) const AT_ONCE: usize = 64 << 10;

/// Rows of a weight that is read `width` columns wide, and of its left factor.
pub(super) fn rows_at_once(width: usize, rank: usize) -> usize {
    (AT_ONCE / width.max(rank).max(1)).max(1)
}

/// Two factors of low rank: `left` is `[rows, rank]`, `right` is `[rank, cols]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product<'a> {
    pub(super) a: &'a Factor,
    pub(super) b: &'a Factor,
    pub(super) scale: f64,
    /// Of a table of tokens: rows go by A's columns, columns by B's rows.
    pub(super) of_table: bool,
}

impl Product<'_> {
    fn rank(&self) -> usize {
        self.a.info.rows_cols().0
    }

    fn left(&self, rows: Range<usize>) -> Result<Vec<f32>, ModelError> {
        match self.of_table {
            true => self.a.transposed(rows, 0..self.rank()),
            false => self.b.block(rows, 0..self.rank()),
        }
    }

    fn right(&self, cols: Range<usize>) -> Result<Vec<f32>, ModelError> {
        match self.of_table {
            true => self.b.transposed(0..self.rank(), cols),
            false => self.a.block(0..self.rank(), cols),
        }
    }

    /// Reads `rows x cols` of the base by `read`, adds the product, and gives `done` row after row: its
    /// number and its sums.
    ///
    /// # Errors
    /// Where a file fails.
    pub(super) fn each_row(
        &self,
        rows: Range<usize>,
        cols: Range<usize>,
        read: impl Fn(Range<usize>, Range<usize>, &mut [f32]) -> Result<(), ModelError>,
        mut done: impl FnMut(usize, &[f64]),
    ) -> Result<(), ModelError> {
        let width = cols.len();
        let at_once = rows_at_once(width, self.rank()).min(rows.len().max(1));
        let mut numbers = Held::new(at_once * width);
        let mut sums: Held<f64> = Held::new(at_once * width);
        for first in rows.clone().step_by(at_once) {
            let some = first..rows.end.min(first + at_once);
            let numbers = &mut numbers[..some.len() * width];
            let sums = &mut sums[..some.len() * width];
            read(some.clone(), cols.clone(), numbers)?;
            sums.fill(0.0);
            self.multiply(some.clone(), cols.clone(), sums)?;
            for (sum, number) in sums.iter_mut().zip(&*numbers) {
                *sum = f64::from(*number) + self.scale * *sum;
            }
            for (row, sums) in some.zip(sums.chunks_exact(width)) {
                done(row, sums);
            }
        }
        Ok(())
    }

    /// The product of two floats is exact in f64, so it does not matter whether a machine fuses it with
    /// the sum; terms are added in the order of the rank, whatever piece of the columns they are of.
    fn multiply(
        &self,
        rows: Range<usize>,
        cols: Range<usize>,
        sums: &mut [f64],
    ) -> Result<(), ModelError> {
        let (rank, width) = (self.rank(), cols.len());
        let left = Held::from(self.left(rows)?);
        let at_once = (AT_ONCE / rank).clamp(1, width.max(1));
        for first in cols.clone().step_by(at_once) {
            let piece = first..cols.end.min(first + at_once);
            let inside = first - cols.start..piece.end - cols.start;
            let right = Held::from(self.right(piece)?);
            for (left, sums) in left.chunks_exact(rank).zip(sums.chunks_exact_mut(width)) {
                let sums = &mut sums[inside.clone()];
                for (left, right) in left.iter().zip(right.chunks_exact(inside.len())) {
                    let left = f64::from(*left);
                    for (sum, right) in sums.iter_mut().zip(right) {
                        *sum += left * f64::from(*right);
                    }
                }
            }
        }
        Ok(())
    }
}
