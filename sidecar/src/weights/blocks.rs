//! Block types as numbers: ggml's, and those with a zero point. This one has those of 32 numbers, which share a scale `d` (and a
//! minimum `m`), both f16; `k_quants` those of 256.
//!
//! Q8_0: `d * q`, q signed 8 bits. Q4_0: `d * (q - 8)`. Q4_1: `d * q + m`. A 4-bit block holds
//! numbers 0..16 in the low halves of its 16 bytes and 16..32 in the high halves; Q5_0 and Q5_1 have
//! a fifth bit of each number in four bytes of their own. Of IQ4_NL and IQ4_XS q is a place in a table. With
//! a zero point z, in f16 behind d, it is `d * (q - z)`, every 32 of 4 bits as in Q4_0.

use plimsoll_planner::BlockFormat;

use super::k_quants::{self, scale, unequal};

/// Numbers in a short block.
const BLOCK: usize = 32;

/// As [`super::encoding::Encoding::decode`].
pub(super) fn decode(format: BlockFormat, bytes: &[u8], skip: usize, out: &mut [f32]) {
    match format {
        BlockFormat::Q8_0 => decode_blocks(bytes, skip, out, q8_0),
        BlockFormat::Q4_0 => decode_blocks(bytes, skip, out, q4_0),
        BlockFormat::Q4_1 => decode_blocks(bytes, skip, out, q4_1),
        BlockFormat::Q5_0 => decode_blocks(bytes, skip, out, q5_0),
        BlockFormat::Q5_1 => decode_blocks(bytes, skip, out, q5_1),
        BlockFormat::Iq4Nl => decode_blocks(bytes, skip, out, iq4_nl),
        BlockFormat::Q2K => decode_blocks(bytes, skip, out, k_quants::q2_k),
        BlockFormat::Q3K => decode_blocks(bytes, skip, out, k_quants::q3_k),
        BlockFormat::Q4K => decode_blocks(bytes, skip, out, k_quants::q4_k),
        BlockFormat::Q5K => decode_blocks(bytes, skip, out, k_quants::q5_k),
        BlockFormat::Q6K => decode_blocks(bytes, skip, out, k_quants::q6_k),
        BlockFormat::Iq4Xs => decode_blocks(bytes, skip, out, k_quants::iq4_xs),
        BlockFormat::Z4By32 => decode_blocks(bytes, skip, out, z4::<20, 32>),
        BlockFormat::Z4By128 => decode_blocks(bytes, skip, out, z4::<68, 128>),
        BlockFormat::Z8By32 => decode_blocks(bytes, skip, out, z8),
    }
}

/// `BYTES` and `NUMBERS`: of one block. Blocks cut by `skip` or by the end of `out` go through a
/// copy.
fn decode_blocks<const BYTES: usize, const NUMBERS: usize>(
    bytes: &[u8],
    skip: usize,
    out: &mut [f32],
    block: impl Fn(&[u8; BYTES], &mut [f32; NUMBERS]),
) {
    let blocks = &bytes.as_chunks::<BYTES>().0[skip / NUMBERS..];
    let head = (NUMBERS - skip % NUMBERS) % NUMBERS;
    let head = head.min(out.len());
    let (first, rest) = out.split_at_mut(head);
    let blocks = if first.is_empty() {
        blocks
    } else {
        let mut numbers = [0.0; NUMBERS];
        block(&blocks[0], &mut numbers);
        let from = skip % NUMBERS;
        first.copy_from_slice(&numbers[from..from + first.len()]);
        &blocks[1..]
    };
    let (whole, tail) = rest.as_chunks_mut::<NUMBERS>();
    for (to, from) in whole.iter_mut().zip(blocks) {
        block(from, to);
    }
    if !tail.is_empty() {
        let mut numbers = [0.0; NUMBERS];
        block(&blocks[whole.len()], &mut numbers);
        tail.copy_from_slice(&numbers[..tail.len()]);
    }
}

fn q8_0(from: &[u8; 34], to: &mut [f32; BLOCK]) {
    let d = scale(from[0], from[1]);
    for (to, q) in to.iter_mut().zip(&from[2..]) {
        *to = d * f32::from(q.cast_signed());
    }
}

fn q4_0(from: &[u8; 18], to: &mut [f32; BLOCK]) {
    let d = scale(from[0], from[1]);
    let (low, high) = to.split_at_mut(BLOCK / 2);
    for ((low, high), q) in low.iter_mut().zip(high).zip(&from[2..]) {
        *low = d * (f32::from(q & 15) - 8.0);
        *high = d * (f32::from(q >> 4) - 8.0);
    }
}

fn q4_1(from: &[u8; 20], to: &mut [f32; BLOCK]) {
    let d = scale(from[0], from[1]);
    let m = scale(from[2], from[3]);
    let (low, high) = to.split_at_mut(BLOCK / 2);
    for ((low, high), q) in low.iter_mut().zip(high).zip(&from[4..]) {
        *low = d * f32::from(q & 15) + m;
        *high = d * f32::from(q >> 4) + m;
    }
}

fn q5_0(from: &[u8; 22], to: &mut [f32; BLOCK]) {
    let d = scale(from[0], from[1]);
    for (i, to) in to.iter_mut().enumerate() {
        *to = d * (f32::from(five_bits(&from[2..], i)) - 16.0);
    }
}

fn q5_1(from: &[u8; 24], to: &mut [f32; BLOCK]) {
    let d = scale(from[0], from[1]);
    let m = scale(from[2], from[3]);
    for (i, to) in to.iter_mut().enumerate() {
        *to = d * f32::from(five_bits(&from[4..], i)) + m;
    }
}

/// Number `i` of 32: its fifth bit in four bytes, the four others as in Q4_0 behind them.
fn five_bits(block: &[u8], i: usize) -> u8 {
    let (high, low) = block.split_at(BLOCK / 8);
    let bit = high[i / 8] >> (i % 8) & 1;
    low[i % 16] >> (i / 16 * 4) & 15 | bit << 4
}

fn iq4_nl(from: &[u8; 18], to: &mut [f32; BLOCK]) {
    let d = scale(from[0], from[1]);
    for (i, to) in to.iter_mut().enumerate() {
        *to = d * unequal(&from[2..], i);
    }
}

fn z4<const BYTES: usize, const NUMBERS: usize>(from: &[u8; BYTES], to: &mut [f32; NUMBERS]) {
    let (d, z) = (scale(from[0], from[1]), scale(from[2], from[3]));
    for (to, from) in to.chunks_exact_mut(BLOCK).zip(from[4..].chunks_exact(16)) {
        for (i, to) in to.iter_mut().enumerate() {
            *to = d * (f32::from(from[i % 16] >> (i / 16 * 4) & 15) - z);
        }
    }
}

fn z8(from: &[u8; 36], to: &mut [f32; BLOCK]) {
    let (d, z) = (scale(from[0], from[1]), scale(from[2], from[3]));
    for (to, q) in to.iter_mut().zip(&from[4..]) {
        *to = d * (f32::from(q.cast_signed()) - z);
    }
}
