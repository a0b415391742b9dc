//! Against the definition, from the bytes of a file and to the bit, for every instruction set that this
//! machine has; and against f64, within what rounding x to 8 bits may cost.

use half::f16;
use plimsoll_planner::{BlockFormat, Dtype};

use super::super::super::{Input, LinearShape, Products, Weight, run, scratch_bytes};
use super::super::{GROUP, Short, StoredBlocks, block_bytes, pack_blocks};
use crate::isa::{Dots, Isa};
use crate::pool::Pool;
use crate::testing::{Random, assert_close};

fn formats() -> impl Iterator<Item = BlockFormat> {
    BlockFormat::ALL
        .into_iter()
        .filter(|format| format.has_int8())
}

#[test]
fn the_planner_knows_which_formats_have_products_by_integers() {
    for format in BlockFormat::ALL {
        assert_eq!(Short::of(format).is_some(), format.has_int8(), "{format}");
    }
}

/// A block of a file: d, m, and integers with their sign.
struct Block {
    d: f32,
    m: Option<f32>,
    integers: [i32; GROUP],
}

impl Block {
    fn read(format: BlockFormat, bytes: &[u8]) -> Block {
        let half = |at: usize| f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32();
        let nibble = |first: usize, i: usize| i32::from(bytes[first + i % 16] >> (i / 16 * 4) & 15);
        let Some(short) = Short::of(format) else {
            panic!("{format} has no integer products")
        };
        let (m, integers) = match short {
            Short::Q4_0 => (None, std::array::from_fn(|i| nibble(2, i) - 8)),
            Short::Q4_1 => (Some(half(2)), std::array::from_fn(|i| nibble(4, i))),
            Short::Q8_0 => {
                let integers = std::array::from_fn(|i| i32::from(bytes[2 + i].cast_signed()));
                (None, integers)
            }
        };
        let d = half(0);
        Block { d, m, integers }
    }
}

/// s and q of 32 numbers of x.
fn quantised(x: &[f32]) -> (f32, Vec<i32>) {
    let largest = x.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
    if x.iter().any(|x| !x.is_finite()) {
        return (f32::NAN, vec![0; GROUP]);
    }
    // 127 times the smallest normal number.
    if largest < 127.0 * 2f32.powi(-126) {
        return (0.0, vec![0; GROUP]);
    }
    let scale = largest / 127.0;
    let inverse = 1.0 / scale;
    #[expect(clippy::cast_possible_truncation, reason = "integers within 127")]
    let numbers = x.iter().map(|x| (x * inverse).round_ties_even() as i32);
    (scale, numbers.collect())
}

struct Case {
    shape: LinearShape,
    /// `[rows]` of blocks
    rows: Vec<Vec<Block>>,
    packed: Vec<u8>,
    bias: Vec<f32>,
}

impl Case {
    fn new(format: BlockFormat, rows: usize, cols: usize, random: &mut Random) -> Case {
        let bytes = block_bytes(format);
        let mut stored: Vec<u8> = (0..rows * cols / GROUP * bytes)
            .map(|_| random.word().to_le_bytes()[3])
            .collect();
        for block in stored.chunks_exact_mut(bytes) {
            for half in block[..super::head_bytes(format) / 16].chunks_exact_mut(2) {
                half.copy_from_slice(&f16::from_f32(random.value() / 8.0).to_le_bytes());
            }
        }
        let shape = LinearShape {
            blocks: Some(format),
            products: Products::Int8,
            ..LinearShape::dense(rows, cols, Dtype::BFloat16)
        };
        let mut packed = vec![0xFF; shape.packed_bytes()];
        let source = StoredBlocks {
            bytes: &stored,
            rows,
            row_bytes: cols / GROUP * bytes,
            first_block: 0,
        };
        pack_blocks(&mut packed, &shape, 0, source);
        let row = |row: usize| {
            let bytes_of_row = &stored[row * cols / GROUP * bytes..][..cols / GROUP * bytes];
            let blocks = bytes_of_row.chunks_exact(bytes);
            blocks.map(|block| Block::read(format, block)).collect()
        };
        Case {
            shape,
            rows: (0..rows).map(row).collect(),
            packed,
            bias: random.values(rows),
        }
    }

    fn run(&self, isa: Isa, threads: usize, x: Input<'_>, bias: bool) -> Vec<f32> {
        let mut out = vec![f32::MAX; x.tokens * self.shape.rows];
        let mut scratch = vec![0xFF; scratch_bytes(x.tokens, &self.shape)];
        let weight = Weight {
            shape: self.shape,
            packed: &self.packed,
            bias: bias.then_some(&self.bias[..]),
        };
        let pool = Pool::new(threads, isa).unwrap();
        run(&pool, x, &weight, &mut out, &mut scratch);
        out
    }

    fn defined(&self, x: Input<'_>, bias: bool) -> Vec<f32> {
        let mut out = Vec::new();
        for token in 0..x.tokens {
            let x = &x.data[token * x.stride..][..self.shape.cols];
            let x: Vec<_> = x.chunks_exact(GROUP).map(quantised).collect();
            for (row, bias_of_row) in self.rows.iter().zip(&self.bias) {
                let mut sum = 0.0_f32;
                for (block, (scale, numbers)) in row.iter().zip(&x) {
                    let products = block.integers.iter().zip(numbers).map(|(w, q)| w * q);
                    let dot: i32 = products.sum();
                    sum = (block.d * scale).mul_add(dot as f32, sum);
                    if let Some(m) = block.m {
                        let all: i32 = numbers.iter().sum();
                        sum = (m * scale).mul_add(all as f32, sum);
                    }
                }
                out.push(if bias { sum + bias_of_row } else { sum });
            }
        }
        out
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    // One NaN is as good as another.
    let one = |value: &f32| if value.is_nan() { f32::NAN } else { *value };
    values.iter().map(|value| one(value).to_bits()).collect()
}

#[test]
fn products_are_those_of_the_definition_on_every_instruction_set() {
    let mut random = Random::new(31);
    for (rows, cols) in [
        (1, 32),
        (16, 64),
        (17, 288),
        (83, 576),
        (200, 96),
        (33, 0),
        (0, 64),
    ] {
        for format in formats() {
            let case = Case::new(format, rows, cols, &mut random);
            for tokens in [1, 2, 3, 4, 5, 7, 8, 11, 12, 13, 24, 31, 50] {
                let stride = cols + tokens % 3;
                let data = random.values(tokens * stride);
                let x = Input {
                    data: &data,
                    tokens,
                    stride,
                };
                let bias = tokens % 2 == 1;
                let wanted = bits(&case.defined(x, bias));
                for isa in Isa::available() {
                    let got = bits(&case.run(isa, 1 + tokens % 3, x, bias));
                    assert!(got == wanted, "{isa} {format} {tokens} x {cols} x {rows}");
                }
            }
        }
    }
}

/// Several chunks of tokens and of panels.
#[test]
fn products_larger_than_a_chunk_are_whole() {
    let mut random = Random::new(32);
    for format in formats() {
        let case = Case::new(format, 70, 8192, &mut random);
        let data = random.values(70 * 8192);
        let x = Input::dense(&data, 70, 8192);
        let wanted = bits(&case.defined(x, true));
        for isa in Isa::available().into_iter().skip(1) {
            let got = bits(&case.run(isa, 2, x, true));
            assert!(got == wanted, "{isa} {format}");
        }
    }
}

/// What a wrong zero point, minimum or scale would break, however all paths agree on it.
#[test]
fn products_err_by_no_more_than_the_rounding_of_x() {
    let mut random = Random::new(33);
    for format in formats() {
        let (rows, cols, tokens) = (40, 320, 9);
        let case = Case::new(format, rows, cols, &mut random);
        // Every group of a size of its own, and a mean that is not zero.
        let mut data: Vec<f32> = random.values(tokens * cols);
        for (at, group) in data.chunks_exact_mut(GROUP).enumerate() {
            let size = 2f32.powi(i32::try_from(at % 7).unwrap() - 3);
            group.iter_mut().for_each(|x| *x = (*x + 0.25) * size);
        }
        let (mut exact, mut bounds) = (Vec::new(), Vec::new());
        for x in data.chunks_exact(cols) {
            for row in &case.rows {
                let (mut sum, mut bound) = (0.0, 0.0);
                for (block, x) in row.iter().zip(x.chunks_exact(GROUP)) {
                    let half = f64::from(x.iter().fold(0.0, |a: f32, x| a.max(x.abs()))) / 254.0;
                    for (w, x) in block.integers.iter().zip(x) {
                        let w = f64::from(block.d) * f64::from(*w)
                            + f64::from(block.m.unwrap_or_default());
                        sum += w * f64::from(*x);
                        bound += w.abs() * half + (w * f64::from(*x)).abs() * 1e-6;
                    }
                }
                exact.push(sum);
                bounds.push(bound);
            }
        }
        let got = case.run(Isa::detect(), 1, Input::dense(&data, tokens, cols), false);
        assert_close(&got, &exact, |at| bounds[at], &format.to_string());
    }
}

#[test]
fn what_is_not_finite_in_x_makes_its_own_row_nan_and_no_other() {
    let mut random = Random::new(34);
    for format in formats() {
        let case = Case::new(format, 35, 96, &mut random);
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 31, 32, 95] {
                let mut data = random.values(3 * 96);
                data[96 + at] = bad;
                for isa in Isa::available() {
                    let out = case.run(isa, 1, Input::dense(&data, 3, 96), true);
                    let finite: Vec<bool> = out.iter().map(|value| value.is_finite()).collect();
                    let what = format!("{isa} {format} {bad} at {at}");
                    assert!(out[35..70].iter().all(|value| value.is_nan()), "{what}");
                    assert!(finite[..35].iter().all(|finite| *finite), "{what}");
                    assert!(finite[70..].iter().all(|finite| *finite), "{what}");
                }
            }
        }
    }
}

#[test]
fn zeros_subnormals_and_the_largest_numbers_are_what_the_definition_says() {
    let mut random = Random::new(35);
    for format in formats() {
        let case = Case::new(format, 20, 64, &mut random);
        for size in [
            0.0,
            1e-45,
            1e-39,
            1.4e-36,
            1.6e-36,
            1e-20,
            1e20,
            1e38,
            f32::MAX,
        ] {
            let data: Vec<f32> = (0..64).map(|_| random.value() * size).collect();
            let x = Input::dense(&data, 1, 64);
            let wanted = case.defined(x, true);
            if size < 1e-36 {
                assert_eq!(wanted, case.bias, "{size} counts as zero");
            }
            if size <= 1e20 {
                assert!(wanted.iter().all(|value| value.is_finite()), "{size}");
            }
            for isa in Isa::available() {
                let got = case.run(isa, 1, x, true);
                assert_eq!(bits(&got), bits(&wanted), "{isa} {format} {size}");
            }
        }
    }
}

#[test]
fn integer_products_go_by_their_own_feature() {
    assert_eq!(Dots::of(Isa::Scalar), Dots::Scalar);
    assert_eq!(Dots::of(Isa::Avx2), Dots::Avx2);
    let best = match Dots::Avx512Vnni.is_available() {
        true => Dots::Avx512Vnni,
        false => Dots::Avx2,
    };
    for isa in [Isa::Avx512, Isa::Avx512Bf16, Isa::Amx] {
        assert_eq!(Dots::of(isa), best, "{isa}");
    }
}
