//! Floats rounded to blocks while they are read: Q8_0 and Q4_0.
//!
//! 32 numbers of a row share a scale d, which is an f16. Q8_0: the least d with which the largest is
//! reached. Q4_0: of a few d with which the largest nearly is, on either side, and of the one that is
//! best for the whole numbers that come of it, the one that leaves the smallest sum of squared errors:
//! of numbers of a normal distribution a tenth less than with the d that reaches the largest. Numbers are what they are whatever is read with them, and on every
//! machine: each split of a model has the same blocks.

use std::ops::Range;

use half::f16;
use plimsoll_planner::BlockFormat;

use super::encoding::{BLOCKS_LIMIT, Encoding};
use crate::model_error::{ModelError, shorten};

/// Numbers of a block.
pub(crate) const GROUP: usize = 32;
/// Numbers that are held as floats at once, if a row is not longer.
const AT_ONCE: usize = 128 << 10;
/// Where 4 bits put the largest number of a group, of their -8 to 7: the sign is the scale's.
const REACHES: [f32; 6] = [-8.5, -8.0, -7.5, -7.0, 7.0, 7.5];
/// Added and taken away, it rounds a small number to the nearest whole one, ties to even.
const WHOLE: f32 = 12_582_912.0;

/// A number in no block: it is none, or its scale would not be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct NoBlock {
    /// Of those that were given.
    pub(crate) at: usize,
    pub(crate) number: f32,
}

/// Writes a block of numbers, of which the second is the farthest from zero.
type Write = fn(&[f32; GROUP], f32, &mut [u8]);

/// How floats are rounded to a format; none where they are not.
const fn writer(format: BlockFormat) -> Option<Write> {
    match format {
        BlockFormat::Q8_0 => Some(q8_0),
        BlockFormat::Q4_0 => Some(q4_0),
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
        | BlockFormat::Z4By128
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
    let (groups, rest) = numbers.as_chunks::<GROUP>();
    let blocks = out.chunks_exact_mut(encoding.block_bytes());
    assert!(rest.is_empty() && blocks.len() == groups.len(), "{format}");
    for (at, (group, block)) in groups.iter().zip(blocks).enumerate() {
        let is_one = |number: &f32| number.abs() < BLOCKS_LIMIT;
        let refused = |of: usize| NoBlock {
            at: at * GROUP + of,
            number: group[of],
        };
        let write = writer(format).ok_or(refused(0))?;
        if !group.iter().fold(true, |all, number| all & is_one(number)) {
            let found = group.iter().position(|number| !is_one(number));
            return Err(refused(found.unwrap_or_default()));
        }
        write(group, largest_of(group), block);
    }
    Ok(())
}

/// The one that is farthest from zero, with its sign; the first of several.
fn largest_of(group: &[f32; GROUP]) -> f32 {
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
fn q8_0(group: &[f32; GROUP], largest: f32, block: &mut [u8]) {
    let wanted = largest.abs() / 127.0;
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

fn q4_0(group: &[f32; GROUP], largest: f32, block: &mut [u8]) {
    let mut best = (f32::INFINITY, f16::ZERO);
    let mut try_one = |d: f16| {
        let error = error_of(group, d);
        if error < best.0 {
            best = (error, d);
        }
        best.1
    };
    let mut d = f16::ZERO;
    for reach in REACHES {
        d = try_one(f16::from_f32(largest / reach));
    }
    let d = try_one(nearest_scale(group, d));
    let inverse = inverse(d);
    block[..2].copy_from_slice(&d.to_le_bytes());
    let (low, high) = group.split_at(GROUP / 2);
    for ((low, high), q) in low.iter().zip(high).zip(&mut block[2..]) {
        *q = nibble(low * inverse) | nibble(high * inverse) << 4;
    }
}

fn four_bits(number: f32) -> f32 {
    whole(number).clamp(-8.0, 7.0)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "0 to 15"
)]
fn nibble(number: f32) -> u8 {
    (four_bits(number) + 8.0) as u8
}

/// Of the whole numbers that a scale makes of a group, the scale that leaves them the smallest error.
fn nearest_scale(group: &[f32; GROUP], d: f16) -> f16 {
    let inverse = inverse(d);
    let (mut products, mut squares) = ([0.0f32; 8], [0.0f32; 8]);
    for eight in group.as_chunks::<8>().0 {
        for ((product, square), number) in products.iter_mut().zip(&mut squares).zip(eight) {
            let q = four_bits(number * inverse);
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
fn error_of(group: &[f32; GROUP], d: f16) -> f32 {
    let (inverse, d) = (inverse(d), f32::from(d));
    let mut sums = [0.0f32; 8];
    for eight in group.as_chunks::<8>().0 {
        for (sum, number) in sums.iter_mut().zip(eight) {
            let missed = number - d * four_bits(number * inverse);
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
    let row_bytes = cols / GROUP * Encoding::Blocks(format).block_bytes();
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
mod tests {
    use super::*;

    /// Bits by place.
    fn drawn(seed: u64, at: usize) -> f32 {
        let mixed = (seed ^ at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = (mixed ^ mixed >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let [.., a, b] = mixed.to_le_bytes();
        f32::from(i16::from_le_bytes([a, b])) / 32_768.0
    }

    fn group(seed: u64, scale: f32) -> [f32; GROUP] {
        std::array::from_fn(|at| scale * drawn(seed, at).powi(3))
    }

    fn kept(format: BlockFormat, numbers: &[f32]) -> Vec<f32> {
        let encoding = Encoding::Blocks(format);
        let mut bytes = vec![0xFF; numbers.len() / GROUP * encoding.block_bytes()];
        encode(format, numbers, &mut bytes).unwrap();
        let mut out = vec![f32::NAN; numbers.len()];
        encoding.decode(&bytes, 0, &mut out);
        out
    }

    /// The scale of 4 bits that gguf-py takes: the number that is farthest from zero is -8.
    fn missed_by_the_farthest(group: &[f32; GROUP]) -> f32 {
        error_of(group, f16::from_f32(largest_of(group) / -8.0))
    }

    #[test]
    fn numbers_are_half_a_step_from_what_they_were_at_most_in_8_bits_and_nearer_than_usual_in_4() {
        let (mut ours, mut usual) = (0.0, 0.0);
        for seed in 0..2000u64 {
            let scale = [1e-7, 1e-4, 0.02, 1.0, 400_000.0][usize::try_from(seed % 5).unwrap()];
            let group = group(seed, scale);
            let largest = largest_of(&group).abs();
            // An f16 has 11 bits, or is a multiple of 2^-24.
            let step = (largest / 127.0 * (1.0 + 1.0 / 1024.0)).max(largest / 127.0 + 6e-8);
            for (is, was) in kept(BlockFormat::Q8_0, &group).iter().zip(&group) {
                assert!((is - was).abs() <= step * 0.5001, "{was} is {is}: {step}");
            }
            let missed: f32 = kept(BlockFormat::Q4_0, &group)
                .iter()
                .zip(&group)
                .map(|(is, was)| (is - was) * (is - was))
                .sum();
            let farthest = missed_by_the_farthest(&group);
            assert!(missed <= farthest * 1.0001, "{seed}: {missed} {farthest}");
            if scale == 0.02 {
                ours += missed;
                usual += farthest;
            }
        }
        assert!(ours < 0.9 * usual, "{ours} {usual}");
    }

    /// What is in blocks already stays: numbers that a block has are kept.
    #[test]
    fn rounding_twice_is_rounding_once_in_8_bits() {
        for seed in 0..500 {
            let once = kept(BlockFormat::Q8_0, &group(seed, 0.3));
            assert_eq!(kept(BlockFormat::Q8_0, &once), once);
        }
        for format in [BlockFormat::Q8_0, BlockFormat::Q4_0] {
            assert_eq!(kept(format, &[0.0; 64]), [0.0; 64], "{format}");
            assert_eq!(
                kept(format, &[-0.49609375; 32]),
                [-0.49609375; 32],
                "{format}"
            );
        }
    }

    #[test]
    fn a_number_that_no_block_has_is_named_by_its_place() {
        for format in [BlockFormat::Q8_0, BlockFormat::Q4_0] {
            for (number, is_one) in [
                (f32::NAN, false),
                (f32::INFINITY, false),
                (-BLOCKS_LIMIT, false),
                (BLOCKS_LIMIT.next_down(), true),
                (f32::MIN_POSITIVE, true),
            ] {
                let mut numbers = [1e-3; 3 * GROUP];
                numbers[70] = number;
                let mut bytes = vec![0; 3 * Encoding::Blocks(format).block_bytes()];
                let done = encode(format, &numbers, &mut bytes);
                assert_eq!(done.is_ok(), is_one, "{format} {number}");
                if let Err(wrong) = done {
                    assert_eq!(wrong.at, 70);
                    let told = wrong.refused(format, "lm_head.weight", 7, 32).to_string();
                    assert!(told.contains("in row 9 cannot be rounded to Q"), "{told}");
                }
                let mut out = [0.0; 96];
                Encoding::Blocks(format).decode(&bytes, 0, &mut out);
                let is = if is_one { out[70] } else { 0.0 };
                assert!(
                    is.is_finite() && (is - number).abs() < 0.1 * number.abs().max(1.0) || !is_one
                );
            }
        }
    }

    #[test]
    fn what_floats_are_not_rounded_to_is_refused_and_not_written() {
        for format in BlockFormat::ALL {
            let mut bytes = vec![0xFF; Encoding::Blocks(format).block_bytes()];
            // A group's numbers, in whatever blocks have as many.
            let blocks = Encoding::Blocks(format).block_numbers() == GROUP;
            let done = blocks.then(|| encode(format, &[0.5; GROUP], &mut bytes).is_ok());
            assert_eq!(done.unwrap_or_default(), is_rounded_to(format), "{format}");
            assert_eq!(
                bytes.iter().all(|byte| *byte == 0xFF),
                !is_rounded_to(format)
            );
        }
    }

    #[test]
    fn rows_are_read_some_at_a_time_and_none_is_left_out() {
        let (rows, cols) = (5..5 + 2 * AT_ONCE / 96 + 7, 96);
        let row_of =
            |row: usize| -> Vec<f32> { (0..cols).map(|at| drawn(row as u64, at)).collect() };
        let format = BlockFormat::Q8_0;
        let row_bytes = 3 * 34;
        let mut out = vec![0xFF; rows.len() * row_bytes];
        let fill = |rows: Range<usize>, out: &mut [f32]| {
            assert!(out.len() <= AT_ONCE);
            for (row, out) in rows.zip(out.chunks_exact_mut(cols)) {
                out.copy_from_slice(&row_of(row));
            }
            Ok(())
        };
        read(format, "x", (rows.clone(), cols), fill, &mut out).unwrap();
        for (row, found) in rows.zip(out.chunks_exact(row_bytes)) {
            let mut expected = vec![0; row_bytes];
            encode(format, &row_of(row), &mut expected).unwrap();
            assert!(found == expected, "row {row}");
        }
    }
}
