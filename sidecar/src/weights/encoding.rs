//! How numbers are stored in files, and decoding them to f32.
//!
//! Block types follow ggml: 32 numbers share a scale `d` (and a minimum `m`), both f16.
//! Q8_0: `d * q`, q signed 8 bits. Q4_0: `d * (q - 8)`. Q4_1: `d * q + m`. A 4-bit block holds
//! numbers 0..16 in the low halves of its 16 bytes and 16..32 in the high halves; Q5_0 and Q5_1 have
//! a fifth bit of each number in four bytes of their own. `k_quants` has the types of 256 numbers.

use half::{bf16, f16};
use plimsoll_planner::{BlockFormat, Dtype};

use super::k_quants::{self, Q2_K_BYTES, Q3_K_BYTES, Q4_K_BYTES, Q5_K_BYTES, Q6_K_BYTES, scale};

/// Numbers in a block of the quantised types.
const BLOCK: usize = 32;
const Q8_0_BYTES: usize = 2 + BLOCK;
const Q4_0_BYTES: usize = 2 + BLOCK / 2;
const Q4_1_BYTES: usize = 4 + BLOCK / 2;
const Q5_0_BYTES: usize = 2 + BLOCK / 8 + BLOCK / 2;
const Q5_1_BYTES: usize = 4 + BLOCK / 8 + BLOCK / 2;

/// A type that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Encoding {
    F32,
    F16,
    Bf16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
}

impl Encoding {
    pub(crate) const ALL: [Encoding; 13] = [
        Encoding::F32,
        Encoding::F16,
        Encoding::Bf16,
        Encoding::Q8_0,
        Encoding::Q4_0,
        Encoding::Q4_1,
        Encoding::Q5_0,
        Encoding::Q5_1,
        Encoding::Q2K,
        Encoding::Q3K,
        Encoding::Q4K,
        Encoding::Q5K,
        Encoding::Q6K,
    ];

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Encoding::F32 => "F32",
            Encoding::F16 => "F16",
            Encoding::Bf16 => "BF16",
            Encoding::Q8_0 => "Q8_0",
            Encoding::Q4_0 => "Q4_0",
            Encoding::Q4_1 => "Q4_1",
            Encoding::Q5_0 => "Q5_0",
            Encoding::Q5_1 => "Q5_1",
            Encoding::Q2K => "Q2_K",
            Encoding::Q3K => "Q3_K",
            Encoding::Q4K => "Q4_K",
            Encoding::Q5K => "Q5_K",
            Encoding::Q6K => "Q6_K",
        }
    }

    /// Numbers that are stored together: a row is a whole number of blocks.
    pub(crate) const fn block_numbers(self) -> usize {
        match self {
            Encoding::F32 | Encoding::F16 | Encoding::Bf16 => 1,
            Encoding::Q8_0 | Encoding::Q4_0 | Encoding::Q4_1 | Encoding::Q5_0 | Encoding::Q5_1 => {
                BLOCK
            }
            Encoding::Q2K | Encoding::Q3K | Encoding::Q4K | Encoding::Q5K | Encoding::Q6K => {
                k_quants::NUMBERS
            }
        }
    }

    pub(crate) const fn block_bytes(self) -> usize {
        match self {
            Encoding::F32 => 4,
            Encoding::F16 | Encoding::Bf16 => 2,
            Encoding::Q8_0 => Q8_0_BYTES,
            Encoding::Q4_0 => Q4_0_BYTES,
            Encoding::Q4_1 => Q4_1_BYTES,
            Encoding::Q5_0 => Q5_0_BYTES,
            Encoding::Q5_1 => Q5_1_BYTES,
            Encoding::Q2K => Q2_K_BYTES,
            Encoding::Q3K => Q3_K_BYTES,
            Encoding::Q4K => Q4_K_BYTES,
            Encoding::Q5K => Q5_K_BYTES,
            Encoding::Q6K => Q6_K_BYTES,
        }
    }

    /// The type of numbers that stand in the file as memory has them.
    pub(crate) const fn plain(self) -> Option<Dtype> {
        match self {
            Encoding::F32 => Some(Dtype::Float32),
            Encoding::F16 => Some(Dtype::Float16),
            Encoding::Bf16 => Some(Dtype::BFloat16),
            _ => None,
        }
    }

    /// The blocks that stay as they are in memory.
    pub(crate) const fn blocks(self) -> Option<BlockFormat> {
        match self {
            Encoding::Q4_0 => Some(BlockFormat::Q4_0),
            Encoding::Q4_1 => Some(BlockFormat::Q4_1),
            Encoding::Q8_0 => Some(BlockFormat::Q8_0),
            Encoding::F32
            | Encoding::F16
            | Encoding::Bf16
            | Encoding::Q5_0
            | Encoding::Q5_1
            | Encoding::Q2K
            | Encoding::Q3K
            | Encoding::Q4K
            | Encoding::Q5K
            | Encoding::Q6K => None,
        }
    }

    pub(crate) const fn is_quantized(self) -> bool {
        self.block_numbers() > 1
    }

    /// Decodes `out.len()` numbers of whole blocks in `bytes`, beginning with number `skip`.
    ///
    /// `bytes` holds at least the blocks of numbers `0..skip + out.len()`.
    pub(crate) fn decode(self, bytes: &[u8], skip: usize, out: &mut [f32]) {
        match self {
            Encoding::F32 => decode_f32(&bytes[skip * 4..], out),
            Encoding::F16 => decode_f16(&bytes[skip * 2..], out),
            Encoding::Bf16 => decode_bf16(&bytes[skip * 2..], out),
            Encoding::Q8_0 => decode_blocks(bytes, skip, out, q8_0),
            Encoding::Q4_0 => decode_blocks(bytes, skip, out, q4_0),
            Encoding::Q4_1 => decode_blocks(bytes, skip, out, q4_1),
            Encoding::Q5_0 => decode_blocks(bytes, skip, out, q5_0),
            Encoding::Q5_1 => decode_blocks(bytes, skip, out, q5_1),
            Encoding::Q2K => decode_blocks(bytes, skip, out, k_quants::q2_k),
            Encoding::Q3K => decode_blocks(bytes, skip, out, k_quants::q3_k),
            Encoding::Q4K => decode_blocks(bytes, skip, out, k_quants::q4_k),
            Encoding::Q5K => decode_blocks(bytes, skip, out, k_quants::q5_k),
            Encoding::Q6K => decode_blocks(bytes, skip, out, k_quants::q6_k),
        }
    }
}

/// The least number that is none of `dtype`'s: it would be rounded to infinity.
pub(crate) const fn limit(dtype: Dtype) -> f32 {
    match dtype {
        Dtype::Float32 => f32::INFINITY,
        Dtype::BFloat16 => f32::from_bits(0x7f7f_8000),
        Dtype::Float16 => 65_520.0,
    }
}

/// Writes numbers as `dtype`, little endian, rounded to nearest even.
///
/// # Panics
/// When `out` has another length.
pub(crate) fn encode(dtype: Dtype, numbers: &[f32], out: &mut [u8]) {
    let bytes = numbers.len() * if dtype == Dtype::Float32 { 4 } else { 2 };
    assert_eq!(out.len(), bytes, "{} numbers of {dtype}", numbers.len());
    match dtype {
        Dtype::Float32 => {
            let cells = out.as_chunks_mut::<4>().0.iter_mut();
            cells.zip(numbers).for_each(|(to, x)| *to = x.to_le_bytes());
        }
        Dtype::BFloat16 => {
            let cells = out.as_chunks_mut::<2>().0.iter_mut().zip(numbers);
            cells.for_each(|(to, x)| *to = bf16::from_f32(*x).to_le_bytes());
        }
        Dtype::Float16 => {
            let cells = out.as_chunks_mut::<2>().0.iter_mut().zip(numbers);
            cells.for_each(|(to, x)| *to = f16::from_f32(*x).to_le_bytes());
        }
    }
}

fn decode_f32(bytes: &[u8], out: &mut [f32]) {
    for (to, from) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *to = f32::from_le_bytes(*from);
    }
}

fn decode_bf16(bytes: &[u8], out: &mut [f32]) {
    for (to, from) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *to = f32::from_bits(u32::from(u16::from_le_bytes(*from)) << 16);
    }
}

/// Through a small buffer, so that `half` converts eight at a time where the CPU can.
fn decode_f16(bytes: &[u8], out: &mut [f32]) {
    use half::slice::HalfFloatSliceExt;
    const AT_ONCE: usize = 64;
    let mut halves = [f16::ZERO; AT_ONCE];
    for (to, from) in out.chunks_mut(AT_ONCE).zip(bytes.chunks(AT_ONCE * 2)) {
        for (half, bytes) in halves.iter_mut().zip(from.as_chunks::<2>().0) {
            *half = f16::from_le_bytes(*bytes);
        }
        halves[..to.len()].convert_to_f32_slice(to);
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

fn q8_0(from: &[u8; Q8_0_BYTES], to: &mut [f32; BLOCK]) {
    let d = scale(from[0], from[1]);
    for (to, q) in to.iter_mut().zip(&from[2..]) {
        *to = d * f32::from(q.cast_signed());
    }
}

fn q4_0(from: &[u8; Q4_0_BYTES], to: &mut [f32; BLOCK]) {
    let d = scale(from[0], from[1]);
    let (low, high) = to.split_at_mut(BLOCK / 2);
    for ((low, high), q) in low.iter_mut().zip(high).zip(&from[2..]) {
        *low = d * (f32::from(q & 15) - 8.0);
        *high = d * (f32::from(q >> 4) - 8.0);
    }
}

fn q4_1(from: &[u8; Q4_1_BYTES], to: &mut [f32; BLOCK]) {
    let d = scale(from[0], from[1]);
    let m = scale(from[2], from[3]);
    let (low, high) = to.split_at_mut(BLOCK / 2);
    for ((low, high), q) in low.iter_mut().zip(high).zip(&from[4..]) {
        *low = d * f32::from(q & 15) + m;
        *high = d * f32::from(q >> 4) + m;
    }
}

fn q5_0(from: &[u8; Q5_0_BYTES], to: &mut [f32; BLOCK]) {
    let d = scale(from[0], from[1]);
    for (i, to) in to.iter_mut().enumerate() {
        *to = d * (f32::from(five_bits(&from[2..], i)) - 16.0);
    }
}

fn q5_1(from: &[u8; Q5_1_BYTES], to: &mut [f32; BLOCK]) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_decode_to_their_value() {
        let mut out = [0.0; 3];
        let f32s: Vec<u8> = [1.5f32, -2.0, 1e-30]
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect();
        Encoding::F32.decode(&f32s, 0, &mut out);
        assert_eq!(out, [1.5, -2.0, 1e-30]);
        Encoding::F32.decode(&f32s, 1, &mut out[..2]);
        assert_eq!(out[..2], [-2.0, 1e-30]);
        // 1.0, -0.5 and the smallest subnormal of f16.
        Encoding::F16.decode(&[0, 0x3c, 0, 0xb8, 1, 0], 0, &mut out);
        assert_eq!(out, [1.0, -0.5, 2f32.powi(-24)]);
        Encoding::Bf16.decode(&[0x80, 0x3f, 0, 0xc0, 0, 0], 0, &mut out);
        assert_eq!(out, [1.0, -2.0, 0.0]);
    }

    #[test]
    fn numbers_are_written_as_they_are_read() {
        let numbers = [1.0, -0.5, 0.0, 65504.0, -3.25];
        for (encoding, dtype) in [
            (Encoding::F32, Dtype::Float32),
            (Encoding::F16, Dtype::Float16),
            (Encoding::Bf16, Dtype::BFloat16),
        ] {
            assert_eq!(encoding.plain(), Some(dtype));
            let mut bytes = vec![0; numbers.len() * encoding.block_bytes()];
            encode(dtype, &numbers, &mut bytes);
            let mut out = [0.0; 5];
            encoding.decode(&bytes, 0, &mut out);
            let rounded = numbers.map(|x| match dtype {
                Dtype::BFloat16 => bf16::from_f32(x).to_f32(),
                _ => x,
            });
            assert_eq!(out, rounded, "{dtype}");
        }
        assert_eq!(Encoding::Q8_0.plain(), None);
    }

    #[test]
    fn long_f16_runs_decode_every_number() {
        let numbers: Vec<f16> = (0..201u16)
            .map(|i| f16::from_f32(f32::from(i) / 4.0))
            .collect();
        let bytes: Vec<u8> = numbers.iter().flat_map(|h| h.to_le_bytes()).collect();
        let mut out = vec![0.0; 201];
        Encoding::F16.decode(&bytes, 0, &mut out);
        assert!(out.iter().enumerate().all(|(i, x)| *x == i as f32 / 4.0));
    }

    /// A block of each type, written by hand from ggml's definition.
    fn block(encoding: Encoding, seed: u8) -> (Vec<u8>, Vec<f32>) {
        let d = f16::from_f32(0.25 + f32::from(seed));
        let m = f16::from_f32(-3.5);
        let q = |i: usize| u8::try_from((i * 7 + usize::from(seed)) % 16).unwrap();
        let mut bytes = d.to_le_bytes().to_vec();
        let numbers = match encoding {
            Encoding::Q8_0 => {
                let signed = |i: usize| {
                    i8::try_from((i * 7 + usize::from(seed)).cast_signed() - 120).unwrap()
                };
                bytes.extend((0..32).map(|i| signed(i).cast_unsigned()));
                (0..32).map(|i| d.to_f32() * f32::from(signed(i))).collect()
            }
            Encoding::Q4_0 => {
                bytes.extend((0..16).map(|i| q(i) | q(i + 16) << 4));
                (0..32)
                    .map(|i| d.to_f32() * (f32::from(q(i)) - 8.0))
                    .collect()
            }
            _ => {
                bytes.extend(m.to_le_bytes());
                bytes.extend((0..16).map(|i| q(i) | q(i + 16) << 4));
                (0..32)
                    .map(|i| d.to_f32() * f32::from(q(i)) - 3.5)
                    .collect()
            }
        };
        (bytes, numbers)
    }

    #[test]
    fn any_range_of_blocks_decodes_as_the_whole() {
        for encoding in [Encoding::Q8_0, Encoding::Q4_0, Encoding::Q4_1] {
            let (bytes, numbers): (Vec<Vec<u8>>, Vec<Vec<f32>>) =
                (0..4).map(|seed| block(encoding, seed)).unzip();
            let (bytes, numbers) = (bytes.concat(), numbers.concat());
            assert_eq!(bytes.len(), 4 * encoding.block_bytes());
            for skip in 0..128 {
                for len in [0, 1, 5, 31, 32, 33, 64, 128 - skip] {
                    if skip + len <= 128 {
                        let mut out = vec![f32::NAN; len];
                        encoding.decode(&bytes, skip, &mut out);
                        assert_eq!(out, numbers[skip..skip + len], "{encoding:?} {skip} {len}");
                    }
                }
            }
        }
    }
}
