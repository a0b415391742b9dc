//! Rows as files have them into the panels of a card: blocks of GGUF, and integers on a grid with a scale
//! and a zero point for every group (GPTQ, AWQ, compressed-tensors). No number changes on the way.

use half::f16;
use plimsoll_planner::BlockFormat;

use super::super::{PANEL_ROWS, StoredBlocks};
use super::{Bits, CodesShape, Form, Group};

/// Columns of the blocks that are repacked.
const BLOCK: usize = 32;

/// Rows of codes, and d and z of each group of a row: numbers are d * (q - z).
#[derive(Clone, Copy, Debug)]
pub struct Grid<'a> {
    /// `[rows, cols]`, a byte each, without a sign.
    pub codes: &'a [u8],
    /// `[rows, groups]`
    pub scales: &'a [f16],
    /// `[rows, groups]`; None: the middle of what the bits hold.
    pub zeros: Option<&'a [u16]>,
    /// Columns of a group as the file has them, a multiple of 32.
    pub group_cols: usize,
}

/// What cannot be laid out without changing a number.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BadCodes {
    #[error(
        "groups of {group_cols} columns are not multiples of 32; the weight has to be expanded"
    )]
    Group { group_cols: usize },
    #[error("{cols} columns are not a multiple of 32; the weight has to be expanded")]
    Columns { cols: usize },
    #[error("row {row}, column {col}: the code {code} has more than {bits} bits")]
    Code {
        row: usize,
        col: usize,
        code: u8,
        bits: usize,
    },
    #[error("row {row}, group {group}: the zero point {zero} is above {most}")]
    Zero {
        row: usize,
        group: usize,
        zero: u16,
        most: u16,
    },
    #[error("row {row}, group {group}: the scale or minimum is {value}")]
    Scale {
        row: usize,
        group: usize,
        value: f32,
    },
    #[error(
        "{format} has numbers that codes with scales of f16 cannot hold; the weight has to be expanded"
    )]
    Format { format: BlockFormat },
}

impl CodesShape {
    /// The codes that hold every number of a grid, whole rows of it: groups of 128 where those of the
    /// file are whole ones of these, else of 32.
    ///
    /// # Errors
    /// When the file's groups or the columns are not whole steps of 32.
    pub const fn of_grid(
        (rows, cols): (usize, usize),
        bits: Bits,
        group_cols: usize,
        has_zeros: bool,
    ) -> Result<CodesShape, BadCodes> {
        if group_cols == 0 || !group_cols.is_multiple_of(BLOCK) {
            return Err(BadCodes::Group { group_cols });
        }
        if !cols.is_multiple_of(BLOCK) {
            return Err(BadCodes::Columns { cols });
        }
        Ok(CodesShape {
            rows,
            cols,
            bits,
            form: match has_zeros {
                true => Form::Zero,
                false => Form::Middle,
            },
            group: match group_cols.is_multiple_of(Group::Of128.columns()) {
                true => Group::Of128,
                false => Group::Of32,
            },
            skipped: None,
        })
    }
}

/// Writes rows `first_row..` of a grid into the packed weight (all of it), those columns of it that the
/// shape has: `first_col` is the first, the `skipped`-th of its group. The other rows are left alone, so
/// rows may come in any order and number; the padding rows follow the last row, as zeros.
///
/// # Errors
/// The first code, zero point or scale that is no number of the shape's.
///
/// # Panics
/// When slices are too short, rows pass the last one, or the grid's groups or form are not the shape's.
pub fn pack_grid(
    packed: &mut [u8],
    shape: &CodesShape,
    (first_row, rows): (usize, usize),
    (first_col, source_cols): (usize, usize),
    grid: &Grid<'_>,
) -> Result<(), BadCodes> {
    assert_eq!(
        shape.form == Form::Zero,
        grid.zeros.is_some(),
        "{shape:?} of zeros that are there: {}",
        grid.zeros.is_some()
    );
    assert!(
        grid.group_cols.is_multiple_of(shape.group.columns())
            && first_col % shape.group.columns() == shape.skipped.unwrap_or(0),
        "{shape:?} of groups of {} from column {first_col} on",
        grid.group_cols
    );
    let groups = source_cols.div_ceil(grid.group_cols);
    let rows = first_row..first_row + rows;
    let lines = Lines::new(packed, shape, &rows);
    lines.write(rows.clone(), |row, line| {
        let source = row - rows.start;
        let codes = &grid.codes[source * source_cols + first_col..][..shape.cols];
        for (col, code) in codes.iter().enumerate() {
            if *code > shape.bits.most() {
                let (code, bits) = (*code, shape.bits.count());
                return Err(BadCodes::Code {
                    row,
                    col: first_col + col,
                    code,
                    bits,
                });
            }
            line.put(col, *code);
        }
        for col in (0..shape.cols).step_by(BLOCK) {
            let group = (first_col + col) / grid.group_cols;
            let d = finite(row, group, grid.scales[source * groups + group])?;
            let zero = match grid.zeros {
                None => shape.bits.middle(),
                Some(zeros) => zeros[source * groups + group],
            };
            // Stored less one, or not: 1..=16 or 0..=15.
            let most = u16::from(shape.bits.most()) + 1;
            if zero > most {
                return Err(BadCodes::Zero {
                    row,
                    group,
                    zero,
                    most,
                });
            }
            line.put_head(col, d, f16::from_f32(f32::from(zero)));
        }
        Ok(())
    })
}

/// As [`pack_grid`], of blocks as a GGUF file has them.
///
/// # Errors
/// When a scale or minimum is not finite, or the type's numbers are not all held by codes.
///
/// # Panics
/// When slices are too short, rows pass the last one, or the shape is not
/// [`CodesShape::of_blocks`]' of the type.
pub fn pack_blocks(
    packed: &mut [u8],
    shape: &CodesShape,
    first_row: usize,
    format: BlockFormat,
    source: StoredBlocks<'_>,
) -> Result<(), BadCodes> {
    let Some(expected) = CodesShape::of_blocks(shape.rows, shape.cols, format) else {
        return Err(BadCodes::Format { format });
    };
    assert_eq!(*shape, expected, "the codes of {format}");
    let bytes = usize::try_from(format.bytes()).unwrap_or(usize::MAX);
    let rows = first_row..first_row + source.rows;
    let lines = Lines::new(packed, shape, &rows);
    lines.write(rows.clone(), |row, line| {
        let stored = &source.bytes[(row - rows.start) * source.row_bytes..][..source.row_bytes];
        let blocks = stored[source.first_block * bytes..].chunks_exact(bytes);
        for at in 0..shape.cols / BLOCK {
            let block = blocks.clone().nth(at).unwrap_or_default();
            let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]);
            let group = source.first_block + at;
            let m = match shape.form {
                Form::Minimum => finite(row, group, half(2))?,
                Form::Zero | Form::Middle => f16::ZERO,
            };
            line.put_head(at * BLOCK, finite(row, group, half(0))?, m);
            for (col, code) in codes_of(format, block).into_iter().enumerate() {
                line.put(at * BLOCK + col, code);
            }
        }
        Ok(())
    })
}

fn finite(row: usize, group: usize, half: f16) -> Result<f16, BadCodes> {
    let value = half.to_f32();
    match value.is_finite() {
        true => Ok(half),
        false => Err(BadCodes::Scale { row, group, value }),
    }
}

/// The codes of a block's columns; those with a sign, 128 more.
fn codes_of(format: BlockFormat, block: &[u8]) -> [u8; BLOCK] {
    /// What a q of `IQ4_NL` stands for.
    const TABLE: [i8; 16] = [
        -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
    ];
    let four = |from: usize, col: usize| block[from + col % 16] >> (col / 16 * 4) & 15;
    let fifth = |from: usize, col: usize| (block[from + col / 8] >> (col % 8) & 1) << 4;
    std::array::from_fn(|col| match format {
        BlockFormat::Q4_0 => four(2, col),
        BlockFormat::Q4_1 => four(4, col),
        // q - 16 + 128
        BlockFormat::Q5_0 => (four(6, col) | fifth(2, col)) + 112,
        BlockFormat::Q5_1 => four(8, col) | fifth(4, col),
        BlockFormat::Q8_0 => block[2 + col] ^ 0x80,
        BlockFormat::Iq4Nl => TABLE[usize::from(four(2, col))].cast_unsigned() ^ 0x80,
        BlockFormat::Q2K
        | BlockFormat::Q3K
        | BlockFormat::Q4K
        | BlockFormat::Q5K
        | BlockFormat::Q6K
        | BlockFormat::Iq4Xs
        | BlockFormat::Z4By32
        | BlockFormat::Z4By128
        | BlockFormat::Z8By32 => unreachable!("{format} has no codes"),
    })
}

/// A packed weight that rows are written into.
struct Lines<'a> {
    packed: &'a mut [u8],
    shape: &'a CodesShape,
}

/// One row's place in its panel.
struct Line<'a> {
    panel: &'a mut [u8],
    shape: &'a CodesShape,
    lane: usize,
}

impl<'a> Lines<'a> {
    fn new(packed: &'a mut [u8], shape: &'a CodesShape, rows: &std::ops::Range<usize>) -> Self {
        shape.check();
        assert!(rows.end <= shape.rows, "rows {rows:?} of {}", shape.rows);
        let (has, needs) = (packed.len(), shape.bytes());
        assert!(has >= needs, "packed weight has {has} of {needs} bytes");
        Lines { packed, shape }
    }

    fn write(
        self,
        rows: std::ops::Range<usize>,
        mut each: impl FnMut(usize, &mut Line<'_>) -> Result<(), BadCodes>,
    ) -> Result<(), BadCodes> {
        let Lines { packed, shape } = self;
        let mut line = |row: usize| {
            let bytes = shape.panel_bytes();
            let panel = &mut packed[row / PANEL_ROWS * bytes..][..bytes];
            let lane = row % PANEL_ROWS;
            let mut line = Line { panel, shape, lane };
            line.clear();
            match row < shape.rows {
                true => each(row, &mut line),
                false => Ok(()),
            }
        };
        let end = match rows.end == shape.rows {
            true => shape.panels() * PANEL_ROWS,
            false => rows.end,
        };
        (rows.start..end).try_for_each(&mut line)
    }
}

impl Line<'_> {
    /// Zeros: padding rows are these, and groups that no column touches.
    fn clear(&mut self) {
        for col in 0..self.shape.cols {
            self.put(col, 0);
        }
        for group in 0..self.shape.groups() {
            for which in 0..self.shape.form.heads() {
                let at = self.shape.head_at(self.lane, group, which);
                self.panel[at..at + 2].fill(0);
            }
        }
    }

    fn put(&mut self, col: usize, code: u8) {
        let (byte, bit) = self.shape.code_at(self.lane, col);
        let kept = self.panel[byte] & !(self.shape.bits.most() << bit);
        self.panel[byte] = kept | code << bit;
    }

    /// Of the group of `col`; `offset` is z or m, where there is one.
    fn put_head(&mut self, col: usize, d: f16, offset: f16) {
        let group = self.shape.group_of(col);
        for (which, half) in [d, offset].into_iter().enumerate() {
            if which < self.shape.form.heads() {
                let at = self.shape.head_at(self.lane, group, which);
                self.panel[at..at + 2].copy_from_slice(&half.to_le_bytes());
            }
        }
    }
}
