//! Against f64 over awkward sizes, for every instruction set that this machine has.

use half::{bf16, f16};

use super::*;
use crate::isa::Isa;
use crate::testing::{Random, assert_close};

fn rounded(dtype: Dtype, value: f32) -> f64 {
    f64::from(match dtype {
        Dtype::Float32 => value,
        Dtype::BFloat16 => bf16::from_f32(value).to_f32(),
        Dtype::Float16 => f16::from_f32(value).to_f32(),
    })
}

struct Case {
    shape: LinearShape,
    weights: Vec<f32>,
    packed: Vec<u8>,
    bias: Vec<f32>,
}

impl Case {
    fn new(rows: usize, cols: usize, dtype: Dtype, random: &mut Random) -> Case {
        let shape = LinearShape::dense(rows, cols, dtype);
        let weights = random.values(rows * cols);
        let mut packed = vec![0xFF; shape.packed_bytes()];
        // In two parts, the second first.
        let cut = rows / 3;
        pack_rows(&mut packed, &shape, cut, &weights[cut * cols..]);
        pack_rows(&mut packed, &shape, 0, &weights[..cut * cols]);
        Case {
            shape,
            weights,
            packed,
            bias: random.values(rows),
        }
    }

    fn run(&self, pool: &Pool, x: Input<'_>, bias: bool) -> Vec<f32> {
        let mut out = vec![f32::NAN; x.tokens * self.shape.rows];
        let mut scratch = vec![0xFF; scratch_bytes(x.tokens, &self.shape)];
        let bias = bias.then_some(&self.bias[..]);
        let weight = Weight {
            shape: self.shape,
            packed: &self.packed,
            bias,
        };
        run(pool, x, &weight, &mut out, &mut scratch);
        out
    }

    /// Exact results for rounded inputs, and the error that f32 sums may have.
    fn exact(&self, x: Input<'_>, bias: bool) -> (Vec<f64>, Vec<f64>) {
        let LinearShape {
            rows, cols, dtype, ..
        } = self.shape;
        let x_dtype = if dtype == Dtype::BFloat16 {
            dtype
        } else {
            Dtype::Float32
        };
        let (mut sums, mut bounds) = (Vec::new(), Vec::new());
        for token in 0..x.tokens {
            for row in 0..rows {
                let start = if bias { f64::from(self.bias[row]) } else { 0.0 };
                let (mut sum, mut size) = (start, start.abs());
                for col in 0..cols {
                    let product = rounded(x_dtype, x.data[token * x.stride + col])
                        * rounded(dtype, self.weights[row * cols + col]);
                    sum += product;
                    size += product.abs();
                }
                sums.push(sum);
                // One rounding of at most 2^-24 of the running size per addition.
                bounds.push(size * (cols as f64 + 2.0) * 2f64.powi(-24) + 1e-30);
            }
        }
        (sums, bounds)
    }
}

/// Any cut into parts, whole panels or not, leaves the bytes of [`pack_rows`].
#[test]
fn numbers_that_are_stored_are_packed_as_values_are() {
    let mut random = Random::new(11);
    for dtype in [Dtype::Float32, Dtype::BFloat16, Dtype::Float16] {
        for (rows, cols) in [(1, 1), (16, 32), (17, 33), (35, 7), (48, 64), (64, 130)] {
            let shape = LinearShape::dense(rows, cols, dtype);
            let width = crate::encoding::bytes_of(dtype);
            let values = random.values(rows * cols);
            let mut stored = vec![0; values.len() * width];
            for (i, value) in values.iter().enumerate() {
                crate::encoding::store(dtype, &mut stored, i * width, *value);
            }
            let mut expected = vec![0xFF; shape.packed_bytes()];
            pack_rows(&mut expected, &shape, 0, &values);
            for cut in [0, 1, rows / 2, rows.saturating_sub(16), rows] {
                let mut packed = vec![0xFF; shape.packed_bytes()];
                let (front, back) = stored.split_at(cut * cols * width);
                pack_stored(&mut packed, &shape, cut, back);
                pack_stored(&mut packed, &shape, 0, front);
                assert_eq!(packed, expected, "{dtype} {rows} x {cols} cut at {cut}");
            }
        }
    }
}

#[test]
fn products_are_exact_up_to_the_rounding_of_f32_sums() {
    let mut random = Random::new(1);
    for (rows, cols) in [
        (1, 1),
        (31, 33),
        (33, 31),
        (16, 32),
        (97, 101),
        (2051, 7),
        (48, 576),
    ] {
        for dtype in [Dtype::Float32, Dtype::BFloat16, Dtype::Float16] {
            let case = Case::new(rows, cols, dtype, &mut random);
            for tokens in [1, 2, 3, 7, 15, 16, 17, 31, 33, 50] {
                let stride = cols + tokens % 3;
                let data = random.values(tokens * stride);
                let x = Input {
                    data: &data,
                    tokens,
                    stride,
                };
                let bias = tokens % 2 == 1;
                let (exact, bounds) = case.exact(x, bias);
                for isa in Isa::available() {
                    let pool = Pool::new(1 + tokens % 3, isa).unwrap();
                    let out = case.run(&pool, x, bias);
                    let what = format!("{isa} {dtype} {tokens} x {cols} x {rows}");
                    assert_close(&out, &exact, |at| bounds[at], &what);
                }
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_in_any_batch() {
    let mut random = Random::new(2);
    let (rows, cols, tokens) = (83, 165, 45);
    for dtype in [Dtype::Float32, Dtype::BFloat16, Dtype::Float16] {
        let case = Case::new(rows, cols, dtype, &mut random);
        let data = random.values(tokens * cols);
        for isa in Isa::available() {
            let pool = Pool::new(2, isa).unwrap();
            let whole = case.run(&pool, Input::dense(&data, tokens, cols), true);
            for count in [1, 2, 5, 13, 17] {
                let first = random.below(tokens - count + 1);
                let part = &data[first * cols..][..count * cols];
                let alone = case.run(&pool, Input::dense(part, count, cols), true);
                assert_eq!(
                    alone,
                    whole[first * rows..][..count * rows],
                    "{isa} {dtype} {count}"
                );
            }
        }
    }
}

#[test]
fn f32_and_f16_give_the_same_bits_on_every_fused_instruction_set() {
    let mut random = Random::new(3);
    for dtype in [Dtype::Float32, Dtype::Float16] {
        let case = Case::new(65, 129, dtype, &mut random);
        let data = random.values(11 * 129);
        let x = Input::dense(&data, 11, 129);
        let run = |isa| case.run(&Pool::new(1, isa).unwrap(), x, false);
        let fused: Vec<Isa> = Isa::available()
            .into_iter()
            .filter(|i| *i > Isa::Scalar)
            .collect();
        assert!(
            fused.windows(2).all(|pair| run(pair[0]) == run(pair[1])),
            "{dtype}"
        );
    }
}

#[test]
fn products_larger_than_a_chunk_are_whole() {
    // Several token blocks and many chunks: x is over 1 MiB, the weight over 64 KiB.
    let mut random = Random::new(4);
    let (rows, cols, tokens) = (40, 4099, 150);
    for dtype in [Dtype::Float32, Dtype::BFloat16] {
        let case = Case::new(rows, cols, dtype, &mut random);
        let data = random.values(tokens * cols);
        let x = Input::dense(&data, tokens, cols);
        let (exact, bounds) = case.exact(x, false);
        for isa in Isa::available().into_iter().skip(1) {
            let out = case.run(&Pool::new(2, isa).unwrap(), x, false);
            assert_close(&out, &exact, |at| bounds[at], isa.name());
        }
    }
}

#[test]
fn no_columns_give_the_bias_and_no_rows_nothing() {
    for isa in Isa::available() {
        for dtype in [Dtype::Float32, Dtype::BFloat16, Dtype::Float16] {
            let pool = Pool::new(2, isa).unwrap();
            let case = Case {
                shape: LinearShape::dense(19, 0, dtype),
                weights: vec![],
                packed: vec![],
                bias: vec![0.5; 19],
            };
            let x = Input {
                data: &[],
                tokens: 3,
                stride: 0,
            };
            assert_eq!(case.run(&pool, x, true), vec![0.5; 57]);
            let shape = LinearShape::dense(0, 5, dtype);
            let case = Case {
                shape,
                weights: vec![],
                packed: vec![],
                bias: vec![],
            };
            assert!(
                case.run(&pool, Input::dense(&[1.0; 10], 2, 5), false)
                    .is_empty()
            );
        }
    }
}

#[test]
fn products_beside_each_other_are_those_of_each_alone() {
    let mut random = Random::new(9);
    for dtype in [Dtype::Float32, Dtype::BFloat16, Dtype::Float16] {
        let cases = [40, 16, 7].map(|rows| Case::new(rows, 35, dtype, &mut random));
        for (tokens, isa) in [1, 3, 33]
            .into_iter()
            .flat_map(|t| Isa::available().into_iter().map(move |i| (t, i)))
        {
            let (pool, data) = (Pool::new(2, isa).unwrap(), random.values(tokens * 35));
            let x = Input::dense(&data, tokens, 35);
            let (mut out, mut first, stride) = (vec![f32::NAN; tokens * 64], 0, 64);
            let mut alone = Vec::new();
            for case in &cases {
                let mut scratch = vec![0xFF; scratch_bytes(tokens, &case.shape)];
                let weight = Weight {
                    shape: case.shape,
                    packed: &case.packed,
                    bias: Some(&case.bias),
                };
                run_into(
                    &pool,
                    x,
                    &weight,
                    (&mut out, Columns { first, stride }),
                    &mut scratch,
                );
                alone.push(case.run(&pool, x, true));
                first += case.shape.rows;
            }
            for (token, row) in out.chunks_exact(stride).enumerate() {
                let parts = cases.iter().zip(&alone);
                let expected: Vec<f32> = parts
                    .flat_map(|(case, all)| all.chunks_exact(case.shape.rows).nth(token).unwrap())
                    .copied()
                    .collect();
                assert_eq!(row[..63], expected, "{isa} {dtype} {tokens}");
                assert!(row[63].is_nan(), "{isa} {dtype}: a column of none");
            }
        }
    }
}

#[test]
fn not_a_number_in_x_reaches_the_output() {
    let mut random = Random::new(5);
    for dtype in [Dtype::Float32, Dtype::BFloat16, Dtype::Float16] {
        let case = Case::new(18, 40, dtype, &mut random);
        let mut data = random.values(2 * 40);
        data[41] = f32::from_bits(u32::MAX);
        for isa in Isa::available() {
            let out = case.run(
                &Pool::new(1, isa).unwrap(),
                Input::dense(&data, 2, 40),
                false,
            );
            assert!(
                out[..18].iter().all(|value| value.is_finite()),
                "{isa} {dtype}"
            );
            assert!(
                out[18..].iter().all(|value| value.is_nan()),
                "{isa} {dtype}"
            );
        }
    }
}

#[test]
fn packing_keeps_every_number_and_pads_with_zeros() {
    let mut random = Random::new(6);
    for dtype in [Dtype::Float32, Dtype::BFloat16, Dtype::Float16] {
        let case = Case::new(33, 35, dtype, &mut random);
        assert_eq!(
            case.shape.packed_bytes(),
            48 * 64 * encoding::bytes_of(dtype)
        );
        let mut row = vec![0.0; 35];
        for r in 0..33 {
            unpack_row(&case.packed, &case.shape, r, &mut row);
            for (c, value) in row.iter().enumerate() {
                assert_eq!(f64::from(*value), rounded(dtype, case.weights[r * 35 + c]));
            }
        }
        let sum: f64 = (0..48)
            .flat_map(|r| (0..64).map(move |c| (r, c)))
            .filter(|(r, c)| *r >= 33 || *c >= 35)
            .map(|(r, c)| {
                f64::from(encoding::load(dtype, &case.packed, case.shape.offset(r, c)).abs())
            })
            .sum();
        assert_eq!(sum, 0.0);
    }
}
