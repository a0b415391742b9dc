//! Blocks as ggml defines them, and those with zero points: their numbers one by one, random ones, and cuts of them.

use half::f16;
use plimsoll_planner::BlockFormat;

use super::super::{GROUP, block_bytes, size};
use crate::testing::Random;

/// A part of a block that has one scale: its numbers are d * integer + m.
pub(in super::super) struct Part {
    /// With the small scale.
    pub(in super::super) d: f32,
    pub(in super::super) m: Option<f32>,
    pub(in super::super) integers: Vec<i32>,
}

/// A block's parts as ggml defines them: of 16 columns or of 32. With a zero point, integers and it count
/// from 0.
pub(in super::super) fn parts_of(format: BlockFormat, block: &[u8]) -> Vec<Part> {
    let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
    let scaled = |at: usize, by: i32| half(at) * by as f32;
    let six = |of: usize| {
        let (s, t) = (block[4 + of % 4], block[8 + of % 4]);
        match of {
            0..4 => (i32::from(s & 63), i32::from(t & 63)),
            _ => {
                let low = block[8 + of];
                let (s, t) = (low & 15 | s >> 6 << 4, low >> 4 | t >> 6 << 4);
                (i32::from(s), i32::from(t))
            }
        }
    };
    let size = match format {
        BlockFormat::Q2K | BlockFormat::Q3K | BlockFormat::Q6K => 16,
        BlockFormat::Q4_0
        | BlockFormat::Q4_1
        | BlockFormat::Q5_0
        | BlockFormat::Q5_1
        | BlockFormat::Q8_0
        | BlockFormat::Iq4Nl
        | BlockFormat::Q4K
        | BlockFormat::Q5K
        | BlockFormat::Iq4Xs
        | BlockFormat::Z4By32
        | BlockFormat::Z4By128
        | BlockFormat::Z8By32 => 32,
    };
    let scales = |of: usize| match format {
        BlockFormat::Q4_0 | BlockFormat::Q5_0 | BlockFormat::Q8_0 | BlockFormat::Iq4Nl => {
            (half(0), None)
        }
        BlockFormat::Q4_1 | BlockFormat::Q5_1 => (half(0), Some(half(2))),
        BlockFormat::Q2K => {
            let (s, t) = (i32::from(block[of] & 15), i32::from(block[of] >> 4));
            (scaled(80, s), Some(-scaled(82, t)))
        }
        BlockFormat::Q3K => {
            let low = block[96 + of % 8] >> (of / 8 * 4) & 15;
            let top = block[104 + of % 4] >> (of / 4 * 2) & 3;
            (scaled(108, i32::from(low | top << 4) - 32), None)
        }
        BlockFormat::Q4K | BlockFormat::Q5K => {
            let (s, t) = six(of);
            (scaled(0, s), Some(-scaled(2, t)))
        }
        BlockFormat::Q6K => (scaled(208, block[192 + of].cast_signed().into()), None),
        BlockFormat::Iq4Xs => {
            let low = block[4 + of / 2] >> (of % 2 * 4) & 15;
            let top = block[2 + of / 4] >> (of % 4 * 2) & 3;
            (scaled(0, i32::from(low | top << 4) - 32), None)
        }
        BlockFormat::Z4By32 | BlockFormat::Z4By128 => (half(0), Some(-(half(0) * half(2)))),
        BlockFormat::Z8By32 => (half(0), Some(-(half(0) * (half(2) + 128.0)))),
    };
    let integers: Vec<i32> = (0..columns(format))
        .map(|i| integer(format, block, i))
        .collect();
    let parts = integers.chunks(size).enumerate().map(|(of, integers)| {
        let (d, m) = scales(of);
        let integers = integers.to_vec();
        Part { d, m, integers }
    });
    parts.collect()
}

/// What d is multiplied with in column i.
fn integer(format: BlockFormat, block: &[u8], i: usize) -> i32 {
    let nibble = |from: usize, i: usize| i32::from(block[from + i % 16] >> (i / 16 * 4) & 15);
    let fifth = |from: usize| i32::from(block[from + i / 8] >> (i % 8) & 1) << 4;
    // Of the long types: 64 columns in 32 bytes, 128 in 32, and a bit of each 32 columns.
    let four = |from: usize| block[from + i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15;
    let two = |from: usize| block[from + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
    let bit = |from: usize| block[from + i % 32] >> (i / 32) & 1;
    const STEPS: [i32; 16] = [
        -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
    ];
    let unequal = |q: i32| STEPS[usize::try_from(q).unwrap()];
    match format {
        BlockFormat::Q4_0 => nibble(2, i) - 8,
        BlockFormat::Q4_1 => nibble(4, i),
        BlockFormat::Q5_0 => nibble(6, i) + fifth(2) - 16,
        BlockFormat::Q5_1 => nibble(8, i) + fifth(4),
        BlockFormat::Q8_0 => block[2 + i].cast_signed().into(),
        BlockFormat::Iq4Nl => unequal(nibble(2, i)),
        BlockFormat::Q2K => two(16).into(),
        BlockFormat::Q3K => i32::from(two(32) | bit(0) << 2) - 4,
        BlockFormat::Q4K => four(16).into(),
        BlockFormat::Q5K => i32::from(four(48) | bit(16) << 4),
        BlockFormat::Q6K => {
            let low = block[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
            i32::from(low | two(128) << 4) - 32
        }
        BlockFormat::Iq4Xs => unequal(nibble(8 + 16 * (i / 32), i % 32)),
        BlockFormat::Z4By32 => nibble(4, i),
        BlockFormat::Z4By128 => nibble(4 + 16 * (i / 32), i % 32),
        BlockFormat::Z8By32 => i32::from(block[4 + i].cast_signed()) + 128,
    }
}

/// A block's numbers as ggml defines them; with a zero point d q - d z, which is exact.
pub(super) fn numbers_of(format: BlockFormat, block: &[u8]) -> Vec<f32> {
    if let Some(signed) = zero_point(format) {
        let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
        let packed = |i: usize| (integer(format, block, i) - i32::from(signed)) as f32;
        let numbers = (0..columns(format)).map(packed);
        return numbers.map(|q| half(0) * q - half(0) * half(2)).collect();
    }
    let parts = parts_of(format, block);
    let numbers = parts.iter().flat_map(|part| {
        part.integers.iter().map(|integer| {
            let product = part.d * *integer as f32;
            part.m.map_or(product, |m| product + m)
        })
    });
    numbers.collect()
}

/// Some columns of a file's rows: from the middle of a block on, where the format's are long.
pub(in super::super) struct Cut {
    pub(in super::super) first: usize,
    pub(in super::super) skipped: Option<usize>,
    /// Blocks of a row of the file.
    pub(in super::super) blocks: usize,
}

pub(in super::super) fn cut(format: BlockFormat, cols: usize, random: &mut Random) -> Cut {
    let columns = columns(format);
    let first = random.below(20) * GROUP;
    let is_whole = first.is_multiple_of(columns) && cols.is_multiple_of(columns);
    Cut {
        first,
        skipped: (!is_whole || random.below(2) == 0).then_some(first % columns),
        blocks: (first + cols).div_ceil(columns) + random.below(3),
    }
}

pub(in super::super) fn columns(format: BlockFormat) -> usize {
    size(format.columns())
}

/// Where the f16 of a block lie.
pub(in super::super) fn halves(format: BlockFormat) -> &'static [usize] {
    match format {
        BlockFormat::Q4_0
        | BlockFormat::Q5_0
        | BlockFormat::Q8_0
        | BlockFormat::Iq4Nl
        | BlockFormat::Iq4Xs => &[0],
        BlockFormat::Q4_1
        | BlockFormat::Q5_1
        | BlockFormat::Q4K
        | BlockFormat::Q5K
        | BlockFormat::Z4By32
        | BlockFormat::Z4By128
        | BlockFormat::Z8By32 => &[0, 2],
        BlockFormat::Q2K => &[80, 82],
        BlockFormat::Q3K => &[108],
        BlockFormat::Q6K => &[208],
    }
}

/// Where a zero point is read: what has to be added to it, and to q, so that both count from 0.
fn zero_point(format: BlockFormat) -> Option<u8> {
    let signed = if format.bits() == 8 { 128 } else { 0 };
    format.has_zero_point().then_some(signed)
}

/// Any zero point that such blocks have.
pub(super) fn random_zero(format: BlockFormat, random: &mut Random) -> Option<f16> {
    let signed = zero_point(format)?;
    let from_zero = random.below(1 << format.bits()) as f32;
    Some(f16::from_f32(from_zero - f32::from(signed)))
}

/// A row's blocks as numbers.
pub(super) fn row_of(format: BlockFormat, blocks: &[u8]) -> Vec<f32> {
    let blocks = blocks.chunks_exact(block_bytes(format));
    blocks.flat_map(|block| numbers_of(format, block)).collect()
}

/// Blocks of any bits, with scales of any size that weights have.
pub(in super::super) fn random_blocks(
    format: BlockFormat,
    blocks: usize,
    random: &mut Random,
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(blocks * block_bytes(format));
    for _ in 0..blocks {
        let mut block: Vec<u8> = (0..block_bytes(format))
            .map(|_| random.word().to_le_bytes()[3])
            .collect();
        for at in halves(format) {
            let scale = f16::from_f32(random.value() / 8.0);
            block[*at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
        if let Some(zero) = random_zero(format, random) {
            block[2..4].copy_from_slice(&zero.to_le_bytes());
        }
        bytes.extend(block);
    }
    bytes
}
