//! linear: out[t, r] = sum over c of x[t, c] * w[r, c] + bias[r]
//!
//! Weights are packed in panels of 16 rows (`pack`), one layout for every instruction set:
//! f32 `[panel][col][row16]`, bf16 and f16 `[panel][col pair][row16][2]`; rows are padded with
//! zeros to 16, columns to 32. Sums are f32. With bf16 weights x is rounded to bf16 (nearest
//! even) first; with f16 and f32 weights it is not. A row's result does not depend on how many
//! other rows are in the call: it has the same bits alone and in any batch.
//!
//! A weight may stay in blocks of 2 to 8 bits (`blocks`): then its exact products have the bits of those
//! of the weight that is expanded to `dtype` first, and those by integers are defined in `blocks/integers`.
//!
//! On a card (`cuda`, of 4 and 8 bits `codes::cuda`) x, weights and out have one float type (out may be f32), weights lie row after
//! row (`card`), and a row has the same bits whatever else is in the call as long as the same family
//! of kernels serves it: up to 16 rows one, more the other (`choice`).

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "AMX tiles exist in assembly only")]
mod amx;
#[cfg(target_arch = "x86_64")]
#[expect(
    unsafe_code,
    reason = "bf16 dot products on registers, proved by the pool's check"
)]
mod bf16;
mod blocks;
#[cfg(feature = "cuda")]
pub mod card;
#[cfg(feature = "cuda")]
pub mod choice;
pub mod codes;
mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod lanes;
#[cfg(feature = "gpu-tests")]
pub(crate) mod launcher_trials;
#[expect(
    unsafe_code,
    reason = "concurrent chunks write different columns of one row"
)]
mod output;
mod pack;
mod product;
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "their configuration exists in assembly only")]
mod tile_sizes;
#[cfg(feature = "gpu-tests")]
pub(crate) mod trials;

#[cfg(test)]
mod tests;

use plimsoll_planner::{BlockFormat, Dtype, weights};

use crate::encoding;
use crate::pool::Pool;

pub use blocks::{BadScale, StoredBlocks, check_scales, pack_blocks};
pub use pack::{pack_rows, pack_stored, unpack_row};

/// Output rows of one panel; rows are padded to a multiple of it.
#[expect(clippy::cast_possible_truncation, reason = "16, as plans have it")]
pub const PANEL_ROWS: usize = weights::PANEL_ROWS as usize;
/// Columns are padded to a multiple of this.
#[expect(clippy::cast_possible_truncation, reason = "32, as plans have it")]
pub const PANEL_COLS: usize = weights::PANEL_COLS as usize;

/// A weight `[rows = outputs, cols = inputs]` as one rank holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearShape {
    pub rows: usize,
    pub cols: usize,
    /// What products are computed with; without `blocks` also how numbers are stored.
    pub dtype: Dtype,
    /// Numbers stay in blocks of this format, and `cols` is a multiple of 32.
    pub blocks: Option<BlockFormat>,
    /// Of columns that are cut inside of blocks: how many of the first block are not here, a multiple of
    /// 32. None where rows are whole blocks.
    pub skipped: Option<usize>,
    /// Of numbers in blocks.
    pub products: Products,
}

/// How a weight in blocks is multiplied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Products {
    /// As the weight that is expanded to the compute type.
    #[default]
    Exact,
    /// By integers, x quantised to 8 bits as well.
    Int8,
    /// By integers, x quantised to 16 bits: nearer to f32 than x in bf16 is.
    Int16,
}

impl LinearShape {
    /// A weight whose numbers are stored as `dtype`.
    pub const fn dense(rows: usize, cols: usize, dtype: Dtype) -> LinearShape {
        LinearShape {
            rows,
            cols,
            dtype,
            blocks: None,
            skipped: None,
            products: Products::Exact,
        }
    }

    /// A weight whose numbers stay in blocks, rows of whole ones.
    pub const fn stored(
        rows: usize,
        cols: usize,
        dtype: Dtype,
        format: BlockFormat,
    ) -> LinearShape {
        LinearShape {
            blocks: Some(format),
            ..LinearShape::dense(rows, cols, dtype)
        }
    }

    /// Whether products are by integers: those of blocks where that is asked for.
    pub const fn is_by_integers(&self) -> bool {
        match self.products {
            Products::Int8 | Products::Int16 => self.blocks.is_some(),
            Products::Exact => false,
        }
    }

    pub const fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL_ROWS)
    }

    pub const fn padded_cols(&self) -> usize {
        self.cols.next_multiple_of(PANEL_COLS)
    }

    pub const fn panel_bytes(&self) -> usize {
        match self.blocks {
            None => PANEL_ROWS * self.padded_cols() * encoding::bytes_of(self.dtype),
            Some(format) => blocks::panel_bytes(self, format),
        }
    }

    /// Bytes of the packed weight; equal to `planner::weights`' figure for it.
    pub const fn packed_bytes(&self) -> usize {
        self.panels() * self.panel_bytes()
    }

    /// # Panics
    /// When columns are no whole blocks, or, where they are cut, no whole steps of 32.
    pub(crate) fn check_blocks(&self) {
        let Some(format) = self.blocks else { return };
        let columns = match self.skipped {
            None => usize::try_from(format.columns()).unwrap_or(usize::MAX),
            Some(_) => blocks::GROUP,
        };
        let is_whole = self.cols.is_multiple_of(columns);
        assert!(
            is_whole,
            "{} columns are not whole blocks of {columns}",
            self.cols
        );
        assert!(
            self.skipped
                .is_none_or(|cols| cols.is_multiple_of(blocks::GROUP)),
            "{self:?} skips a part of 32 columns"
        );
    }

    /// The byte at which the number of `row` and `col` lies in the packed weight.
    ///
    /// # Panics
    /// When numbers stay in blocks.
    pub const fn offset(&self, row: usize, col: usize) -> usize {
        assert!(self.blocks.is_none(), "numbers of blocks are no bytes");
        let (panel, lane) = (row / PANEL_ROWS, row % PANEL_ROWS);
        let cell = match self.dtype {
            Dtype::Float32 => col * PANEL_ROWS + lane,
            Dtype::BFloat16 | Dtype::Float16 => (col / 2 * PANEL_ROWS + lane) * 2 + col % 2,
        };
        panel * self.panel_bytes() + cell * encoding::bytes_of(self.dtype)
    }
}

/// A packed weight and its bias.
#[derive(Clone, Copy, Debug)]
pub struct Weight<'a> {
    pub shape: LinearShape,
    /// At least `shape.packed_bytes()`; 64-byte alignment is faster, not needed.
    pub packed: &'a [u8],
    /// `[rows]`
    pub bias: Option<&'a [f32]>,
}

/// Input rows: row `t` is `data[t * stride..][..cols]`.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    pub data: &'a [f32],
    pub tokens: usize,
    /// Numbers from one row to the next, at least the weight's columns.
    pub stride: usize,
}

impl<'a> Input<'a> {
    /// Rows of `cols` numbers without gaps.
    pub const fn dense(data: &'a [f32], tokens: usize, cols: usize) -> Input<'a> {
        Input {
            data,
            tokens,
            stride: cols,
        }
    }
}

/// Scratch bytes that [`run`] needs: x quantised, for products by integers; x converted to bf16, for
/// bf16 weights, its rows padded to 16; otherwise none.
pub const fn scratch_bytes(tokens: usize, shape: &LinearShape) -> usize {
    if shape.is_by_integers() {
        return blocks::integers::scratch_bytes(shape.products, tokens, shape.cols);
    }
    match shape.dtype {
        Dtype::BFloat16 => tokens.next_multiple_of(PANEL_ROWS) * shape.padded_cols() * 2,
        Dtype::Float32 | Dtype::Float16 => 0,
    }
}

/// Multiplies `x` by the weight into `out` (`[tokens, rows]`, all of it written).
///
/// # Panics
/// When a slice is shorter than its shape says, or `scratch` is shorter than [`scratch_bytes`].
pub fn run(pool: &Pool, x: Input<'_>, weight: &Weight<'_>, out: &mut [f32], scratch: &mut [u8]) {
    let columns = Columns {
        first: 0,
        stride: weight.shape.rows,
    };
    run_into(pool, x, weight, (out, columns), scratch);
}

/// Where the columns of a result lie in the rows of `out`.
#[derive(Clone, Copy, Debug)]
pub struct Columns {
    pub first: usize,
    /// Numbers from one row to the next.
    pub stride: usize,
}

/// As [`run`], into some columns of the rows of `out`; the others stay.
///
/// # Panics
/// As [`run`]; when `out` has fewer columns.
pub fn run_into(
    pool: &Pool,
    x: Input<'_>,
    weight: &Weight<'_>,
    (out, columns): (&mut [f32], Columns),
    scratch: &mut [u8],
) {
    let shape = &weight.shape;
    let needed = x.tokens.saturating_sub(1) * x.stride + shape.cols;
    assert!(
        x.stride >= shape.cols,
        "x stride {} below {} columns",
        x.stride,
        shape.cols
    );
    assert!(
        x.tokens == 0 || x.data.len() >= needed,
        "x has {} of {needed}",
        x.data.len()
    );
    assert!(
        weight.packed.len() >= shape.packed_bytes(),
        "weight has {} of {} bytes",
        weight.packed.len(),
        shape.packed_bytes()
    );
    shape.check_blocks();
    assert!(
        weight.bias.is_none_or(|bias| bias.len() == shape.rows),
        "bias is not {}",
        shape.rows
    );
    assert_eq!(
        out.len(),
        x.tokens * columns.stride,
        "out is not [{}, {}]",
        x.tokens,
        columns.stride
    );
    assert!(
        columns.first + shape.rows <= columns.stride,
        "{} rows do not fit {columns:?}",
        shape.rows
    );
    let scratch_needed = scratch_bytes(x.tokens, shape);
    assert!(
        scratch.len() >= scratch_needed,
        "scratch {} of {scratch_needed}",
        scratch.len()
    );
    if x.tokens == 0 || shape.rows == 0 {
        return;
    }
    cpu::run(pool, x, weight, (out, columns), scratch);
}
