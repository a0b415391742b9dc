//! Weights that are integers on a grid: `scale * (q - zero)`, with a scale and a zero point for each row
//! and group of columns. A scale of F16 or BF16 has at most 11 bits and q at most 8, so products are exact
//! in f32; those of an F32 scale are rounded to nearest even.

use std::ops::Range;

use half::f16;
use plimsoll_planner::BlockFormat;

use super::groups::Groups;
use super::integers::Integers;
use crate::model_error::{ModelError, shorten};
use crate::weights::TensorSource;
use crate::weights::encoding::Encoding;
use crate::weights::folder::SafetensorsFolder;

/// Numbers that are unpacked at once, and their scales: what a thread holds beside the result stays under
/// four megabytes.
pub(super) const AT_ONCE: usize = 1 << 18;
/// Rows that share words, in some layouts.
const WORD_ROWS: usize = 8;
/// Columns that lie together in blocks; a block is some of these.
const STEP: usize = 32;
/// Columns of the longer blocks.
const LONG: usize = 128;

/// Rows in pieces of so many, the last one what is left.
pub(super) fn pieces(rows: Range<usize>, at_once: usize) -> impl Iterator<Item = Range<usize>> {
    let end = rows.end;
    let piece = move |start: usize| start..end.min(start + at_once);
    rows.step_by(at_once).map(piece)
}

/// The zero points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Zeros {
    /// The middle of what the bits hold: 8 or 128.
    Middle,
    Read {
        integers: Integers,
        /// What they are stored less.
        less: u8,
    },
}

/// The tensor of scales, with the groups of a row side by side, or under each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scales {
    pub(super) name: String,
    pub(super) transposed: bool,
    /// All are numbers that f16 has, too.
    pub(super) halves: bool,
}

/// A packed matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    pub(super) codes: Integers,
    pub(super) scales: Scales,
    pub(super) zeros: Zeros,
    pub(super) groups: Groups,
    /// How many there are.
    pub(super) count: usize,
}

/// Of some rows and groups: scales and zero points, row-major.
struct Parameters {
    scales: Vec<f32>,
    zeros: Vec<u8>,
}

/// Why no blocks hold the numbers of a grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Expanded {
    Scales,
    Groups,
    Columns,
}

impl Expanded {
    pub(super) const fn why(self) -> &'static str {
        match self {
            Expanded::Scales => "some scales are no numbers of 16 bits (F16)",
            Expanded::Groups => "groups are no multiples of 32 inputs",
            Expanded::Columns => "rows are no multiples of 32 inputs",
        }
    }
}

impl Grid {
    /// The blocks that hold the same numbers of rows of so many columns, group by group: scales are halves,
    /// and whole blocks share one.
    ///
    /// # Errors
    /// Why there are none.
    pub(super) fn blocks(&self, cols: usize) -> Result<BlockFormat, Expanded> {
        let size = self.groups.size();
        let shared = |columns: usize| size.is_multiple_of(columns) || self.count == 1;
        if !shared(STEP) {
            return Err(Expanded::Groups);
        }
        if !cols.is_multiple_of(STEP) {
            return Err(Expanded::Columns);
        }
        if !self.scales.halves {
            return Err(Expanded::Scales);
        }
        Ok(match (&self.zeros, self.codes.bits) {
            // A zero point of 8 for 128 numbers takes less than a scale for each 32.
            (_, 4) if shared(LONG) && cols.is_multiple_of(LONG) => BlockFormat::Z4By128,
            (Zeros::Middle, 4) => BlockFormat::Q4_0,
            (Zeros::Middle, _) => BlockFormat::Q8_0,
            (Zeros::Read { .. }, 4) => BlockFormat::Z4By32,
            (Zeros::Read { .. }, _) => BlockFormat::Z8By32,
        })
    }

    /// Reads `rows x cols` as numbers.
    ///
    /// # Errors
    /// As the files'.
    pub(super) fn read(
        &self,
        files: &SafetensorsFolder,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), ModelError> {
        let groups = self.groups.of(&cols);
        self.in_pieces(files, rows, &cols, out, cols.len(), |row, codes, out| {
            for ((code, group), out) in codes.iter().zip(&groups).zip(out) {
                let (scale, zero) = row(*group);
                *out = scale * (f32::from(*code) - f32::from(zero));
            }
        })
    }

    /// Reads `rows x cols` as blocks, those that [`Grid::blocks`] names: columns are counted group by group.
    ///
    /// # Errors
    /// As the files'.
    pub(super) fn read_blocks(
        &self,
        format: BlockFormat,
        files: &SafetensorsFolder,
        [rows, cols]: [Range<usize>; 2],
        out: &mut [u8],
    ) -> Result<(), ModelError> {
        let row_bytes = out.len() / rows.len().max(1);
        let encoding = Encoding::Blocks(format);
        let (columns, bytes) = (encoding.block_numbers(), encoding.block_bytes());
        let four = self.codes.bits == 4;
        // Those of a block are anywhere in a row.
        let order = self
            .groups
            .order()
            .map(|order| (&order[cols.clone()], 0..order.len()));
        let read = order.as_ref().map_or(&cols, |(_, all)| all);
        let size = self.groups.size();
        let mut together = Vec::with_capacity(cols.len());
        self.in_pieces(files, rows, read, out, row_bytes, |row, codes, out| {
            let codes = match &order {
                None => codes,
                Some((order, _)) => {
                    together.clear();
                    together.extend(order.iter().map(|col| codes[*col as usize]));
                    &together
                }
            };
            let starts = cols.clone().step_by(columns);
            let blocks = codes.chunks_exact(columns).zip(out.chunks_exact_mut(bytes));
            for (start, (codes, out)) in starts.zip(blocks) {
                let (scale, zero) = row(start / size);
                let (d, mut out) = out.split_at_mut(2);
                d.copy_from_slice(&f16::from_f32(scale).to_le_bytes());
                if format.has_zero_point() {
                    let less = if four { 0.0 } else { 128.0 };
                    let z = f16::from_f32(f32::from(zero) - less);
                    out[..2].copy_from_slice(&z.to_le_bytes());
                    out = &mut out[2..];
                }
                match four {
                    true => nibbles(codes, out),
                    // 128 less, with a sign.
                    false => {
                        for (code, out) in codes.iter().zip(out) {
                            *out = code ^ 0x80;
                        }
                    }
                }
            }
        })
    }

    /// Hands `each` the codes of every row, with the scale and zero point of a group, and its part of
    /// `out`, of which `width` are a row.
    fn in_pieces<T>(
        &self,
        files: &SafetensorsFolder,
        rows: Range<usize>,
        cols: &Range<usize>,
        out: &mut [T],
        width: usize,
        mut each: impl FnMut(&dyn Fn(usize) -> (f32, u8), &[u8], &mut [T]),
    ) -> Result<(), ModelError> {
        if out.is_empty() {
            return Ok(());
        }
        let groups = match &self.groups {
            Groups::Even(size) => cols.start / size..cols.end.div_ceil(*size),
            Groups::Given { .. } => 0..self.count,
        };
        let at_once = match AT_ONCE / cols.len().max(groups.len()) {
            few @ 0..WORD_ROWS => few.max(1),
            many => many / WORD_ROWS * WORD_ROWS,
        };
        let mut codes = vec![0; at_once.min(rows.len()) * cols.len()];
        for (piece, out) in pieces(rows, at_once).zip(out.chunks_mut(at_once * width)) {
            let codes = &mut codes[..piece.len() * cols.len()];
            self.codes.read(files, piece.clone(), cols.clone(), codes)?;
            let Parameters { scales, zeros } = self.parameters(files, piece, &groups)?;
            let each_row = codes
                .chunks_exact(cols.len())
                .zip(out.chunks_exact_mut(width));
            for (row, (codes, out)) in each_row.enumerate() {
                let of = |group: usize| {
                    let at = row * groups.len() + group - groups.start;
                    (scales[at], zeros[at])
                };
                each(&of, codes, out);
            }
        }
        Ok(())
    }

    fn parameters(
        &self,
        files: &SafetensorsFolder,
        rows: Range<usize>,
        groups: &Range<usize>,
    ) -> Result<Parameters, ModelError> {
        let count = rows.len() * groups.len();
        let scales = self.scales.read(files, rows.clone(), groups.clone())?;
        let zeros = match &self.zeros {
            Zeros::Middle => vec![1 << (self.codes.bits - 1); count],
            Zeros::Read { integers, less } => {
                let mut zeros = vec![0; count];
                integers.read(files, rows, groups.clone(), &mut zeros)?;
                // As AutoGPTQ: what was stored less 1 is one more within its bits, so that 0 is itself.
                let mask = u8::MAX >> (8 - self.codes.bits);
                zeros
                    .iter_mut()
                    .for_each(|zero| *zero = zero.wrapping_add(*less) & mask);
                zeros
            }
        };
        Ok(Parameters { scales, zeros })
    }
}

/// Of every 32 codes the first half in the low bits of 16 bytes, the second one in the high bits.
fn nibbles(codes: &[u8], out: &mut [u8]) {
    let steps = codes.chunks_exact(STEP).zip(out.chunks_exact_mut(STEP / 2));
    for (codes, out) in steps {
        let (low, high) = codes.split_at(STEP / 2);
        for ((low, high), out) in low.iter().zip(high).zip(out) {
            *out = low | high << 4;
        }
    }
}

impl Scales {
    /// Those of some rows, row-major.
    fn read(
        &self,
        files: &SafetensorsFolder,
        rows: Range<usize>,
        groups: Range<usize>,
    ) -> Result<Vec<f32>, ModelError> {
        let (count, width) = (rows.len(), groups.len());
        let mut scales = vec![0.0; count * width];
        if !self.transposed {
            files.read_block(&self.name, rows, groups, &mut scales)?;
            return Ok(scales);
        }
        files.read_block(&self.name, groups, rows, &mut scales)?;
        let turned = (0..count).flat_map(|row| (0..width).map(move |group| group * count + row));
        Ok(turned.map(|at| scales[at]).collect())
    }
}

/// Reads all of a tensor of scales once: whether f16 has every one of them.
///
/// # Errors
/// When one is none; as the files'.
pub(super) fn look_at_scales(files: &SafetensorsFolder, name: &str) -> Result<bool, ModelError> {
    let (rows, cols) = files.info(name).map_or((0, 0), |info| info.rows_cols());
    let at_once = (AT_ONCE / cols.max(1)).max(1);
    let mut halves = true;
    let mut scales = Vec::new();
    for piece in pieces(0..rows, at_once) {
        let start = piece.start;
        scales.resize(piece.len() * cols, 0.0);
        files.read_block(name, piece, 0..cols, &mut scales)?;
        if let Some(at) = scales.iter().position(|scale| !scale.is_finite()) {
            let (row, col) = (start + at / cols, at % cols);
            let message = format!(
                "tensor `{}`: the scale at [{row}, {col}] is {}; every weight of its group would be \
                 none; fetch the file again, or another one",
                shorten(name),
                scales[at]
            );
            return Err(ModelError::weights("weights", message));
        }
        halves &= scales
            .iter()
            .all(|scale| f16::from_f32(*scale).to_f32() == *scale);
    }
    Ok(halves)
}
