//! Against f64 over awkward sizes, mixed rows against each alone, and what is not named against before.

use super::*;
use crate::isa::Isa;
use crate::testing::Random;

/// Two matrices that share x, of `outputs` columns each, in slots of `largest` rank.
struct Case {
    inputs: usize,
    outputs: [usize; 2],
    largest: usize,
    /// Of each slot and matrix.
    ranks: Vec<u32>,
    numbers: Vec<f32>,
    stride: usize,
    x: Vec<f32>,
    before: Vec<f32>,
}

const TOKENS: usize = 5;

impl Case {
    fn new(inputs: usize, outputs: [usize; 2], largest: usize, ranks: &[u32]) -> Case {
        let mut random = Random::new(inputs as u64 + 1);
        let stride = largest * (2 * inputs + outputs[0] + outputs[1]);
        Case {
            inputs,
            outputs,
            largest,
            ranks: ranks.to_vec(),
            numbers: random.values(stride * ranks.len() / 2),
            stride,
            x: random.values(TOKENS * inputs),
            before: random.values(TOKENS * (outputs[0] + outputs[1])),
        }
    }

    fn together(&self) -> [Factors; 2] {
        let Case {
            inputs, largest, ..
        } = self;
        let (a, [first, second]) = (largest * inputs, self.outputs);
        [
            Factors {
                a: 0,
                b: a,
                columns: 0..first,
                index: 0,
            },
            Factors {
                a: a + largest * first,
                b: 2 * a + largest * first,
                columns: first..first + second,
                index: 1,
            },
        ]
    }

    fn out(&self, pool: &Pool, rows: &[u32], slots: &[u32]) -> Vec<f32> {
        let mut out = self.before.clone();
        let mut products = vec![f32::NAN; rows.len() * 2 * self.largest];
        let data = Data {
            x: &self.x,
            inputs: self.inputs,
            out: &mut out,
            stride: self.outputs[0] + self.outputs[1],
        };
        let all = Slots {
            numbers: &self.numbers,
            stride: self.stride,
            ranks: &self.ranks,
            matrices: 2,
            largest_rank: self.largest,
        };
        let rows = Rows { rows, slots };
        run(pool, rows, &all, &self.together(), data, &mut products);
        out
    }

    /// In f64, and what bounds its roundings in f32.
    fn exact(&self, row: usize, slot: usize, column: usize) -> (f64, f64) {
        let matrix = usize::from(column >= self.outputs[0]);
        let factors = &self.together()[matrix];
        let rank = self.ranks[2 * slot + matrix] as usize;
        let numbers = &self.numbers[slot * self.stride..][..self.stride];
        let x = &self.x[row * self.inputs..][..self.inputs];
        let (mut sum, mut size) = (0.0, 0.0);
        for r in 0..rank {
            let a = &numbers[factors.a + r * self.inputs..][..self.inputs];
            let terms = a.iter().zip(x).map(|(a, x)| f64::from(*a) * f64::from(*x));
            let outputs = factors.columns.len();
            let b = f64::from(numbers[factors.b + r * outputs + column - factors.columns.start]);
            let (dot, sizes) =
                terms.fold((0.0, 0.0), |(dot, size), t: f64| (dot + t, size + t.abs()));
            sum += b * dot;
            size += b.abs() * sizes;
        }
        let before = f64::from(self.before[row * (self.outputs[0] + self.outputs[1]) + column]);
        (before + sum, before.abs() + size)
    }
}

#[test]
#[expect(clippy::cast_precision_loss, reason = "small counts")]
fn products_are_within_f32_rounding_and_rows_without_a_slot_keep_their_bits() {
    for (inputs, outputs, largest) in [
        (1, [1, 2], 1),
        (31, [16, 33], 3),
        (64, [600, 64], 16),
        (33, [0, 130], 7),
        (1000, [65, 513], 5),
    ] {
        let rank = u32::try_from(largest).unwrap();
        // The second slot changes one matrix alone, by a smaller rank.
        let case = Case::new(inputs, outputs, largest, &[rank, rank, 0, rank.div_ceil(2)]);
        for isa in Isa::available() {
            for threads in [1, 3] {
                let pool = Pool::new(threads, isa).unwrap();
                let (rows, slots) = ([0, 2, 4], [1, 0, 1]);
                let out = case.out(&pool, &rows, &slots);
                let width = outputs[0] + outputs[1];
                for row in 0..TOKENS {
                    for column in 0..width {
                        let at = row * width + column;
                        let Some(named) = rows.iter().position(|r| *r as usize == row) else {
                            assert_eq!(out[at].to_bits(), case.before[at].to_bits());
                            continue;
                        };
                        let (exact, size) = case.exact(row, slots[named] as usize, column);
                        let steps = (inputs / 16 + largest + 8) as f64;
                        let bound = size * steps * f64::from(f32::EPSILON);
                        let error = (f64::from(out[at]) - exact).abs();
                        assert!(error <= bound, "{isa} {row} {column}: {} {exact}", out[at]);
                    }
                }
            }
        }
    }
}

/// Many rows are shared out otherwise than few.
#[test]
fn a_row_has_the_same_bits_alone_and_in_any_batch_on_any_threads() {
    const MANY: u32 = 150;
    let mut case = Case::new(70, [40, 700], 9, &[9, 9, 6, 2]);
    let mut random = Random::new(7);
    case.x = random.values(MANY as usize * 70);
    case.before = random.values(MANY as usize * 740);
    for isa in Isa::available() {
        let pool = Pool::new(3, isa).unwrap();
        let rows: Vec<u32> = (0..MANY).filter(|row| row % 7 != 3).collect();
        let slots: Vec<u32> = rows.iter().map(|row| row / 5 % 2).collect();
        let together = case.out(&pool, &rows, &slots);
        let one = Pool::new(1, isa).unwrap();
        for (row, slot) in rows.iter().zip(&slots).step_by(11) {
            let alone = case.out(&one, &[*row], &[*slot]);
            let of = *row as usize * 740..(*row as usize + 1) * 740;
            let bits = |out: &[f32]| {
                out[of.clone()]
                    .iter()
                    .map(|x| x.to_bits())
                    .collect::<Vec<_>>()
            };
            assert_eq!(bits(&alone), bits(&together), "{isa} row {row}");
        }
    }
}

/// A rank that has no columns of x adds nothing; nor does a call without rows.
#[test]
fn no_inputs_and_no_rows_are_legal() {
    let pool = Pool::new(2, Isa::detect()).unwrap();
    let case = Case::new(0, [3, 4], 2, &[2, 2]);
    assert_eq!(case.out(&pool, &[1], &[0]), case.before);
    let case = Case::new(8, [3, 4], 2, &[2, 2]);
    assert_eq!(case.out(&pool, &[], &[]), case.before);
}

#[test]
fn rows_that_come_twice_are_our_mistake() {
    let case = Case::new(8, [3, 4], 2, &[2, 2, 1, 1]);
    for (rows, slots, says) in [
        ([2, 2], [0, 1], "row 2 comes again"),
        ([3, 1], [0, 1], "row 1 comes again, or before"),
        ([1, 5], [0, 1], "row 5 is in x or out not there"),
        ([1, 2], [0, 2], "slot 2 is not there"),
    ] {
        let run = || case.out(&Pool::new(1, Isa::Scalar).unwrap(), &rows, &slots);
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_err();
        let told = panic.downcast_ref::<String>().unwrap();
        assert!(told.contains(says), "{told}");
    }
}
