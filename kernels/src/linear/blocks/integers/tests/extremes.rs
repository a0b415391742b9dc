//! The largest sums, the smallest numbers, and what is no number.

use half::f16;

use super::super::super::tests::ggml::halves;
use super::super::{INT16_BYTES, number_of, order_of, quantise};
use super::*;

/// Rows of one block each, every byte but the scales' the same.
fn filled(way: (BlockFormat, Products), scale: f16, random: &mut Random) -> Case {
    const BYTES: [u8; 12] = [
        0, 0xFF, 0x80, 0x7F, 0x0F, 0xF0, 0x3F, 0xC0, 0x55, 0xAA, 0x88, 0x11,
    ];
    let (format, products) = way;
    let mut stored = Vec::new();
    for byte in BYTES {
        let mut block = vec![byte; block_bytes(format)];
        for at in halves(format) {
            block[*at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
        stored.extend(block);
    }
    let shape = LinearShape {
        products,
        ..LinearShape::stored(BYTES.len(), columns(format), Dtype::BFloat16, format)
    };
    Case::of(shape, 0, &stored, random)
}

/// Every product as far from zero as it comes, and every byte of q as well: both planes' ±127, and the
/// low one's -128 (which 128 has).
#[test]
fn the_largest_sums_are_exact() {
    let mut random = Random::new(36);
    for way in all() {
        for scale in [f16::ONE, f16::MAX, f16::MIN, f16::from_bits(1)] {
            let case = filled(way, scale, &mut random);
            let most = most(way.1);
            let patterns: [fn(usize, f32) -> f32; 6] = [
                |_, most| most,
                |_, most| -most,
                |at, most| if at % 2 == 0 { most } else { -most },
                |at, most| if at % 32 == 7 { most } else { 128.0 },
                |at, most| if at % 32 == 9 { -most } else { -128.0 },
                |at, most| if at % 16 < 8 { most } else { -most },
            ];
            let x = patterns.map(|of| (0..case.shape.cols).map(move |at| of(at, most)));
            let data: Vec<f32> = x.into_iter().flatten().collect();
            for tokens in [1, 6] {
                let data = &data[(6 - tokens) * case.shape.cols..];
                let x = Input::dense(data, tokens, case.shape.cols);
                let wanted = case.defined(x, false);
                assert!(wanted.iter().all(|value| value.is_finite()), "{way:?}");
                for isa in Isa::available() {
                    let got = bits(&case.run(isa, 1, x, false));
                    assert!(got == bits(&wanted), "{isa} {way:?} {scale} {tokens}");
                }
            }
        }
    }
}

/// Of 16 bits: its planes are put together again.
#[test]
fn every_number_of_16_bits_is_kept() {
    let all: Vec<i32> = (-32_639..=32_639).collect();
    let mut x = Vec::new();
    for q in all.chunks(GROUP - 1) {
        let mut group = [0.0; GROUP];
        group[GROUP - 1] = 32_639.0;
        for (x, q) in group.iter_mut().zip(q) {
            *x = *q as f32;
        }
        x.extend(group);
    }
    for isa in Isa::available() {
        let pool = Pool::new(1, isa).unwrap();
        for format in [BlockFormat::Q4_0, BlockFormat::Q8_0] {
            let order = order_of(format);
            let mut scratch = vec![0xFF; x.len() / GROUP * INT16_BYTES];
            let input = Input::dense(&x, 1, x.len());
            let groups = quantise::run::<INT16_BYTES>(&pool, input, x.len(), order, &mut scratch);
            for (group, x) in groups.iter().zip(x.chunks_exact(GROUP)) {
                for (col, x) in x.iter().enumerate() {
                    let q = number_of(group, order.place(col));
                    assert_eq!(q as f32, *x, "{isa} {format} {col}");
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_in_x_makes_its_own_row_nan_and_no_other() {
    let mut random = Random::new(34);
    for way in all() {
        let case = Case::new(way, 35, 96, &mut random);
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 31, 32, 95] {
                for tokens in [3, 6] {
                    let mut data = random.values(tokens * 96);
                    data[96 + at] = bad;
                    for isa in Isa::available() {
                        let out = case.run(isa, 1, Input::dense(&data, tokens, 96), true);
                        let what = format!("{isa} {way:?} {bad} at {at}");
                        for (token, row) in out.chunks_exact(35).enumerate() {
                            let is_bad = row.iter().map(|value| value.is_nan());
                            assert!(is_bad.into_iter().all(|bad| bad == (token == 1)), "{what}");
                        }
                    }
                }
            }
        }
    }
}

/// Files with such scales are refused; memory that turned so is not hidden.
#[test]
fn what_is_not_finite_in_scales_is_what_the_definition_says() {
    let mut random = Random::new(37);
    for way in all() {
        for scale in [f16::NAN, f16::INFINITY, f16::NEG_INFINITY] {
            let case = filled(way, scale, &mut random);
            let cols = case.shape.cols;
            let mut data = random.values(6 * cols);
            data[..cols].fill(0.0);
            let x = Input::dense(&data, 6, cols);
            let wanted = case.defined(x, true);
            assert!(
                wanted.iter().all(|value| !value.is_finite()),
                "{way:?} {scale}"
            );
            for isa in Isa::available() {
                let got = bits(&case.run(isa, 1, x, true));
                assert!(got == bits(&wanted), "{isa} {way:?} {scale}");
                let alone = bits(&case.run(isa, 1, Input::dense(&data, 1, cols), true));
                assert!(alone == got[..alone.len()], "{isa} {way:?} {scale}");
            }
        }
    }
}

#[test]
fn zeros_subnormals_and_the_largest_numbers_are_what_the_definition_says() {
    let mut random = Random::new(35);
    for way in all() {
        let case = Case::new(way, 20, 64, &mut random);
        let smallest = most(way.1) * f32::MIN_POSITIVE;
        for size in [
            0.0,
            1e-45,
            1e-39,
            smallest * 0.99,
            smallest * 1.5,
            1e-20,
            1e20,
            1e38,
            f32::MAX,
        ] {
            let data: Vec<f32> = (0..64).map(|_| random.value() * size).collect();
            let x = Input::dense(&data, 1, 64);
            let wanted = case.defined(x, true);
            if size < smallest {
                assert_eq!(wanted, case.bias, "{size} counts as zero");
            }
            if size <= 1e20 {
                assert!(wanted.iter().all(|value| value.is_finite()), "{size}");
            }
            for isa in Isa::available() {
                let got = case.run(isa, 1, x, true);
                assert_eq!(bits(&got), bits(&wanted), "{isa} {way:?} {size}");
            }
        }
    }
}
