//! Floats rounded to blocks while they are read: Q8_0, Q4_0 and Z4_128.
//!
//! Numbers of a row, 32 or 128, share a scale d, which is an f16. Q8_0: the least d with which the largest
//! is reached. Q4_0: of a few d with which the largest nearly is, on either side, and of the one that is
//! best for the whole numbers that come of it, the one that leaves the smallest sum of squared errors:
//! of numbers of a normal distribution a tenth less than with the d that reaches the largest. Z4_128 has
//! a zero point, too, a whole number of 0 to 15: of a few ranges that nearly hold the least and the
//! largest, again the best, then with zero points beside its own and with the d that is best for the whole
//! numbers. Numbers are what they are whatever is read with them, and on every machine: each split of a
//! model has the same blocks.

use std::ops::Range;

use half::f16;
use plimsoll_planner::BlockFormat;

use super::encoding::{BLOCKS_LIMIT, Encoding};
use crate::model_error::{ModelError, shorten};

/// Numbers of a block without a zero point.
pub(crate) const GROUP: usize = 32;
/// Numbers that are held as floats at once, if a row is not longer.
const AT_ONCE: usize = 128 << 10;
/// Where 4 bits put the largest number of a group, of their -8 to 7: the sign is the scale's.
const REACHES: [f32; 6] = [-8.5, -8.0, -7.5, -7.0, 7.0, 7.5];
/// Shares of the range from the least to the largest that 4 bits and a zero point span.
const SPANS: [f32; 7] = [1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7];
/// Added and taken away, it rounds a small number to the nearest whole one, ties to even.
const WHOLE: f32 = 12_582_912.0;

/// A number in no block: it is none, or its scale would not be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct NoBlock {
    /// Of those that were given.
    pub(crate) at: usize,
    pub(crate) number: f32,
}

/// Writes a block of numbers.
type Write = fn(&[f32], &mut [u8]);

/// How floats are rounded to a format; none where they are not.
const fn writer(format: BlockFormat) -> Option<Write> {
    match format {
        BlockFormat::Q8_0 => Some(q8_0),
        BlockFormat::Q4_0 => Some(q4_0),
        BlockFormat::Z4By128 => Some(z4_128),
        BlockFormat::Q4_1
        | BlockFormat::Q5_0
        | BlockFormat::Q5_1
        | BlockFormat::Iq4Nl
        | BlockFormat::Q2K
        | BlockFormat::Q3K
        | BlockFormat::Q4K
        | BlockFormat::Q5K
        | BlockFormat::Q6K
        | BlockFormat::Iq4Xs
        | BlockFormat::Z4By32
        | BlockFormat::Z8By32 => None,
    }
}

/// Whether floats are rounded to it.
pub(crate) const fn is_rounded_to(format: BlockFormat) -> bool {
    writer(format).is_some()
}

/// Writes whole blocks of numbers, as GGUF has them.
///
/// # Errors
/// The first number that no block can have: the first of all, where nothing is rounded to the format.
///
/// # Panics
/// When `out` is not of their size.
pub(crate) fn encode(format: BlockFormat, numbers: &[f32], out: &mut [u8]) -> Result<(), NoBlock> {
    let encoding = Encoding::Blocks(format);
    let groups = numbers.chunks_exact(encoding.block_numbers());
    let blocks = out.chunks_exact_mut(encoding.block_bytes());
    assert!(
        groups.remainder().is_empty() && blocks.len() == groups.len(),
        "{format}"
    );
    for (at, (group, block)) in groups.zip(blocks).enumerate() {
        let is_one = |number: &f32| number.abs() < BLOCKS_LIMIT;
        let refused = |of: usize| NoBlock {
            at: at * group.len() + of,
            number: group[of],
        };
        let write = writer(format).ok_or(refused(0))?;
        if !group.iter().fold(true, |all, number| all & is_one(number)) {
            let found = group.iter().position(|number| !is_one(number));
            return Err(refused(found.unwrap_or_default()));
        }
        write(group, block);
    }
    Ok(())
}

/// The one that is farthest from zero, with its sign; the first of several.
fn largest_of(group: &[f32]) -> f32 {
    let farther = |most: f32, number: &f32| match number.abs() > most.abs() {
        true => *number,
        false => most,
    };
    group.iter().fold(0.0, farther)
}

/// To the nearest whole number, ties to even.
fn whole(number: f32) -> f32 {
    (number + WHOLE) - WHOLE
}

/// 1/d, and 0 of no scale.
fn inverse(d: f16) -> f32 {
    match f32::from(d) {
        0.0 => 0.0,
        d => 1.0 / d,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "-127 to 127")]
fn q8_0(group: &[f32], block: &mut [u8]) {
    let wanted = largest_of(group).abs() / 127.0;
    let mut d = f16::from_f32(wanted);
    if f32::from(d) < wanted {
        d = f16::from_bits(d.to_bits() + 1);
    }
    let inverse = inverse(d);
    block[..2].copy_from_slice(&d.to_le_bytes());
    for (number, q) in group.iter().zip(&mut block[2..]) {
        *q = (whole(number * inverse) as i8).cast_unsigned();
    }
}

fn q4_0(group: &[f32], block: &mut [u8]) {
    let (mut best, largest) = (Best::new(Zero::MIDDLE), largest_of(group));
    for reach in REACHES {
        best.look(group, f16::from_f32(largest / reach), Zero::MIDDLE);
    }
    best.look(group, nearest_scale(group, best.d, best.zero), best.zero);
    block[..2].copy_from_slice(&best.d.to_le_bytes());
    write_nibbles(group, &best, &mut block[2..]);
}

fn z4_128(group: &[f32], block: &mut [u8]) {
    // 0 is a number of every group: what is all of one sign has no use for a zero point beyond.
    let (least, largest) = group
        .iter()
        .fold((0.0f32, 0.0f32), |(least, most), number| {
            (least.min(*number), most.max(*number))
        });
    let step = (largest - least) / 15.0;
    let mut best = Best::new(Zero::MIDDLE);
    for span in SPANS {
        let d = f16::from_f32(step * span);
        best.look(group, d, Zero::at(whole(-least * inverse(d) * span)));
    }
    // Where a number at an end is cut off, another zero point may do better.
    let found = best.zero.0;
    for away in [-1.0, 1.0] {
        best.look(group, best.d, Zero::at(found + away));
    }
    for _ in 0..2 {
        best.look(group, nearest_scale(group, best.d, best.zero), best.zero);
    }
    block[..2].copy_from_slice(&best.d.to_le_bytes());
    block[2..4].copy_from_slice(&f16::from_f32(best.zero.0).to_le_bytes());
    let groups = group.chunks_exact(GROUP);
    for (group, block) in groups.zip(block[4..].chunks_exact_mut(GROUP / 2)) {
        write_nibbles(group, &best, block);
    }
}

/// Which of 0 to 15 stands for 0.
#[derive(Clone, Copy, Debug)]
struct Zero(f32);

impl Zero {
    /// That of blocks without a zero point.
    const MIDDLE: Zero = Zero(8.0);

    fn at(place: f32) -> Zero {
        Zero(place.clamp(0.0, 15.0))
    }

    /// The nearest whole number that 4 bits have, less the zero point.
    fn four_bits(self, number: f32) -> f32 {
        whole(number).clamp(-self.0, 15.0 - self.0)
    }
}

/// The scale and zero point that miss a group by the least so far; all zeros where none was looked at.
struct Best {
    error: f32,
    d: f16,
    zero: Zero,
}

impl Best {
    fn new(zero: Zero) -> Best {
        Best {
            error: f32::INFINITY,
            d: f16::ZERO,
            zero,
        }
    }

    fn look(&mut self, group: &[f32], d: f16, zero: Zero) {
        let error = error_of(group, d, zero);
        if error < self.error {
            *self = Best { error, d, zero };
        }
    }
}

/// 32 numbers in 16 bytes: the first 16 in the low halves.
fn write_nibbles(group: &[f32], best: &Best, block: &mut [u8]) {
    let (inverse, zero) = (inverse(best.d), best.zero);
    let (low, high) = group.split_at(GROUP / 2);
    for ((low, high), q) in low.iter().zip(high).zip(block) {
        *q = nibble(low * inverse, zero) | nibble(high * inverse, zero) << 4;
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "0 to 15"
)]
fn nibble(number: f32, zero: Zero) -> u8 {
    (zero.four_bits(number) + zero.0) as u8
}

/// Of the whole numbers that a scale makes of a group, the scale that leaves them the smallest error.
fn nearest_scale(group: &[f32], d: f16, zero: Zero) -> f16 {
    let inverse = inverse(d);
    let (mut products, mut squares) = ([0.0f32; 8], [0.0f32; 8]);
    for eight in group.as_chunks::<8>().0 {
        for ((product, square), number) in products.iter_mut().zip(&mut squares).zip(eight) {
            let q = zero.four_bits(number * inverse);
            *product += number * q;
            *square += q * q;
        }
    }
    let (product, square): (f32, f32) = (products.iter().sum(), squares.iter().sum());
    match square > 0.0 {
        true => f16::from_f32(product / square),
        false => d,
    }
}

/// The squares of what 4 bits and a scale miss a group by.
fn error_of(group: &[f32], d: f16, zero: Zero) -> f32 {
    let (inverse, d) = (inverse(d), f32::from(d));
    let mut sums = [0.0f32; 8];
    for eight in group.as_chunks::<8>().0 {
        for (sum, number) in sums.iter_mut().zip(eight) {
            let missed = number - d * zero.four_bits(number * inverse);
            *sum += missed * missed;
        }
    }
    sums.iter().sum()
}

/// Reads so many rows by `read`, some at a time, and writes them as blocks, see
/// [`super::TensorSource::read_rounded`].
///
/// # Errors
/// As `read`'s; the first number that no block can have, by its row.
pub(super) fn read(
    format: BlockFormat,
    name: &str,
    (rows, cols): (Range<usize>, usize),
    read: impl Fn(Range<usize>, &mut [f32]) -> Result<(), ModelError>,
    out: &mut [u8],
) -> Result<(), ModelError> {
    let encoding = Encoding::Blocks(format);
    let row_bytes = cols / encoding.block_numbers() * encoding.block_bytes();
    let at_once = (AT_ONCE / cols.max(1)).clamp(1, rows.len().max(1));
    let mut numbers = vec![0.0; at_once * cols];
    for (at, out) in out.chunks_mut((at_once * row_bytes).max(1)).enumerate() {
        let first = rows.start + at * at_once;
        let some = first..rows.end.min(first + at_once);
        let numbers = &mut numbers[..some.len() * cols];
        read(some, numbers)?;
        encode(format, numbers, out).map_err(|wrong| wrong.refused(format, name, first, cols))?;
    }
    Ok(())
}

impl NoBlock {
    /// `first_row` and `cols`: of the numbers that were given.
    pub(crate) fn refused(
        self,
        format: BlockFormat,
        name: &str,
        first_row: usize,
        cols: usize,
    ) -> ModelError {
        let row = first_row + self.at / cols.max(1);
        let message = format!(
            "tensor `{}`: {} in row {row} cannot be rounded to {format}; leave its weights as they are \
             (quantization Auto), or fetch the files again",
            shorten(name),
            self.number
        );
        ModelError::weights("weights", message)
    }
}

#[cfg(test)]
mod tests;
