//! Blocks as ggml defines them: their numbers one by one, and random ones.

use half::f16;
use plimsoll_planner::BlockFormat;

use super::super::{block_bytes, size};
use crate::testing::Random;

/// A block's numbers as ggml defines them.
pub(super) fn numbers_of(format: BlockFormat, block: &[u8]) -> Vec<f32> {
    let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
    let bits = |from: usize, i: usize| block[from + i % 16] >> (i / 16 * 4) & 15;
    let nibble = |from: usize, i: usize| f32::from(bits(from, i));
    let fifth = |from: usize, i: usize| f32::from(block[from + i / 8] >> (i % 8) & 1) * 16.0;
    // Of the long types: 64 columns in 32 bytes, 128 in 32, and a bit of each 32 columns.
    let four = |from: usize, i: usize| block[from + i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15;
    let two = |from: usize, i: usize| block[from + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
    let bit = |from: usize, i: usize| block[from + i % 32] >> (i / 32) & 1;
    let six = |of: usize| {
        let (s, t) = (block[4 + of % 4], block[8 + of % 4]);
        let (s, t) = match of {
            0..4 => (s & 63, t & 63),
            _ => {
                let low = block[8 + of];
                (low & 15 | s >> 6 << 4, low >> 4 | t >> 6 << 4)
            }
        };
        (half(0) * f32::from(s), half(2) * f32::from(t))
    };
    const STEPS: [i8; 16] = [
        -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
    ];
    let unequal = |from: usize, i: usize| f32::from(STEPS[usize::from(bits(from, i))]);
    let number = |i: usize| match format {
        BlockFormat::Q4_0 => half(0) * (nibble(2, i) - 8.0),
        BlockFormat::Q4_1 => half(0) * nibble(4, i) + half(2),
        BlockFormat::Q5_0 => half(0) * (nibble(6, i) + fifth(2, i) - 16.0),
        BlockFormat::Q5_1 => half(0) * (nibble(8, i) + fifth(4, i)) + half(2),
        BlockFormat::Q8_0 => half(0) * f32::from(block[2 + i].cast_signed()),
        BlockFormat::Iq4Nl => half(0) * unequal(2, i),
        BlockFormat::Q2K => {
            let of = block[i / 16];
            let q = f32::from(two(16, i));
            half(80) * f32::from(of & 15) * q - half(82) * f32::from(of >> 4)
        }
        BlockFormat::Q3K => {
            let of = i / 16;
            let low = block[96 + of % 8] >> (of / 8 * 4) & 15;
            let top = block[104 + of % 4] >> (of / 4 * 2) & 3;
            let q = f32::from(two(32, i) | bit(0, i) << 2) - 4.0;
            half(108) * (f32::from(low | top << 4) - 32.0) * q
        }
        BlockFormat::Q4K => {
            let (d, m) = six(i / 32);
            d * f32::from(four(16, i)) - m
        }
        BlockFormat::Q5K => {
            let (d, m) = six(i / 32);
            d * f32::from(four(48, i) | bit(16, i) << 4) - m
        }
        BlockFormat::Q6K => {
            let low = block[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
            let q = f32::from(low | two(128, i) << 4) - 32.0;
            half(208) * f32::from(block[192 + i / 16].cast_signed()) * q
        }
        BlockFormat::Iq4Xs => {
            let of = i / 32;
            let low = block[4 + of / 2] >> (of % 2 * 4) & 15;
            let top = block[2 + of / 4] >> (of % 4 * 2) & 3;
            half(0) * (f32::from(low | top << 4) - 32.0) * unequal(8 + 16 * of, i % 32)
        }
    };
    (0..columns(format)).map(number).collect()
}

pub(super) fn columns(format: BlockFormat) -> usize {
    size(format.columns())
}

/// Where the f16 of a block lie.
pub(super) fn halves(format: BlockFormat) -> &'static [usize] {
    match format {
        BlockFormat::Q4_0
        | BlockFormat::Q5_0
        | BlockFormat::Q8_0
        | BlockFormat::Iq4Nl
        | BlockFormat::Iq4Xs => &[0],
        BlockFormat::Q4_1 | BlockFormat::Q5_1 | BlockFormat::Q4K | BlockFormat::Q5K => &[0, 2],
        BlockFormat::Q2K => &[80, 82],
        BlockFormat::Q3K => &[108],
        BlockFormat::Q6K => &[208],
    }
}

/// A row's blocks as numbers.
pub(super) fn row_of(format: BlockFormat, blocks: &[u8]) -> Vec<f32> {
    let blocks = blocks.chunks_exact(block_bytes(format));
    blocks.flat_map(|block| numbers_of(format, block)).collect()
}

/// Blocks of any bits, with scales of any size that weights have.
pub(super) fn random_blocks(format: BlockFormat, blocks: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(blocks * block_bytes(format));
    for _ in 0..blocks {
        let mut block: Vec<u8> = (0..block_bytes(format))
            .map(|_| random.word().to_le_bytes()[3])
            .collect();
        for at in halves(format) {
            let scale = f16::from_f32(random.value() / 8.0);
            block[*at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
        bytes.extend(block);
    }
    bytes
}
