//! One product of x and a weight as every kernel sees it, and the chunk of it that a thread claims.

use std::ops::Range;

use super::output::Output;
use super::{Input, LinearShape};

/// Kernels take rows of x by up to 32.
pub(super) const TOKEN_STEP: usize = 32;
/// Rows of x in a tile.
pub(super) const TILE_ROWS: usize = 16;
/// 32 columns of one row in bf16.
pub(super) const STEP_BYTES: usize = 64;
/// 32 columns of a tile's rows.
pub(super) const TILE_BYTES: usize = TILE_ROWS * STEP_BYTES;

/// Everything that the chunks of one call share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product<'a> {
    pub(super) shape: LinearShape,
    pub(super) packed: &'a [u8],
    pub(super) x: Input<'a>,
    /// x rounded to bf16, as `Rounded` lays it out; empty unless the weight is bf16.
    pub(super) x_bf16: &'a [u8],
    pub(super) out: &'a Output<'a>,
}

impl<'a> Product<'a> {
    /// A panel of the weight.
    #[inline(always)]
    pub(super) fn panel(&self, panel: usize) -> &'a [u8] {
        &self.packed[panel * self.shape.panel_bytes()..][..self.shape.panel_bytes()]
    }

    /// A row of x.
    #[inline(always)]
    pub(super) fn row(&self, token: usize) -> &'a [f32] {
        &self.x.data[token * self.x.stride..][..self.shape.cols]
    }

    /// A row of x in bf16, padded.
    #[inline(always)]
    pub(super) fn row_bf16(&self, token: usize) -> &'a [u8] {
        let bytes = self.shape.padded_cols() * 2;
        &self.x_bf16[token * bytes..][..bytes]
    }
}

/// One claim of a thread.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub(super) panels: Range<usize>,
    pub(super) tokens: Range<usize>,
}
