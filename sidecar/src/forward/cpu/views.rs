//! Handles of weights as what the kernels take.

use plimsoll_kernels::linear::{LinearShape, Weight};

use crate::forward::handle::{Format, Handle};
use crate::forward::layers::Matrix;
use crate::memory::arena::Arena;

/// A vector among the weights.
pub(super) fn vector(weights: &Arena, handle: Handle) -> &[f32] {
    debug_assert_eq!(handle.format, Format::F32, "{handle:?}");
    weights.all(handle.region)
}

/// A matrix among the weights.
pub(super) fn weight<'a>(weights: &'a Arena, matrix: &Matrix) -> Weight<'a> {
    Weight {
        shape: LinearShape {
            rows: matrix.rows,
            cols: matrix.cols,
            dtype: matrix.dtype,
        },
        packed: weights.all(matrix.weight.region),
        bias: matrix.bias.map(|bias| vector(weights, bias)),
    }
}
