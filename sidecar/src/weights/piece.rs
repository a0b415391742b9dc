//! Some rows of a tensor that was sent and not read: the source of one write.

use std::ops::Range;
use std::sync::Arc;

use plimsoll_planner::Dtype;

use super::encoding::{Encoding, encode, limit};
use super::{TensorInfo, TensorSource, check_block};
use crate::model_error::{ModelError, shorten};

/// Numbers that are looked at at once.
const AT_ONCE: usize = 1024;

/// Whole rows of one tensor, as they came.
#[derive(Debug)]
pub struct Piece {
    pub(super) info: Arc<TensorInfo>,
    pub(super) rows: Range<usize>,
    pub(super) encoding: Encoding,
    pub(super) bytes: Vec<u8>,
}

impl Piece {
    /// Of which tensor, whole.
    pub fn tensor(&self) -> &TensorInfo {
        &self.info
    }

    pub fn rows(&self) -> &Range<usize> {
        &self.rows
    }

    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The first number, with its row, that is none as it will be kept: NaN, infinite, or larger than the
    /// largest there.
    pub fn wrong_number(&self, kept: Encoding) -> Option<(usize, f32)> {
        let beyond = limit(kept);
        let size = self.encoding.block_bytes();
        let cols = self.info.rows_cols().1.max(1);
        let mut numbers = [0.0; AT_ONCE];
        let mut chunks = self.bytes.chunks(AT_ONCE * size).enumerate();
        chunks.find_map(|(chunk, bytes)| {
            let numbers = &mut numbers[..bytes.len() / size];
            self.encoding.decode(bytes, 0, numbers);
            let is_one = |number: &f32| number.abs() < beyond;
            // The usual case has no branch per number.
            if numbers
                .iter()
                .fold(true, |all, number| all & is_one(number))
            {
                return None;
            }
            let at = numbers.iter().position(|number| !is_one(number))?;
            Some((self.rows.start + (chunk * AT_ONCE + at) / cols, numbers[at]))
        })
    }

    /// The bytes of `cols` of a row, which the piece has.
    fn part(&self, row: usize, cols: &Range<usize>) -> &[u8] {
        let (size, width) = (self.encoding.block_bytes(), self.info.rows_cols().1);
        let start = (row - self.rows.start) * width + cols.start;
        &self.bytes[start * size..(start + cols.len()) * size]
    }

    fn check(
        &self,
        name: &str,
        rows: &Range<usize>,
        cols: &Range<usize>,
        out: usize,
    ) -> Result<(), ModelError> {
        check_block(name, self.info(name), rows, cols, out)?;
        if rows.start < self.rows.start || rows.end > self.rows.end {
            let name = shorten(name);
            let message = format!("tensor `{name}`: rows {rows:?} are not in {:?}", self.rows);
            return Err(ModelError::weights("a piece", message));
        }
        Ok(())
    }
}

impl TensorSource for Piece {
    fn names(&self) -> Vec<&str> {
        vec![&self.info.name]
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        (self.info.name == name).then_some(&self.info)
    }

    fn read_block(
        &self,
        name: &str,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), ModelError> {
        self.check(name, &rows, &cols, out.len())?;
        for (row, out) in rows.zip(out.chunks_exact_mut(cols.len().max(1))) {
            self.encoding.decode(self.part(row, &cols), 0, out);
        }
        Ok(())
    }

    fn read_as(
        &self,
        dtype: Dtype,
        name: &str,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [u8],
    ) -> Result<(), ModelError> {
        let size = if dtype == Dtype::Float32 { 4 } else { 2 };
        self.check(name, &rows, &cols, out.len() / size)?;
        let same = self.encoding.plain() == Some(dtype);
        let mut numbers = vec![0.0; if same { 0 } else { cols.len() }];
        for (row, out) in rows.zip(out.chunks_exact_mut((cols.len() * size).max(1))) {
            let part = self.part(row, &cols);
            if same {
                out.copy_from_slice(part);
            } else {
                self.encoding.decode(part, 0, &mut numbers);
                encode(dtype, &numbers, out);
            }
        }
        Ok(())
    }
}
