//! What block types differ in: where a file's block has its parts, and what its numbers stand for.

use plimsoll_planner::BlockFormat;

use super::planes::{Planes, field, halves};
use crate::simd::{LANES, Simd};

/// A block type that code is compiled for.
pub(super) trait Kind {
    const FORMAT: BlockFormat;
    /// Where the f16 scales lie in a file's block: d, and m or z where there is one.
    const HALVES: &'static [usize];
    /// The second of them is z, the q that stands for zero.
    const HAS_ZERO_POINT: bool = false;
    /// Where the small scales lie, and how many bytes they are.
    const SMALL: (usize, usize) = (0, 0);
    /// Parts of 32 columns that have small scales of their own.
    const PARTS: usize = 1;
    /// Bits of q in the low plane, and in the high one; 8 are bytes with a sign, in no planes.
    const LOW: usize;
    const HIGH: usize = 0;
    /// The q that stands for zero.
    const ZERO: f32 = 0.0;
    /// What every q of 4 bits stands for, where that is no straight line.
    const TABLE: Option<&'static [f32; 16]> = None;
    /// A block of zeros without a sign: padding rows are made of these.
    const EMPTY: &'static [u8];

    /// The q of 32 columns of a file's block.
    fn planes(block: &[u8], step: usize) -> Planes;

    /// Of every row s, and t with its sign turned, of the `part`-th 16 columns of a block; none where
    /// d and m are all.
    #[inline(always)]
    fn small(_bytes: &[[u8; LANES]], _part: usize) -> Option<[[f32; LANES]; 2]> {
        None
    }
}

/// What is added to d q: m; where there is a zero point, -d z, which is exact. Of q that are `lift` more than
/// they were packed as, so is z.
#[inline(always)]
pub(super) fn minimum<S: Simd, K: Kind>(s: S, d: S::V, half: S::V, lift: f32) -> S::V {
    match K::HAS_ZERO_POINT {
        // -0 less 0 keeps its sign: so that this is -(d z) where z is 0, too.
        true => s.mul(d, s.sub(s.splat(-lift), half)),
        false => half,
    }
}

const fn block<const N: usize>(from: usize, to: usize, byte: u8) -> [u8; N] {
    let mut block = [0; N];
    let mut at = from;
    while at < to {
        block[at] = byte;
        at += 1;
    }
    block
}

fn low(low: u128) -> Planes {
    Planes { low, high: 0 }
}

fn word(block: &[u8], at: usize) -> u128 {
    let bytes = block[at..].first_chunk::<4>();
    u128::from(u32::from_le_bytes(*bytes.unwrap_or(&[0; 4])))
}

const TABLE: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0,
    89.0, 113.0,
];

pub(super) struct Q4_0;
pub(super) struct Q4_1;
pub(super) struct Q5_0;
pub(super) struct Q5_1;
pub(super) struct Q8_0;
pub(super) struct Iq4Nl;
pub(super) struct Q2K;
pub(super) struct Q3K;
pub(super) struct Q4K;
pub(super) struct Q5K;
pub(super) struct Q6K;
pub(super) struct Iq4Xs;
pub(super) struct Z4By32;
pub(super) struct Z4By128;
pub(super) struct Z8By32;

impl Kind for Q4_0 {
    const FORMAT: BlockFormat = BlockFormat::Q4_0;
    const HALVES: &'static [usize] = &[0];
    const LOW: usize = 4;
    const ZERO: f32 = 8.0;
    const EMPTY: &'static [u8] = &block::<18>(2, 18, 0x88);

    fn planes(block: &[u8], _: usize) -> Planes {
        low(halves(&block[2..]))
    }
}

impl Kind for Q4_1 {
    const FORMAT: BlockFormat = BlockFormat::Q4_1;
    const HALVES: &'static [usize] = &[0, 2];
    const LOW: usize = 4;
    const EMPTY: &'static [u8] = &[0; 20];

    fn planes(block: &[u8], _: usize) -> Planes {
        low(halves(&block[4..]))
    }
}

impl Kind for Q5_0 {
    const FORMAT: BlockFormat = BlockFormat::Q5_0;
    const HALVES: &'static [usize] = &[0];
    const LOW: usize = 4;
    const HIGH: usize = 1;
    const ZERO: f32 = 16.0;
    const EMPTY: &'static [u8] = &block::<22>(2, 6, 0xFF);

    fn planes(block: &[u8], _: usize) -> Planes {
        Planes {
            low: halves(&block[6..]),
            high: word(block, 2),
        }
    }
}

impl Kind for Q5_1 {
    const FORMAT: BlockFormat = BlockFormat::Q5_1;
    const HALVES: &'static [usize] = &[0, 2];
    const LOW: usize = 4;
    const HIGH: usize = 1;
    const EMPTY: &'static [u8] = &[0; 24];

    fn planes(block: &[u8], _: usize) -> Planes {
        Planes {
            low: halves(&block[8..]),
            high: word(block, 4),
        }
    }
}

impl Kind for Q8_0 {
    const FORMAT: BlockFormat = BlockFormat::Q8_0;
    const HALVES: &'static [usize] = &[0];
    const LOW: usize = 8;
    const EMPTY: &'static [u8] = &[0; 34];

    fn planes(_: &[u8], _: usize) -> Planes {
        unreachable!("bytes lie in no planes")
    }
}

impl Kind for Iq4Nl {
    const FORMAT: BlockFormat = BlockFormat::Iq4Nl;
    const HALVES: &'static [usize] = &[0];
    const LOW: usize = 4;
    const TABLE: Option<&'static [f32; 16]> = Some(&TABLE);
    // 0 times a number with a sign has one.
    const EMPTY: &'static [u8] = &block::<18>(2, 18, 0x88);

    fn planes(block: &[u8], _: usize) -> Planes {
        low(halves(&block[2..]))
    }
}

impl Kind for Q2K {
    const FORMAT: BlockFormat = BlockFormat::Q2K;
    const HALVES: &'static [usize] = &[80, 82];
    const SMALL: (usize, usize) = (0, 16);
    const PARTS: usize = 2;
    const LOW: usize = 2;
    const EMPTY: &'static [u8] = &[0; 84];

    fn planes(block: &[u8], step: usize) -> Planes {
        low(two_bits(&block[16..], step))
    }

    #[inline(always)]
    fn small(bytes: &[[u8; LANES]], part: usize) -> Option<[[f32; LANES]; 2]> {
        let row = &bytes[part];
        Some([
            row.map(|both| f32::from(both & 15)),
            row.map(|both| -f32::from(both >> 4)),
        ])
    }
}

impl Kind for Q3K {
    const FORMAT: BlockFormat = BlockFormat::Q3K;
    const HALVES: &'static [usize] = &[108];
    const SMALL: (usize, usize) = (96, 12);
    const PARTS: usize = 2;
    const LOW: usize = 2;
    const HIGH: usize = 1;
    const ZERO: f32 = 4.0;
    // Both factors of d are negative.
    const EMPTY: &'static [u8] = &[0; 110];

    fn planes(block: &[u8], step: usize) -> Planes {
        Planes {
            low: two_bits(&block[32..], step),
            high: field::<1>(block, step),
        }
    }

    #[inline(always)]
    fn small(bytes: &[[u8; LANES]], part: usize) -> Option<[[f32; LANES]; 2]> {
        let (of_low, of_top) = (&bytes[part % 8], &bytes[8 + part % 4]);
        let (shift, above) = (4 * (part / 8), 2 * (part / 4));
        let scale = std::array::from_fn(|row| {
            let (low, top) = (of_low[row] >> shift & 15, of_top[row] >> above & 3);
            f32::from(low | top << 4) - 32.0
        });
        Some([scale, [0.0; LANES]])
    }
}

/// 128 columns lie in 32 bytes, the first 32 in the lowest bits.
fn two_bits(bytes: &[u8], step: usize) -> u128 {
    field::<2>(&bytes[step / 4 * 32..], step % 4 * 2)
}

impl Kind for Q4K {
    const FORMAT: BlockFormat = BlockFormat::Q4K;
    const HALVES: &'static [usize] = &[0, 2];
    const SMALL: (usize, usize) = (4, 12);
    const LOW: usize = 4;
    const EMPTY: &'static [u8] = &[0; 144];

    fn planes(block: &[u8], step: usize) -> Planes {
        low(four_bits(&block[16..], step))
    }

    #[inline(always)]
    fn small(bytes: &[[u8; LANES]], part: usize) -> Option<[[f32; LANES]; 2]> {
        Some(six_bits(bytes, part / 2))
    }
}

impl Kind for Q5K {
    const FORMAT: BlockFormat = BlockFormat::Q5K;
    const HALVES: &'static [usize] = &[0, 2];
    const SMALL: (usize, usize) = (4, 12);
    const LOW: usize = 4;
    const HIGH: usize = 1;
    const EMPTY: &'static [u8] = &[0; 176];

    fn planes(block: &[u8], step: usize) -> Planes {
        Planes {
            low: four_bits(&block[48..], step),
            high: field::<1>(&block[16..], step),
        }
    }

    #[inline(always)]
    fn small(bytes: &[[u8; LANES]], part: usize) -> Option<[[f32; LANES]; 2]> {
        Some(six_bits(bytes, part / 2))
    }
}

/// 64 columns lie in 32 bytes, the first 32 in the low halves.
fn four_bits(bytes: &[u8], step: usize) -> u128 {
    field::<4>(&bytes[step / 2 * 32..], step % 2 * 4)
}

/// Scale and minimum of 32 columns. Of 12 bytes, the first four hold scales 0..4, the next minima
/// 0..4, each with two bits left for the others, whose low halves are in the last four.
#[inline(always)]
fn six_bits(bytes: &[[u8; LANES]], of: usize) -> [[f32; LANES]; 2] {
    let (of_scale, of_minimum) = (&bytes[of % 4], &bytes[4 + of % 4]);
    if of < 4 {
        return [
            of_scale.map(|byte| f32::from(byte & 63)),
            of_minimum.map(|byte| -f32::from(byte & 63)),
        ];
    }
    let low = &bytes[4 + of];
    [
        std::array::from_fn(|row| f32::from(low[row] & 15 | of_scale[row] >> 6 << 4)),
        std::array::from_fn(|row| -f32::from(low[row] >> 4 | of_minimum[row] >> 6 << 4)),
    ]
}

impl Kind for Q6K {
    const FORMAT: BlockFormat = BlockFormat::Q6K;
    const HALVES: &'static [usize] = &[208];
    const SMALL: (usize, usize) = (192, 16);
    const PARTS: usize = 2;
    const LOW: usize = 4;
    const HIGH: usize = 2;
    const ZERO: f32 = 32.0;
    const EMPTY: &'static [u8] = &block::<210>(128, 192, 0xAA);

    fn planes(block: &[u8], step: usize) -> Planes {
        // 128 columns lie in 64 bytes of low bits, the first 64 in the low halves, and 32 of high ones.
        let (half, step) = (step / 4, step % 4);
        Planes {
            low: field::<4>(&block[half * 64 + step % 2 * 32..], step / 2 * 4),
            high: field::<2>(&block[128 + half * 32..], step * 2),
        }
    }

    #[inline(always)]
    fn small(bytes: &[[u8; LANES]], part: usize) -> Option<[[f32; LANES]; 2]> {
        let scale = bytes[part].map(|byte| f32::from(byte.cast_signed()));
        Some([scale, [0.0; LANES]])
    }
}

impl Kind for Iq4Xs {
    const FORMAT: BlockFormat = BlockFormat::Iq4Xs;
    const HALVES: &'static [usize] = &[0];
    const SMALL: (usize, usize) = (2, 6);
    const LOW: usize = 4;
    const TABLE: Option<&'static [f32; 16]> = Some(&TABLE);
    // Both factors of d are negative.
    const EMPTY: &'static [u8] = &[0; 136];

    fn planes(block: &[u8], step: usize) -> Planes {
        low(halves(&block[8 + 16 * step..]))
    }

    #[inline(always)]
    fn small(bytes: &[[u8; LANES]], part: usize) -> Option<[[f32; LANES]; 2]> {
        // Two bytes of high bits, then four of low ones.
        let of = part / 2;
        let (of_top, of_low) = (&bytes[of / 4], &bytes[2 + of / 2]);
        let (above, shift) = (2 * (of % 4), 4 * (of % 2));
        let scale = std::array::from_fn(|row| {
            let (low, top) = (of_low[row] >> shift & 15, of_top[row] >> above & 3);
            f32::from(low | top << 4) - 32.0
        });
        Some([scale, [0.0; LANES]])
    }
}

impl Kind for Z4By32 {
    const FORMAT: BlockFormat = BlockFormat::Z4By32;
    const HALVES: &'static [usize] = &[0, 2];
    const HAS_ZERO_POINT: bool = true;
    const LOW: usize = 4;
    const EMPTY: &'static [u8] = &[0; 20];

    fn planes(block: &[u8], _: usize) -> Planes {
        low(halves(&block[4..]))
    }
}

impl Kind for Z4By128 {
    const FORMAT: BlockFormat = BlockFormat::Z4By128;
    const HALVES: &'static [usize] = &[0, 2];
    const HAS_ZERO_POINT: bool = true;
    const LOW: usize = 4;
    const EMPTY: &'static [u8] = &[0; 68];

    fn planes(block: &[u8], step: usize) -> Planes {
        low(halves(&block[4 + 16 * step..]))
    }
}

impl Kind for Z8By32 {
    const FORMAT: BlockFormat = BlockFormat::Z8By32;
    const HALVES: &'static [usize] = &[0, 2];
    const HAS_ZERO_POINT: bool = true;
    const LOW: usize = 8;
    const EMPTY: &'static [u8] = &[0; 36];

    fn planes(_: &[u8], _: usize) -> Planes {
        unreachable!("bytes lie in no planes")
    }
}
