//! Against the definition, from the bytes of a file and to the bit, for every instruction set that this
//! machine has; and against f64, within what rounding x may cost.

mod extremes;

use plimsoll_planner::{BlockFormat, Dtype};

use super::super::super::{Input, LinearShape, Products, Weight, run, scratch_bytes};
use super::super::tests::ggml::{Part, columns, cut, parts_of, random_blocks};
use super::super::{GROUP, StoredBlocks, block_bytes, pack_blocks};
use crate::isa::{Dots, Isa};
use crate::pool::Pool;
use crate::testing::{Random, assert_close};

/// Every format by either width of x.
fn all() -> impl Iterator<Item = (BlockFormat, Products)> {
    let ways = [Products::Int8, Products::Int16];
    ways.into_iter()
        .flat_map(|way| BlockFormat::ALL.map(|format| (format, way)))
}

/// The largest |q|.
fn most(products: Products) -> f32 {
    match products {
        Products::Int8 => 127.0,
        Products::Int16 => 32_639.0,
        Products::Exact => unreachable!("no integers"),
    }
}

/// s and q of 32 numbers of x.
fn quantised(x: &[f32], most: f32) -> (f32, Vec<i64>) {
    let largest = x.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
    if x.iter().any(|x| !x.is_finite()) {
        return (f32::NAN, vec![0; GROUP]);
    }
    if largest < most * 2f32.powi(-126) {
        return (0.0, vec![0; GROUP]);
    }
    let scale = largest / most;
    let inverse = 1.0 / scale;
    #[expect(clippy::cast_possible_truncation, reason = "integers of 16 bits")]
    let numbers = x.iter().map(|x| (x * inverse).round_ties_even() as i64);
    (scale, numbers.collect())
}

/// Rows of a file's blocks, or some columns of them.
struct Case {
    shape: LinearShape,
    /// `[rows][groups]` of parts
    rows: Vec<Vec<Vec<Part>>>,
    packed: Vec<u8>,
    bias: Vec<f32>,
}

impl Case {
    /// Columns that begin anywhere, of blocks of any bits.
    fn new(
        (format, products): (BlockFormat, Products),
        rows: usize,
        cols: usize,
        random: &mut Random,
    ) -> Case {
        let cut = cut(format, cols, random);
        let stored = random_blocks(format, rows * cut.blocks, random);
        let shape = LinearShape {
            skipped: cut.skipped,
            products,
            ..LinearShape::stored(rows, cols, Dtype::BFloat16, format)
        };
        Case::of(shape, cut.first, &stored, random)
    }

    /// The columns from `first` on of rows of whole blocks.
    fn of(shape: LinearShape, first: usize, stored: &[u8], random: &mut Random) -> Case {
        let (rows, format) = (shape.rows, shape.blocks.unwrap());
        let row_bytes = stored.len().checked_div(rows).unwrap_or(0);
        let mut packed = vec![0xFF; shape.packed_bytes()];
        let source = StoredBlocks {
            bytes: stored,
            rows,
            row_bytes,
            first_block: first / columns(format),
        };
        pack_blocks(&mut packed, &shape, 0, source);
        let row = |row: usize| {
            let blocks = stored[row * row_bytes..][..row_bytes].chunks_exact(block_bytes(format));
            let mut groups: Vec<Vec<Part>> = vec![Vec::new()];
            for part in blocks.flat_map(|block| parts_of(format, block)) {
                let filled = |group: &Vec<Part>| group.len() * part.integers.len() == GROUP;
                if groups.last().is_some_and(filled) {
                    groups.push(Vec::new());
                }
                groups.last_mut().unwrap().push(part);
            }
            let groups = groups.into_iter().skip(first / GROUP);
            groups.take(shape.cols / GROUP).collect()
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
            let x = x.chunks_exact(GROUP);
            let x: Vec<_> = x.map(|x| quantised(x, most(self.shape.products))).collect();
            for (row, bias_of_row) in self.rows.iter().zip(&self.bias) {
                let mut sum = 0.0_f32;
                for (parts, (scale, numbers)) in row.iter().zip(&x) {
                    sum = scale.mul_add(of_group(parts, numbers), sum);
                }
                out.push(if bias { sum + bias_of_row } else { sum });
            }
        }
        out
    }
}

/// Before it is scaled by x's s.
fn of_group(parts: &[Part], numbers: &[i64]) -> f32 {
    let q = numbers.chunks_exact(GROUP / parts.len());
    let mut value = None;
    for (part, q) in parts.iter().zip(q.clone()) {
        let products = part.integers.iter().zip(q);
        let sum: i64 = products.map(|(w, q)| i64::from(*w) * q).sum();
        let sum = i32::try_from(sum).expect("32 bits") as f32;
        value = Some(value.map_or(part.d * sum, |value| part.d.mul_add(sum, value)));
    }
    let mut value = value.unwrap();
    for (part, q) in parts.iter().zip(q) {
        if let Some(m) = part.m {
            value = m.mul_add(q.iter().sum::<i64>() as f32, value);
        }
    }
    value
}

fn bits(values: &[f32]) -> Vec<u32> {
    // One NaN is as good as another.
    let one = |value: &f32| if value.is_nan() { f32::NAN } else { *value };
    values.iter().map(|value| one(value).to_bits()).collect()
}

/// In any batch: a row has the bits of the definition, which knows no other rows.
#[test]
fn products_are_those_of_the_definition_on_every_instruction_set() {
    let mut random = Random::new(31);
    for (rows, cols) in [
        (1, 32),
        (16, 64),
        (17, 288),
        (83, 576),
        (20, 1632),
        (33, 0),
        (0, 64),
    ] {
        for way in all() {
            let case = Case::new(way, rows, cols, &mut random);
            for tokens in [1, 2, 3, 4, 5, 8, 9, 12, 13, 31] {
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
                    assert!(got == wanted, "{isa} {way:?} {tokens} x {cols} x {rows}");
                }
            }
        }
    }
}

/// Several chunks of tokens and of panels.
#[test]
fn products_larger_than_a_chunk_are_whole() {
    let mut random = Random::new(32);
    for way in all() {
        let case = Case::new(way, 70, 8192, &mut random);
        let data = random.values(70 * 8192);
        let x = Input::dense(&data, 70, 8192);
        let wanted = bits(&case.defined(x, true));
        for isa in Isa::available().into_iter().skip(1) {
            let got = bits(&case.run(isa, 2, x, true));
            assert!(got == wanted, "{isa} {way:?}");
        }
    }
}

/// What a wrong zero, minimum or scale would break, however all paths agree on it.
#[test]
fn products_err_by_no_more_than_the_rounding_of_x() {
    let mut random = Random::new(33);
    for way in all() {
        let (rows, cols, tokens) = (40, 320, 9);
        let case = Case::new(way, rows, cols, &mut random);
        // Every group of a size of its own, and a mean that is not zero.
        let mut data: Vec<f32> = random.values(tokens * cols);
        for (at, group) in data.chunks_exact_mut(GROUP).enumerate() {
            let size = 2f32.powi(i32::try_from(at % 7).unwrap() - 3);
            group.iter_mut().for_each(|x| *x = (*x + 0.25) * size);
        }
        let half_a_step = 0.5 / f64::from(most(way.1));
        let (mut exact, mut bounds) = (Vec::new(), Vec::new());
        for x in data.chunks_exact(cols) {
            for row in &case.rows {
                let (mut sum, mut bound) = (0.0, 0.0);
                for (parts, x) in row.iter().zip(x.chunks_exact(GROUP)) {
                    let largest = x.iter().fold(0.0, |a: f32, x| a.max(x.abs()));
                    let half = f64::from(largest) * half_a_step;
                    let weights = parts.iter().flat_map(|part| {
                        let m = f64::from(part.m.unwrap_or_default());
                        let d = f64::from(part.d);
                        part.integers.iter().map(move |w| (d * f64::from(*w), m))
                    });
                    for ((product, m), x) in weights.zip(x) {
                        let x = f64::from(*x);
                        sum += (product + m) * x;
                        let rounding = (product.abs() + m.abs()) * f64::from(largest) * 1e-6;
                        bound += (product + m).abs() * half + rounding;
                    }
                }
                exact.push(sum);
                bounds.push(bound);
            }
        }
        let got = case.run(Isa::detect(), 1, Input::dense(&data, tokens, cols), false);
        assert_close(&got, &exact, |at| bounds[at], &format!("{way:?}"));
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
    for isa in [Isa::Avx512, Isa::Avx512Bf16] {
        assert_eq!(Dots::of(isa), best, "{isa}");
    }
    let best = match Dots::AmxInt8.is_available() {
        true => Dots::AmxInt8,
        false => best,
    };
    assert_eq!(Dots::of(Isa::Amx), best);
}
