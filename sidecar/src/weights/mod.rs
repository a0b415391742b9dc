//! Tensors on disk: who has which name, shape and type, and reading parts of them as f32.
//!
//! Names and row order are Hugging Face's, whatever the file: a GGUF's permuted q and k rows are
//! put back, so that rotary pairs are (i, i + head_dim / 2) everywhere.

use std::fmt::Debug;
use std::ops::Range;

use crate::model::ModelError;

/// One tensor as the file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Hugging Face name: `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Row-major; a linear weight is `[out, in]`.
    pub shape: Vec<usize>,
    /// The file's type: `F32`, `F16`, `BF16`, `Q8_0`, `Q4_0`, `Q4_1`.
    pub dtype: &'static str,
    /// Bytes in the file.
    pub bytes: u64,
}

impl TensorInfo {
    /// The tensor as a matrix: `[n]` is n rows of one number.
    pub fn rows_cols(&self) -> (usize, usize) {
        match self.shape.split_first() {
            None => (1, 1),
            Some((rows, rest)) => (*rows, rest.iter().product()),
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

    /// Reads whole rows (elements of a vector). See [`TensorSource::read_block`].
    ///
    /// # Errors
    /// As [`TensorSource::read_block`].
    fn read_rows(&self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<(), ModelError> {
        let cols = self.info(name).map_or(0, |info| info.rows_cols().1);
        self.read_block(name, rows, 0..cols, out)
    }
}
