//! One product of x and a weight as every kernel sees it, and the chunk of it that a thread claims.

use std::ops::Range;

use super::output::Output;
use super::{Input, LinearShape};
use crate::simd::{LANES, Simd};

/// Kernels take rows of x by up to 32.
pub(super) const TOKEN_STEP: usize = 32;
/// Rows of x in a tile.
pub(super) const TILE_ROWS: usize = 16;
/// 32 columns of one row in bf16.
pub(super) const STEP_BYTES: usize = 64;
/// 32 columns of a tile's rows.
pub(super) const TILE_BYTES: usize = TILE_ROWS * STEP_BYTES;

/// Everything that the chunks of one call share; or a part of it, some panels and columns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product<'a> {
    /// With the part's columns.
    pub(super) shape: LinearShape,
    /// The weight's panels from `first_panel` on.
    pub(super) packed: &'a [u8],
    pub(super) first_panel: usize,
    pub(super) x: Input<'a>,
    /// x rounded to bf16, as `Rounded` lays it out; empty unless the weight is bf16.
    pub(super) x_bf16: &'a [u8],
    /// Columns of `x_bf16`, padded.
    pub(super) x_cols: usize,
    /// The column of x that the part begins with, a multiple of 32.
    pub(super) first_col: usize,
    /// Sums go on from those in `out`.
    pub(super) resumes: bool,
    /// These are the last columns: the bias follows.
    pub(super) ends: bool,
    pub(super) out: &'a Output<'a>,
}

impl<'a> Product<'a> {
    /// A panel of the weight.
    #[inline(always)]
    pub(super) fn panel(&self, panel: usize) -> &'a [u8] {
        let bytes = self.shape.panel_bytes();
        &self.packed[(panel - self.first_panel) * bytes..][..bytes]
    }

    /// A row of x.
    #[inline(always)]
    pub(super) fn row(&self, token: usize) -> &'a [f32] {
        &self.x.data[token * self.x.stride + self.first_col..][..self.shape.cols]
    }

    /// A row of x in bf16, padded.
    #[inline(always)]
    pub(super) fn row_bf16(&self, token: usize) -> &'a [u8] {
        let first = token * self.x_cols + self.first_col;
        &self.x_bf16[first * 2..][..self.shape.padded_cols() * 2]
    }

    /// The sums that an earlier part has put for `P` panels and `T` rows of x. They come through memory,
    /// in a loop: unrolled into every kernel, this took compilers minutes.
    #[inline(always)]
    pub(super) fn held<S: Simd, const P: usize, const T: usize>(
        &self,
        s: S,
        token: usize,
        panel: usize,
    ) -> [[[f32; LANES]; T]; P] {
        let mut held = [[[0.0; LANES]; T]; P];
        for p in 0..P {
            for t in 0..T {
                s.store(self.out.held(s, token + t, panel + p), &mut held[p][t]);
            }
        }
        held
    }

    /// Writes the sums of `panel` for `token`.
    #[inline(always)]
    pub(super) fn put<S: Simd>(&self, s: S, token: usize, panel: usize, sums: S::V) {
        self.out.put(s, token, panel, sums, self.ends);
    }
}

/// One claim of a thread.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub(super) panels: Range<usize>,
    pub(super) tokens: Range<usize>,
}
