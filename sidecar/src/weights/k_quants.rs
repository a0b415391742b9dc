//! ggml's K types: 256 numbers share scales of a few bits each, which share an f16 scale `d` (and a
//! scale `dmin` of minima). Files of 4 bits keep some tensors (the output, some values) in 5 or 6.
//!
//! Each decoder takes one block as the file has it.

use half::f16;

/// Numbers in a block.
const NUMBERS: usize = 256;

/// What the 4 bits of the IQ4 types stand for.
const UNEQUAL: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// Number `i` of 32, in 16 bytes as in Q4_0.
pub(super) fn unequal(bytes: &[u8], i: usize) -> f32 {
    let at = bytes[i % 16] >> (i / 16 * 4) & 15;
    f32::from(UNEQUAL[usize::from(at)])
}

/// A scale or minimum as files have it.
pub(super) fn scale(low: u8, high: u8) -> f32 {
    f16::from_le_bytes([low, high]).to_f32()
}

/// 16 scales (low halves) and minima (high halves) of 4 bits, 256 numbers of 2 bits, d, dmin.
pub(super) fn q2_k(from: &[u8; 84], to: &mut [f32; NUMBERS]) {
    let (scales, rest) = from.split_at(16);
    let (numbers, rest) = rest.split_at(64);
    let (d, dmin) = (scale(rest[0], rest[1]), scale(rest[2], rest[3]));
    for (i, to) in to.iter_mut().enumerate() {
        let (number, group) = (two_bits(numbers, i), scales[i / 16]);
        *to = d * f32::from(group & 15) * f32::from(number) - dmin * f32::from(group >> 4);
    }
}

/// A high bit and two low ones of each number, 16 scales of 6 bits, d. Numbers are 4 too high where
/// the high bit is set, scales 32 too high.
pub(super) fn q3_k(from: &[u8; 110], to: &mut [f32; NUMBERS]) {
    let (high, rest) = from.split_at(32);
    let (numbers, rest) = rest.split_at(64);
    let (scales, d) = rest.split_at(12);
    let d = scale(d[0], d[1]);
    for (i, to) in to.iter_mut().enumerate() {
        let group = i / 16;
        let low = scales[group % 8] >> (4 * (group / 8)) & 15;
        let top = scales[8 + group % 4] >> (2 * (group / 4)) & 3;
        let group = f32::from(low | top << 4) - 32.0;
        let bit = high[i % 32] >> (i / 32) & 1;
        let number = f32::from(two_bits(numbers, i) | bit << 2) - 4.0;
        *to = d * group * number;
    }
}

/// Number `i` of 256: 128 lie in 32 bytes, the first 32 in the lowest bits.
fn two_bits(numbers: &[u8], i: usize) -> u8 {
    numbers[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3
}

/// d, dmin, 8 scales and minima of 6 bits, 256 numbers of 4 bits.
pub(super) fn q4_k(from: &[u8; 144], to: &mut [f32; NUMBERS]) {
    let (scales, numbers) = from.split_at(16);
    for (i, to) in to.iter_mut().enumerate() {
        let (d, m) = six_bits(scales, i / 32);
        *to = d * f32::from(four_bits(numbers, i)) - m;
    }
}

/// As Q4_K, with a fifth bit of each number before the four.
pub(super) fn q5_k(from: &[u8; 176], to: &mut [f32; NUMBERS]) {
    let (scales, rest) = from.split_at(16);
    let (high, numbers) = rest.split_at(32);
    for (i, to) in to.iter_mut().enumerate() {
        let (d, m) = six_bits(scales, i / 32);
        let bit = high[i % 32] >> (i / 32) & 1;
        *to = d * f32::from(four_bits(numbers, i) | bit << 4) - m;
    }
}

/// Number `i` of 256: 64 lie in 32 bytes, the first 32 in the low halves.
fn four_bits(numbers: &[u8], i: usize) -> u8 {
    numbers[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15
}

/// Scale and minimum of 32 numbers. Of 12 bytes, the first four hold scales 0..4, the next minima
/// 0..4, each with two bits left for the others, whose low halves are in the last four.
fn six_bits(block: &[u8], group: usize) -> (f32, f32) {
    let (d, dmin) = (scale(block[0], block[1]), scale(block[2], block[3]));
    let packed = &block[4..16];
    let (of_scale, of_minimum) = (packed[group % 4], packed[4 + group % 4]);
    let (number, minimum) = match group {
        0..4 => (of_scale & 63, of_minimum & 63),
        _ => {
            let low = packed[4 + group];
            (
                low & 15 | of_scale >> 6 << 4,
                low >> 4 | of_minimum >> 6 << 4,
            )
        }
    };
    (d * f32::from(number), dmin * f32::from(minimum))
}

/// The four low bits of 256 numbers, the two high ones, 16 signed scales of 8 bits, d. Numbers are
/// 32 too high.
pub(super) fn q6_k(from: &[u8; 210], to: &mut [f32; NUMBERS]) {
    let (low, rest) = from.split_at(128);
    let (high, rest) = rest.split_at(64);
    let (scales, d) = rest.split_at(16);
    let d = scale(d[0], d[1]);
    for (i, to) in to.iter_mut().enumerate() {
        // 128 numbers lie in 64 low bytes (the first 64 in the low halves) and 32 high ones.
        let (half, j) = (i / 128, i % 128);
        let low = low[half * 64 + j % 64] >> (j / 64 * 4) & 15;
        let high = high[half * 32 + j % 32] >> (j / 32 * 2) & 3;
        let number = f32::from(low | high << 4) - 32.0;
        *to = d * f32::from(scales[i / 16].cast_signed()) * number;
    }
}

/// d, 8 scales of 6 bits that are 32 too high (two bits each in two bytes, four in four), and 256
/// numbers as 8 blocks of 4-bit ones.
pub(super) fn iq4_xs(from: &[u8; 136], to: &mut [f32; NUMBERS]) {
    let d = scale(from[0], from[1]);
    let (top, low, numbers) = (&from[2..4], &from[4..8], &from[8..]);
    for (i, to) in to.iter_mut().enumerate() {
        let of = i / 32;
        let low = low[of / 2] >> (of % 2 * 4) & 15;
        let top = top[of / 4] >> (of % 4 * 2) & 3;
        let group = f32::from(low | top << 4) - 32.0;
        *to = d * group * unequal(&numbers[16 * of..], i % 32);
    }
}

#[cfg(test)]
mod tests {
    use crate::weights::encoding::Encoding;

    /// Blocks of every quantised type, to the bit as read by the gguf package (`make_quants.py`).
    #[test]
    fn blocks_hold_the_numbers_that_ggml_reads() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/quants.json");
        let fixture: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let quantized = Encoding::all().filter(|e| e.is_quantized());
        for encoding in quantized {
            let case = &fixture[encoding.label()];
            let hex = case["bytes"].as_str().unwrap();
            let digits = (0..hex.len()).step_by(2);
            let bytes: Vec<u8> = digits
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                .collect();
            let expected: Vec<f64> = case["numbers"]
                .as_array()
                .unwrap()
                .iter()
                .map(|number| number.as_f64().unwrap())
                .collect();
            let count = expected.len();
            assert_eq!(count, 3 * encoding.block_numbers());
            for (skip, len) in [
                (0, count),
                (1, count - 1),
                (40, 300.min(count - 40)),
                (0, 7),
            ] {
                let mut out = vec![f32::NAN; len];
                encoding.decode(&bytes, skip, &mut out);
                for (i, (ours, theirs)) in out.iter().zip(&expected[skip..]).enumerate() {
                    assert_eq!(f64::from(*ours), *theirs, "{encoding:?} {}", skip + i);
                }
            }
        }
    }
}
