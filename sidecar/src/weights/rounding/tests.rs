//! What floats are rounded to, and how far from what they were.

use super::*;

/// Numbers of a block with a zero point.
const LONG: usize = 128;

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
    let mut bytes = vec![0xFF; numbers.len() / encoding.block_numbers() * encoding.block_bytes()];
    encode(format, numbers, &mut bytes).unwrap();
    let mut out = vec![f32::NAN; numbers.len()];
    encoding.decode(&bytes, 0, &mut out);
    out
}

/// The scale of 4 bits that gguf-py takes: the number that is farthest from zero is -8.
fn missed_by_the_farthest(group: &[f32]) -> f32 {
    let d = f16::from_f32(largest_of(group) / -8.0);
    error_of(group, d, Zero::MIDDLE)
}

fn missed(format: BlockFormat, numbers: &[f32]) -> f32 {
    let kept = kept(format, numbers);
    let pairs = kept.iter().zip(numbers);
    pairs.map(|(is, was)| (is - was) * (is - was)).sum()
}

/// About as a trained matrix has them: the sum of twelve even ones is nearly normal.
fn normal(seed: u64) -> Vec<f32> {
    let one = |at: usize| (0..12).map(|of| drawn(seed, at * 12 + of)).sum::<f32>();
    (0..LONG).map(|at| 0.02 * one(at)).collect()
}

/// A zero point wins back much of what a scale for four times as many numbers loses.
#[test]
fn long_groups_with_a_zero_point_miss_less_than_without_one_and_more_than_short_groups() {
    let (mut long, mut plain, mut short) = (0.0, 0.0, 0.0);
    for seed in 0..500 {
        let group = normal(seed);
        long += missed(BlockFormat::Z4By128, &group);
        let reaches = REACHES.map(|reach| f16::from_f32(largest_of(&group) / reach));
        let errors = reaches.map(|d| error_of(&group, d, Zero::MIDDLE));
        plain += errors.into_iter().fold(f32::INFINITY, f32::min);
        short += missed(BlockFormat::Q4_0, &group);
    }
    assert!(long < 0.98 * plain, "{long} {plain}");
    assert!(long > 1.1 * short && long < 1.6 * short, "{long} {short}");
}

#[test]
fn groups_of_one_sign_with_an_outlier_or_of_one_number_are_kept_as_well_as_4_bits_can() {
    let format = BlockFormat::Z4By128;
    for value in [0.0, 0.375, -0.375, 60_000.0, -450_000.0] {
        let found = kept(format, &[value; LONG]);
        let most = value.abs() / 1000.0;
        assert!(
            found.iter().all(|is| (is - value).abs() <= most),
            "{value}: {found:?}"
        );
    }
    for sign in [1.0, -1.0] {
        let ramp: Vec<f32> = (0..LONG)
            .map(|at| sign * (1.0 + at as f32 / 127.0))
            .collect();
        for (is, was) in kept(format, &ramp).iter().zip(&ramp) {
            assert!((is - was).abs() < 0.07, "{was} is {is}");
        }
        // All but one are small: the one is near what it was, the others are nothing.
        let mut group = [1e-4; LONG];
        group[77] = sign * 3.0;
        let found = kept(format, &group);
        assert!((found[77] - group[77]).abs() < 0.01, "{}", found[77]);
        assert!(found.iter().filter(|is| **is != 0.0).count() == 1);
    }
    // Less than any scale has.
    let found = kept(format, &[1e-9; LONG]);
    assert!(found.iter().all(|is| is.abs() < 1e-6), "{found:?}");
    // The zero point of what is written is one of 4 bits.
    for seed in 0..300 {
        let group = normal(seed).into_iter().map(|number| number + 0.03);
        let group: Vec<f32> = group.collect();
        let mut block = [0; 68];
        encode(format, &group, &mut block).unwrap();
        let zero = f16::from_le_bytes([block[2], block[3]]).to_f32();
        assert!(
            zero.fract() == 0.0 && (0.0..=15.0).contains(&zero),
            "{zero}"
        );
        assert!(f16::from_le_bytes([block[0], block[1]]).to_f32() > 0.0);
    }
}

/// By hand: d is 1/4 and z is 6, each an f16, and of every 32 numbers the first 16 are in the low halves.
#[test]
fn numbers_that_a_long_block_has_are_kept_where_its_definition_has_them() {
    let q = |at: usize| u8::try_from((at * 7 + at / 16) % 16).unwrap();
    let group: [f32; LONG] = std::array::from_fn(|at| 0.25 * (f32::from(q(at)) - 6.0));
    let mut block = [0xFF; 68];
    assert_eq!(encode(BlockFormat::Z4By128, &group, &mut block), Ok(()));
    let mut expected = vec![0x00, 0x34, 0x00, 0x46];
    for first in (0..LONG).step_by(32) {
        expected.extend((first..first + 16).map(|at| q(at) | q(at + 16) << 4));
    }
    assert_eq!(block.as_slice(), expected);
    assert_eq!(kept(BlockFormat::Z4By128, &group), group);
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
        let missed = missed(BlockFormat::Q4_0, &group);
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
    for format in [BlockFormat::Q8_0, BlockFormat::Q4_0, BlockFormat::Z4By128] {
        let length = Encoding::Blocks(format).block_numbers();
        for (number, is_one) in [
            (f32::NAN, false),
            (f32::INFINITY, false),
            (-BLOCKS_LIMIT, false),
            (BLOCKS_LIMIT.next_down(), true),
            (f32::MIN_POSITIVE, true),
        ] {
            let mut numbers = vec![1e-3; 3 * length];
            numbers[70] = number;
            let mut bytes = vec![0; 3 * Encoding::Blocks(format).block_bytes()];
            let done = encode(format, &numbers, &mut bytes);
            assert_eq!(done.is_ok(), is_one, "{format} {number}");
            if let Err(wrong) = done {
                assert_eq!(wrong.at, 70);
                let told = wrong.refused(format, "lm_head.weight", 7, 32).to_string();
                assert!(told.contains("in row 9 cannot be rounded to "), "{told}");
            }
            let mut out = vec![0.0; 3 * length];
            Encoding::Blocks(format).decode(&bytes, 0, &mut out);
            let is = if is_one { out[70] } else { 0.0 };
            assert!(is.is_finite() && (is - number).abs() < 0.1 * number.abs().max(1.0) || !is_one);
        }
    }
}

#[test]
fn what_floats_are_not_rounded_to_is_refused_and_not_written() {
    for format in BlockFormat::ALL {
        let mut bytes = vec![0xFF; Encoding::Blocks(format).block_bytes()];
        let numbers = vec![0.5; Encoding::Blocks(format).block_numbers()];
        let done = encode(format, &numbers, &mut bytes);
        assert_eq!(done.is_ok(), is_rounded_to(format), "{format}");
        assert_eq!(
            bytes.iter().all(|byte| *byte == 0xFF),
            !is_rounded_to(format)
        );
    }
}

#[test]
fn rows_are_read_some_at_a_time_and_none_is_left_out() {
    let (rows, cols) = (5..5 + 2 * AT_ONCE / 96 + 7, 96);
    let row_of = |row: usize| -> Vec<f32> { (0..cols).map(|at| drawn(row as u64, at)).collect() };
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
