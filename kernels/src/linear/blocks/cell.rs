//! What expanded numbers are written in: one step of a panel.

use crate::simd::LANES;

/// Bytes of a column of f32 or of a column pair of 16-bit numbers.
pub(super) const CELL_BYTES: usize = 4 * LANES;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Cell(pub(super) [u8; CELL_BYTES]);
