//! One tensor of an adapter: its numbers are read when they are needed.

use std::ops::Range;
use std::sync::Arc;

use plimsoll_planner::Dtype;

use super::held::Held;
use super::unread;
use crate::model_error::ModelError;
use crate::weights::TensorInfo;
use crate::weights::file::WeightFile;
use crate::weights::stored::Stored;

/// Numbers that are looked at at once.
const AT_ONCE: usize = 64 << 10;

/// A tensor of floats in an open file.
#[derive(Clone, Debug)]
pub(crate) struct Factor {
    /// Whose file it is, for messages.
    pub(crate) adapter: Arc<str>,
    pub(crate) file: Arc<WeightFile>,
    pub(crate) info: TensorInfo,
    pub(crate) stored: Stored,
    /// All of its numbers are.
    pub(crate) is_zero: bool,
}

/// What a look at all numbers found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scanned {
    /// The first that is none, with its place.
    pub(crate) wrong: Option<(usize, f32)>,
    pub(crate) is_zero: bool,
}

impl Factor {
    /// `rows x cols`, row-major; the ranges lie inside.
    ///
    /// # Errors
    /// Where the file fails.
    pub(crate) fn block(
        &self,
        rows: Range<usize>,
        cols: Range<usize>,
    ) -> Result<Vec<f32>, ModelError> {
        let mut numbers = vec![0.0; rows.len() * cols.len()];
        self.read(rows, cols, &mut numbers)?;
        Ok(numbers)
    }

    /// As [`Factor::block`], with rows and columns changed over.
    ///
    /// # Errors
    /// Where the file fails.
    pub(crate) fn transposed(
        &self,
        rows: Range<usize>,
        cols: Range<usize>,
    ) -> Result<Vec<f32>, ModelError> {
        let (height, width) = (rows.len(), cols.len());
        let block = self.block(cols, rows)?;
        let at = |place: usize| block[place % width * height + place / width];
        Ok((0..height * width).map(at).collect())
    }

    /// Exactly the bytes asked for, however few of each row they are.
    ///
    /// # Errors
    /// Where the file fails.
    pub(crate) fn read(
        &self,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), ModelError> {
        let encoding = self.stored.encoding;
        let mut bytes = Held::new(out.len() * encoding.block_bytes());
        self.read_bytes(rows, cols, &mut bytes)?;
        encoding.decode(&bytes, 0, out);
        Ok(())
    }

    /// As they stand in the file, in [`Factor::dtype`].
    ///
    /// # Errors
    /// Where the file fails.
    pub(crate) fn read_bytes(
        &self,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [u8],
    ) -> Result<(), ModelError> {
        let read = self
            .stored
            .read_same(&self.file, self.dtype(), rows, cols, out)
            .map_err(|error| unread(&self.adapter, &error))?;
        debug_assert!(read, "safetensors have rows as they are");
        Ok(())
    }

    pub(crate) fn dtype(&self) -> Dtype {
        let Some(dtype) = self.stored.encoding.plain() else {
            unreachable!("{} was checked to hold floats", self.info.name)
        };
        dtype
    }

    pub(crate) fn all(&self) -> Result<Vec<f32>, ModelError> {
        let (rows, cols) = self.info.rows_cols();
        self.block(0..rows, 0..cols)
    }

    /// Goes over all bytes, in order.
    ///
    /// # Errors
    /// Where the file fails.
    pub(crate) fn scan(&self, digest: &mut dyn FnMut(&[u8])) -> Result<Scanned, ModelError> {
        let size = self.stored.encoding.block_bytes();
        let count = usize::try_from(self.info.bytes).unwrap_or(usize::MAX) / size;
        let mut bytes = vec![0; AT_ONCE.min(count) * size];
        let mut numbers = vec![0.0; AT_ONCE.min(count)];
        let mut scanned = Scanned {
            wrong: None,
            is_zero: true,
        };
        for first in (0..count).step_by(AT_ONCE) {
            let some = AT_ONCE.min(count - first);
            let (bytes, numbers) = (&mut bytes[..some * size], &mut numbers[..some]);
            let read = self
                .file
                .read_at(self.stored.offset + (first * size) as u64, bytes);
            read.map_err(|error| unread(&self.adapter, &error))?;
            digest(bytes);
            self.stored.encoding.decode(bytes, 0, numbers);
            let at = numbers.iter().position(|number| !number.is_finite());
            scanned.wrong = scanned.wrong.or(at.map(|at| (first + at, numbers[at])));
            scanned.is_zero &= numbers.iter().all(|number| *number == 0.0);
        }
        Ok(scanned)
    }
}
