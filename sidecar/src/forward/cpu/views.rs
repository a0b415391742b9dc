//! Handles of weights as what the kernels take.

use plimsoll_kernels::linear::{LinearShape, Products, Weight};

use plimsoll_planner::Account;

use super::stream::Stream;
use crate::forward::handle::{Format, Handle};
use crate::forward::layers::Matrix;
use crate::memory::arena::Arena;

/// A vector among the weights.
pub(super) fn vector(weights: &Arena, handle: Handle) -> &[f32] {
    debug_assert_eq!(handle.format, Format::F32, "{handle:?}");
    weights.all(handle.region)
}

/// A matrix among the weights, or in the slot of its layer.
pub(super) fn weight<'a>(
    weights: &'a Arena,
    stream: &'a mut Option<Stream>,
    matrix: &Matrix,
    products: Products,
) -> Weight<'a> {
    let region = matrix.weight.region;
    let packed = match stream {
        Some(stream) if matrix.weight.arena == Account::Offload => stream.current(region),
        Some(_) | None => weights.all(region),
    };
    Weight {
        shape: LinearShape {
            products,
            ..matrix.shape()
        },
        packed,
        bias: matrix.bias.map(|bias| vector(weights, bias)),
    }
}
