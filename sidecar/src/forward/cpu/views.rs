//! Handles as slices: the only place where they become addresses.

use plimsoll_kernels::device::Buffer;
use plimsoll_kernels::linear::{LinearShape, Weight};

use crate::forward::handle::{Format, Handle};
use crate::forward::layers::Matrix;

/// The buffers of one arena that an op takes, all different.
///
/// # Panics
/// When two of them are the same.
pub(super) fn apart<const N: usize>(buffers: &mut [Buffer], of: [Handle; N]) -> [&mut Buffer; N] {
    buffers
        .get_disjoint_mut(of.map(|handle| handle.index))
        .unwrap_or_else(|error| panic!("an op's tensors {of:?}: {error}"))
}

/// A part of the weights, in bytes.
pub(super) fn bytes(weights: &Buffer, handle: Handle) -> &[u8] {
    weights.range(size(handle.region.offset), size(handle.region.bytes))
}

/// A vector among the weights.
pub(super) fn vector(weights: &Buffer, handle: Handle) -> &[f32] {
    debug_assert_eq!(handle.format, Format::F32, "{handle:?}");
    weights.range(
        size(handle.region.offset),
        size(handle.region.bytes) / size_of::<f32>(),
    )
}

/// A matrix among the weights.
pub(super) fn weight<'a>(weights: &'a Buffer, matrix: &Matrix) -> Weight<'a> {
    Weight {
        shape: LinearShape {
            rows: matrix.rows,
            cols: matrix.cols,
            dtype: matrix.dtype,
        },
        packed: bytes(weights, matrix.weight),
        bias: matrix.bias.map(|bias| vector(weights, bias)),
    }
}

pub(super) fn size(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
