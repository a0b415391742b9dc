//! Tensors on disk: who has which name, shape and type, and reading parts of them as f32.
//!
//! Names and row order are Hugging Face's, whatever the file: a GGUF's permuted q and k rows are
//! put back, so that rotary pairs are (i, i + head_dim / 2) everywhere.

mod blocks;
pub(crate) mod encoding;
pub(crate) mod file;
pub(crate) mod finite;
pub(crate) mod folder;
pub(crate) mod gguf;
pub(crate) mod header;
mod k_quants;
pub(crate) mod packed;
pub mod piece;
pub(crate) mod rounding;
pub(crate) mod safetensors;
pub(crate) mod stored;
pub mod stream;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod validate;

use std::fmt::Debug;
use std::ops::Range;

use plimsoll_planner::{BlockFormat, Dtype};

use crate::model_error::{ModelError, shorten};
use encoding::Encoding;

pub use validate::{needed, validate};

/// One tensor as the file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Hugging Face name: `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Row-major; a linear weight is `[out, in]`.
    pub shape: Vec<usize>,
    /// The file's type: `F32`, `BF16`, `Q8_0`, `Q4_K`, ...
    pub dtype: String,
    /// Bytes in the file.
    pub bytes: u64,
}

impl TensorInfo {
    /// The tensor as a matrix: `[n]` is n rows of one number.
    pub fn rows_cols(&self) -> (usize, usize) {
        match self.shape.split_first() {
            None => (1, 1),
            Some((rows, rest)) => (
                *rows,
                rest.iter()
                    .fold(1, |cols: usize, dim| cols.saturating_mul(*dim)),
            ),
        }
    }
}

/// Read access to the tensors of a model. Readers share no position: any thread may read.
pub trait TensorSource: Debug + Send + Sync {
    /// Every tensor, in the order of the files.
    fn names(&self) -> Vec<&str>;

    fn info(&self, name: &str) -> Option<&TensorInfo>;

    /// Reads `rows x cols` of the matrix view into `out`, row-major, as f32.
    ///
    /// # Errors
    /// [`ModelError::InvalidWeights`] for an unknown name, a range outside of the tensor or an
    /// `out` of another length; [`ModelError::Unreadable`] where the file fails.
    fn read_block(
        &self,
        name: &str,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), ModelError>;

    /// As [`TensorSource::read_block`], as little-endian numbers of `dtype`: as they stand in the
    /// file where that has them, rounded to nearest even otherwise.
    ///
    /// # Errors
    /// As [`TensorSource::read_block`].
    fn read_as(
        &self,
        dtype: Dtype,
        name: &str,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [u8],
    ) -> Result<(), ModelError> {
        let count = rows.len().saturating_mul(cols.len());
        let read = |numbers: &mut [f32]| self.read_block(name, rows, cols, numbers);
        rounded(dtype, count, read, out)
    }

    /// Its place has it already: a read of all tensors passes over it.
    fn is_there(&self, _name: &str) -> bool {
        false
    }

    /// As [`TensorSource::read_as`], as blocks that the numbers are rounded to, a tensor that the file has
    /// in floats: columns begin and end with a block.
    ///
    /// # Errors
    /// As [`TensorSource::read_block`]; where a number is in no block.
    fn read_rounded(
        &self,
        format: BlockFormat,
        name: &str,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [u8],
    ) -> Result<(), ModelError> {
        let read = |rows, numbers: &mut [f32]| self.read_block(name, rows, cols.clone(), numbers);
        rounding::read(format, name, (rows, cols.len()), read, out)
    }

    /// As [`TensorSource::read_block`], of numbers that are kept in this encoding afterwards: who changes
    /// them looks at what is left of that.
    ///
    /// # Errors
    /// As [`TensorSource::read_block`].
    fn read_kept(
        &self,
        _kept: Encoding,
        name: &str,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), ModelError> {
        self.read_block(name, rows, cols, out)
    }

    /// The blocks that the file has a tensor in, where [`TensorSource::read_blocks`] reads those; their
    /// columns are those that [`TensorSource::order`] names.
    fn blocks(&self, _name: &str) -> Option<BlockFormat> {
        None
    }

    /// Of a tensor in blocks whose groups are of columns that are apart: every column once, group by group.
    /// None where columns are in their own order.
    fn order(&self, _name: &str) -> Option<&[u32]> {
        None
    }

    /// As [`TensorSource::read_block`], as the blocks that the file has, in their order: columns begin and end with one.
    ///
    /// # Errors
    /// As [`TensorSource::read_block`]; when the file has the tensor in another type.
    fn read_blocks(
        &self,
        format: BlockFormat,
        name: &str,
        _rows: Range<usize>,
        _cols: Range<usize>,
        _out: &mut [u8],
    ) -> Result<(), ModelError> {
        Err(other_type(format, name, self.info(name)))
    }

    /// Reads whole rows (elements of a vector). See [`TensorSource::read_block`].
    ///
    /// # Errors
    /// As [`TensorSource::read_block`].
    fn read_rows(&self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<(), ModelError> {
        let cols = self.info(name).map_or(0, |info| info.rows_cols().1);
        self.read_block(name, rows, 0..cols, out)
    }
}

/// Reads so many numbers and writes them as `dtype`, see [`TensorSource::read_as`].
fn rounded(
    dtype: Dtype,
    count: usize,
    read: impl FnOnce(&mut [f32]) -> Result<(), ModelError>,
    out: &mut [u8],
) -> Result<(), ModelError> {
    let mut numbers = vec![0.0; count];
    read(&mut numbers)?;
    encoding::encode(dtype, &numbers, out);
    Ok(())
}

/// A tensor whose place is in blocks that the file has not.
pub(crate) fn other_type(format: BlockFormat, name: &str, info: Option<&TensorInfo>) -> ModelError {
    let is = info.map_or("not in the model", |info| &info.dtype);
    let message = format!(
        "tensor `{}` is {is}, and its place in memory is in blocks of {format}",
        shorten(name)
    );
    ModelError::weights("weights", message)
}

/// The checks every reader makes before it reads.
pub(crate) fn check_block(
    name: &str,
    info: Option<&TensorInfo>,
    rows: &Range<usize>,
    cols: &Range<usize>,
    out: usize,
) -> Result<(), ModelError> {
    let refuse = |message: String| {
        Err(ModelError::weights(
            "weights",
            format!("tensor `{}`: {message}", shorten(name)),
        ))
    };
    let Some(info) = info else {
        return refuse("is not in the model".into());
    };
    let (row_count, col_count) = info.rows_cols();
    if rows.start > rows.end
        || rows.end > row_count
        || cols.start > cols.end
        || cols.end > col_count
    {
        return refuse(format!(
            "rows {rows:?} and columns {cols:?} are outside of its {row_count} x {col_count}"
        ));
    }
    if rows.len().checked_mul(cols.len()) != Some(out) {
        return refuse(format!(
            "{} x {} numbers do not fill {out}",
            rows.len(),
            cols.len()
        ));
    }
    Ok(())
}
