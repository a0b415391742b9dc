//! Whether merged rows answer as base and adapter do side by side.
//!
//! They are asked with a vector `x` of signs: of each row, `(W' - W) x` must be `s * B (A x)`. That is
//! summed in f64 in another order than the merge sums, from factors that are read anew, so the only
//! difference there may be is the rounding of the merged row to f32, which has a bound. A merge with
//! another sign or scale, of other rows or columns, or that leaves a row out is beyond it.

use std::ops::Range;

use super::change::Change;
use crate::model_error::ModelError;

/// Numbers of a factor that are looked at at once.
const AT_ONCE: usize = 64 << 10;
/// Half a unit in the last place of an f32, of the number: 2^-24.
const ROUNDING: f64 = 0.5 * f32::EPSILON as f64;
/// What sums in f64 may be off by, of the sum of sizes: 2^17 terms.
const SUMMING: f64 = 65_536.0 * f64::EPSILON;
/// A length is the root of a sum of squares, and the factor of its row is rounded, too.
const LENGTH: f64 = 16.0 * ROUNDING;

/// Some rows of a tensor, as an adapter found and left them.
#[derive(Clone, Debug)]
pub(super) struct Seen<'a> {
    pub(super) change: &'a Change,
    pub(super) rows: Range<usize>,
    pub(super) cols: Range<usize>,
    /// Without the adapter they would stay in the blocks of the file.
    pub(super) in_blocks: bool,
    pub(super) before: &'a [f32],
    pub(super) after: &'a [f32],
}

/// A row that is not what was meant, and the two answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct WrongRow {
    pub(super) row: usize,
    pub(super) is: f64,
    pub(super) meant: f64,
}

/// Of a vector of signs and one of ones, each element of a product with them, or their sum.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    signed: f64,
    plain: f64,
    /// Of the sizes of all numbers.
    sizes: f64,
}

impl Sums {
    fn count(&mut self, number: f64, column: usize) {
        self.signed += number * sign(column);
        self.plain += number;
        self.sizes += number.abs();
    }

    fn of(numbers: &[f32], first_col: usize) -> Sums {
        let mut sums = Sums::default();
        for (column, number) in (first_col..).zip(numbers) {
            sums.count(f64::from(*number), column);
        }
        sums
    }

    /// With `factor` times the other.
    fn plus(self, factor: f64, other: &Sums) -> Sums {
        Sums {
            signed: self.signed + factor * other.signed,
            plain: self.plain + factor * other.plain,
            sizes: self.sizes + factor.abs() * other.sizes,
        }
    }
}

/// Plus or minus one, by column: the same every time.
fn sign(column: usize) -> f64 {
    let mixed = (column as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    match mixed >> 63 {
        0 => 1.0,
        _ => -1.0,
    }
}

/// What the right factor answers, for each of the rank.
#[derive(Debug, Default)]
pub(super) struct Answers(Vec<Sums>);

impl Answers {
    /// Of no rank where no factors are multiplied.
    ///
    /// # Errors
    /// Where a file fails.
    pub(super) fn of(change: &Change, cols: &Range<usize>) -> Result<Answers, ModelError> {
        let (factor, of_table) = match change {
            Change::LowRank { a, .. } => (a, false),
            Change::Embedding { b, .. } => (b, true),
            Change::Bias { .. } | Change::Replaced(_) | Change::Rows { .. } => {
                return Ok(Answers::default());
            }
        };
        let rank = change.rank();
        let at_once = (AT_ONCE / rank.max(1)).max(1);
        let mut sums = vec![Sums::default(); rank];
        for first in cols.clone().step_by(at_once) {
            let some = first..cols.end.min(first + at_once);
            let block = match of_table {
                true => factor.block(some.clone(), 0..rank)?,
                false => factor.block(0..rank, some.clone())?,
            };
            for (place, number) in block.iter().enumerate() {
                let (of, column) = match of_table {
                    true => (place % rank, place / rank),
                    false => (place / some.len(), place % some.len()),
                };
                sums[of].count(f64::from(*number), first + column);
            }
        }
        Ok(Answers(sums))
    }

    /// What a row of the left factor makes of them: `numbers` one of each `step`.
    fn through(&self, scale: f64, numbers: &[f32], step: usize) -> Sums {
        let left = numbers.iter().step_by(step).zip(&self.0);
        left.fold(Sums::default(), |sums, (number, answer)| {
            sums.plus(scale * f64::from(*number), answer)
        })
    }
}

/// A row as it was and is, and its answers.
struct Row {
    row: usize,
    was: Sums,
    is: Sums,
    /// Of what was added, number by number.
    added: f64,
    length: f64,
}

impl Seen<'_> {
    /// The first row that is not what base and adapter are side by side.
    ///
    /// # Errors
    /// Where a file fails.
    pub(super) fn first_wrong(&self, answers: &Answers) -> Result<Option<WrongRow>, ModelError> {
        let (rows, rank) = (self.rows.clone(), self.change.rank());
        match self.change {
            Change::LowRank {
                a,
                b,
                scale,
                magnitude,
            } => {
                let left = b.block(rows, 0..rank)?;
                let whole = self.cols == (0..a.info.rows_cols().1);
                Ok(self.first(|at, row| {
                    let left = &left[at * rank..(at + 1) * rank];
                    let adds = answers.through(*scale, left, 1);
                    match magnitude {
                        None => row.adds(&adds),
                        Some(lengths) => row.stretched(&adds, lengths[row.row].into(), whole),
                    }
                }))
            }
            Change::Embedding { a, scale, .. } => {
                let left = a.block(0..rank, rows)?;
                Ok(self.first(|at, row| {
                    row.adds(&answers.through(*scale, &left[at..], self.rows.len()))
                }))
            }
            Change::Bias { bias, scale } => Ok(self.first(|_, row| {
                let alone = Sums::of(&bias[row.row..=row.row], self.cols.start);
                row.adds(&Sums::default().plus(*scale, &alone))
            })),
            Change::Replaced(tensor) => {
                let meant = tensor.block(rows, self.cols.clone())?;
                Ok(self.unlike(&meant))
            }
            Change::Rows {
                rows: given,
                tensor,
            } => {
                let mut meant = self.before.to_vec();
                let width = self.cols.len();
                for (row, by) in given.range(rows.clone()) {
                    let block = tensor.block(*by..by + 1, self.cols.clone())?;
                    meant[(row - rows.start) * width..][..width].copy_from_slice(&block);
                }
                Ok(self.unlike(&meant))
            }
        }
    }

    fn first(&self, look: impl Fn(usize, &Row) -> Option<WrongRow>) -> Option<WrongRow> {
        let width = self.cols.len().max(1);
        let rows = self.before.chunks_exact(width);
        let mut rows = rows.zip(self.after.chunks_exact(width)).enumerate();
        rows.find_map(|(at, (before, after))| {
            look(
                at,
                &Row::of(self.rows.start + at, before, after, self.cols.start),
            )
        })
    }

    /// The first row with another number than is meant.
    fn unlike(&self, meant: &[f32]) -> Option<WrongRow> {
        let at = self
            .after
            .iter()
            .zip(meant)
            .position(|(is, meant)| is != meant)?;
        Some(WrongRow {
            row: self.rows.start + at / self.cols.len().max(1),
            is: self.after[at].into(),
            meant: meant[at].into(),
        })
    }
}

impl Row {
    fn of(row: usize, before: &[f32], after: &[f32], first_col: usize) -> Row {
        let (mut added, mut squares) = (0.0, 0.0);
        for (column, (before, after)) in (first_col..).zip(before.iter().zip(after)) {
            let [before, after] = [*before, *after].map(f64::from);
            added += (after - before) * sign(column);
            squares += after * after;
        }
        Row {
            row,
            was: Sums::of(before, first_col),
            is: Sums::of(after, first_col),
            added,
            length: squares.sqrt(),
        }
    }

    /// None of a row to which `meant` was added. What compares to nothing (a sum that is no number) is
    /// wrong, too.
    fn adds(&self, meant: &Sums) -> Option<WrongRow> {
        let sizes = self.was.sizes + self.is.sizes + meant.sizes;
        let bound = ROUNDING * self.is.sizes + SUMMING * sizes;
        let is_right = (self.added - meant.signed).abs() <= bound;
        (!is_right).then_some(WrongRow {
            row: self.row,
            is: self.added,
            meant: meant.signed,
        })
    }

    /// None of a row that has the direction of what it was with `added`, and, as far as all of it is
    /// seen, `length`.
    fn stretched(&self, added: &Sums, length: f64, whole: bool) -> Option<WrongRow> {
        let sum = self.was.plus(1.0, added);
        let wrong = |is, meant| {
            let row = self.row;
            Some(WrongRow { row, is, meant })
        };
        let is_as_long = (self.length - length.abs()).abs() <= LENGTH * length.abs();
        if whole && !is_as_long {
            return wrong(self.length, length.abs());
        }
        // Two vectors are in one direction when their answers to two others are in one ratio.
        let (one, other) = (self.is.signed * sum.plain, self.is.plain * sum.signed);
        let bound = (ROUNDING + SUMMING) * self.is.sizes * (sum.plain.abs() + sum.signed.abs())
            + SUMMING * self.is.sizes * sum.sizes;
        let is_along = (one - other).abs() <= bound;
        if !is_along {
            return wrong(one, other);
        }
        // And not in the opposite ones.
        let along = self.is.signed * sum.signed * length.signum();
        match along < -bound {
            true => wrong(self.is.signed, -self.is.signed),
            false => None,
        }
    }
}
