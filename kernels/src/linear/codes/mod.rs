//! Weights of 4 and 8 bits as they lie on a card, multiplied with x in 16 bits: d * (q - z) or d * q + m,
//! q a code without a sign, d and z or m of every 32 or 128 columns of a row. `codes.cuh` reads what this
//! module lays out, and nothing else knows where a number lies.
//!
//! A number is exact in f32 (`d * q + m` is rounded once), as files define it, and is rounded to the type
//! of x where it is multiplied: products are those of the weight that is expanded first.
//!
//! Panel after panel of 16 rows, rows padded: first chunks of 16 bytes of every row, which are 32 columns
//! of 4 bits or 16 of 8; then d, then z or m, in f16, group after group of 16 rows. Columns are a multiple
//! of 32. A weight whose columns are cut inside of a group has room for as many groups as any cut touches,
//! so that its bytes depend on nothing but its sizes. Of `Q4_0`, `Q4_1` and `Q8_0` they are the file's, of zero points those of
//! `Z4_32`, `Z4_128` and `Z8_32`.

#[cfg(feature = "gpu-tests")]
mod case;
#[cfg(feature = "cuda")]
pub mod choice;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(feature = "gpu-tests")]
pub(crate) mod launcher_trials;
mod pack;
#[cfg(feature = "gpu-tests")]
pub(crate) mod trials;

#[cfg(test)]
mod tests;

use half::f16;
use plimsoll_planner::BlockFormat;

use super::{PANEL_COLS, PANEL_ROWS};

pub use pack::{BadCodes, Grid, pack_blocks, pack_grid};

/// Bytes of a chunk of one row.
const CHUNK_BYTES: usize = 16;
/// Bytes of one group's d, or z or m, of the rows of a panel.
const HEAD_BYTES: usize = 2 * PANEL_ROWS;

/// How wide a code is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bits {
    Four,
    Eight,
}

/// What a code stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// d * (q - 8), of 8 bits d * (q - 128)
    Middle,
    /// d * (q - z), z stored
    Zero,
    /// d * q + m
    Minimum,
}

/// Columns that share d, and z or m.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    Of32,
    Of128,
}

impl Bits {
    pub const fn count(self) -> usize {
        match self {
            Bits::Four => 4,
            Bits::Eight => 8,
        }
    }

    /// The largest code.
    pub const fn most(self) -> u8 {
        match self {
            Bits::Four => 15,
            Bits::Eight => 255,
        }
    }

    /// The z of [`Form::Middle`].
    pub const fn middle(self) -> u16 {
        match self {
            Bits::Four => 8,
            Bits::Eight => 128,
        }
    }

    /// Columns of a chunk.
    const fn chunk_cols(self) -> usize {
        8 * CHUNK_BYTES / self.count()
    }
}

impl Form {
    /// Numbers of f16 that a group has.
    const fn heads(self) -> usize {
        match self {
            Form::Middle => 1,
            Form::Zero | Form::Minimum => 2,
        }
    }
}

impl Group {
    pub const fn columns(self) -> usize {
        match self {
            Group::Of32 => 32,
            Group::Of128 => 128,
        }
    }
}

/// A weight `[rows = outputs, cols = inputs]` of codes as one card holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodesShape {
    pub rows: usize,
    /// A multiple of 32.
    pub cols: usize,
    pub bits: Bits,
    pub form: Form,
    pub group: Group,
    /// Of columns that may be cut inside of groups: how many of the first group are not here, a multiple
    /// of 32. None where rows begin with a whole group.
    pub skipped: Option<usize>,
}

impl CodesShape {
    /// The codes that hold every number of a block type of GGUF; None where no such codes do, and the weight
    /// is expanded instead: its scales have more bits than f16, or belong to 16 columns.
    pub const fn of_blocks(rows: usize, cols: usize, format: BlockFormat) -> Option<CodesShape> {
        let (bits, form) = match format {
            BlockFormat::Q4_0 => (Bits::Four, Form::Middle),
            BlockFormat::Q4_1 => (Bits::Four, Form::Minimum),
            // Five bits, and a table of 16 whole numbers, take 8.
            BlockFormat::Q5_0 | BlockFormat::Q8_0 | BlockFormat::Iq4Nl => {
                (Bits::Eight, Form::Middle)
            }
            BlockFormat::Q5_1 => (Bits::Eight, Form::Minimum),
            BlockFormat::Q2K
            | BlockFormat::Q3K
            | BlockFormat::Q4K
            | BlockFormat::Q5K
            | BlockFormat::Q6K
            | BlockFormat::Iq4Xs => return None,
            // Their folders have them as grids, see `of_grid`.
            BlockFormat::Z4By32 | BlockFormat::Z4By128 | BlockFormat::Z8By32 => return None,
        };
        Some(CodesShape {
            rows,
            cols,
            bits,
            form,
            group: Group::Of32,
            skipped: None,
        })
    }

    pub const fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL_ROWS)
    }

    /// Groups that a row has room for.
    pub const fn groups(&self) -> usize {
        let columns = self.group.columns();
        match (self.skipped, self.cols) {
            (_, 0) => 0,
            (None, cols) => cols.div_ceil(columns),
            (Some(_), cols) => (cols + columns - PANEL_COLS).div_ceil(columns),
        }
    }

    pub const fn panel_bytes(&self) -> usize {
        self.chunk_bytes() + self.groups() * self.form.heads() * HEAD_BYTES
    }

    /// Bytes of the whole weight.
    pub const fn bytes(&self) -> usize {
        self.panels() * self.panel_bytes()
    }

    /// The group of a column.
    const fn group_of(&self, col: usize) -> usize {
        let skipped = match self.skipped {
            None => 0,
            Some(cols) => cols,
        };
        (skipped + col) / self.group.columns()
    }

    /// Bytes of a panel's codes.
    const fn chunk_bytes(&self) -> usize {
        PANEL_ROWS * self.cols * self.bits.count() / 8
    }

    /// The byte of a panel where a code lies, and its first bit there.
    const fn code_at(&self, lane: usize, col: usize) -> (usize, usize) {
        let (chunk, inside) = (col / self.bits.chunk_cols(), col % 16);
        let byte = inside % 8 / 2 * 4 + inside % 2 + inside / 8 * 2;
        let bit = match self.bits {
            Bits::Four => col / 16 % 2 * 4,
            Bits::Eight => 0,
        };
        ((chunk * PANEL_ROWS + lane) * CHUNK_BYTES + byte, bit)
    }

    /// The byte of a panel where a group's d lies; `which` 1: its z or m.
    const fn head_at(&self, lane: usize, group: usize, which: usize) -> usize {
        let before = self.chunk_bytes() + which * self.groups() * HEAD_BYTES;
        before + group * HEAD_BYTES + (lane % 8 * 2 + lane / 8) * 2
    }

    /// # Panics
    /// When columns are not whole steps of 32, or more of a group are skipped than it has.
    fn check(&self) {
        let (cols, skipped) = (self.cols, self.skipped.unwrap_or(0));
        let is_whole = cols.is_multiple_of(PANEL_COLS) && skipped.is_multiple_of(PANEL_COLS);
        assert!(
            is_whole && skipped < self.group.columns(),
            "{self:?} cuts a group"
        );
    }
}

/// Reads row `row` of a packed weight back as f32.
///
/// # Panics
/// When the row or the slices do not fit the shape.
pub fn unpack_row(packed: &[u8], shape: &CodesShape, row: usize, values: &mut [f32]) {
    shape.check();
    assert!(row < shape.rows, "row {row} of {}", shape.rows);
    assert_eq!(values.len(), shape.cols, "a row has {} numbers", shape.cols);
    let bytes = shape.panel_bytes();
    let panel = &packed[row / PANEL_ROWS * bytes..][..bytes];
    let lane = row % PANEL_ROWS;
    for (col, value) in values.iter_mut().enumerate() {
        let half = |which| {
            let at = shape.head_at(lane, shape.group_of(col), which);
            f16::from_le_bytes([panel[at], panel[at + 1]]).to_f32()
        };
        let (byte, bit) = shape.code_at(lane, col);
        let q = f32::from(panel[byte] >> bit & shape.bits.most());
        *value = match shape.form {
            Form::Middle => half(0) * (q - f32::from(shape.bits.middle())),
            Form::Zero => half(0) * (q - half(1)),
            Form::Minimum => half(0) * q + half(1),
        };
    }
}
