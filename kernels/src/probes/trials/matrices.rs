//! ldmatrix, mma and cp.async, with the layouts of the PTX ISA ("ldmatrix", "mma.m16n8k16").

use half::{bf16, f16};
use plimsoll_planner::Dtype;

use super::{launch, words};
use crate::gpu::trial::{Bench, Failure, Trial, random, same};
use crate::gpu::{Arguments, Kind};

const LANES: usize = 32;
const ROWS: usize = 16;
const COLS: usize = 8;
const DEPTH: usize = 16;

pub(super) fn all() -> Vec<Trial> {
    let mut trials = vec![
        Trial::new(super::OP, "ldmatrix", |bench| load(bench, false)),
        Trial::new(super::OP, "ldmatrix.trans", |bench| load(bench, true)),
        Trial::new(super::OP, "cp.async in two groups, with zeros", copies),
    ];
    for dtype in [Dtype::Float16, Dtype::BFloat16] {
        trials.push(Trial::new(
            super::OP,
            format!("mma of {dtype}, exact on small integers"),
            move |bench| multiply(bench, dtype, 1.0),
        ));
        // Multiples of 2^-20 below 2^-14 are subnormal in f16.
        trials.push(Trial::new(
            super::OP,
            format!("mma of {dtype}, exact on subnormal numbers"),
            move |bench| multiply(bench, dtype, 2f32.powi(-20)),
        ));
    }
    trials
}

/// Lane `lane` of 32 is number `lane % 4` of group `lane / 4`.
const fn group(lane: usize) -> (usize, usize) {
    (lane / 4, lane % 4)
}

/// A word of two numbers, the first below.
fn pair(low: u16, high: u16) -> u32 {
    u32::from(low) | u32::from(high) << 16
}

fn load(bench: &Bench<'_>, transposed: bool) -> Result<(), Failure> {
    let numbers: Vec<u16> = (0..32 * 8).map(|at| 1000 + at).collect();
    let at = |matrix: usize, row: usize, col: usize| numbers[(8 * matrix + row) * 8 + col];
    let mut wanted = Vec::new();
    for lane in 0..LANES {
        let (row, number) = group(lane);
        let col = 2 * number;
        wanted.extend((0..4).map(|matrix| match transposed {
            false => pair(at(matrix, row, col), at(matrix, row, col + 1)),
            true => pair(at(matrix, col, row), at(matrix, col + 1, row)),
        }));
    }
    let bytes: Vec<u8> = numbers.iter().flat_map(|v| v.to_le_bytes()).collect();
    let kernel = if transposed { "matrix_trans" } else { "matrix" };
    let got = words(bench, kernel, (1, 32), &bytes, 4 * LANES, None)?;
    same("four words a lane", &got, &wanted)
}

/// d += a * b of whole numbers, those of a times `unit`: every product and sum is exact.
fn multiply(bench: &Bench<'_>, dtype: Dtype, unit: f32) -> Result<(), Failure> {
    let mut random = random(5);
    let mut whole = |count: usize| -> Vec<f32> {
        let numbers = (0..count).map(|_| random.below(17) as f32 - 8.0);
        numbers.collect()
    };
    let a: Vec<f32> = whole(ROWS * DEPTH).iter().map(|v| v * unit).collect();
    let b = whole(DEPTH * COLS);
    let d: Vec<f32> = whole(ROWS * COLS).iter().map(|v| v * unit).collect();
    let half = |v: f32| match dtype {
        Dtype::Float16 => f16::from_f32(v).to_bits(),
        _ => bf16::from_f32(v).to_bits(),
    };
    let of_a = |row: usize, k: usize| half(a[row * DEPTH + k]);
    let of_b = |k: usize, col: usize| half(b[k * COLS + col]);
    let (mut left, mut right, mut sums, mut wanted) = (vec![], vec![], vec![], vec![]);
    for lane in 0..LANES {
        let (group, number) = group(lane);
        // Numbers 2i and 2i+1 of a lie in word i.
        for word in 0..4 {
            let row = group + if word == 1 || word == 3 { 8 } else { 0 };
            let k = 2 * number + if word >= 2 { 8 } else { 0 };
            left.push(pair(of_a(row, k), of_a(row, k + 1)));
        }
        for word in 0..2 {
            let k = 2 * number + 8 * word;
            right.push(pair(of_b(k, group), of_b(k + 1, group)));
        }
        for at in 0..4 {
            let row = group + if at >= 2 { 8 } else { 0 };
            let col = 2 * number + at % 2;
            let products = (0..DEPTH).map(|k| a[row * DEPTH + k] * b[k * COLS + col]);
            sums.push(d[row * COLS + col]);
            wanted.push(d[row * COLS + col] + products.sum::<f32>());
        }
    }
    let (left, right) = (bench.put_raw(&left)?, bench.put_raw(&right)?);
    let mut memory = bench.put_raw(&sums)?;
    let arguments = Arguments::new()
        .write(&memory.view_mut(Kind::F32))
        .read(left.view(Kind::U32))
        .read(right.view(Kind::U32));
    let kernel = format!("multiply_{}", Kind::suffix(dtype));
    launch(bench, &kernel, (1, 32), arguments)?;
    same("four sums a lane", &memory.download(4 * LANES)?, &wanted)
}

fn copies(bench: &Bench<'_>) -> Result<(), Failure> {
    const THREADS: usize = 64;
    const VALID: usize = 50;
    let input: Vec<u32> = (0..128 * 4).map(|at| 7000 + at).collect();
    let group = |at: usize| [0, 1, 2, 3].map(|i| input[4 * at + i]);
    let copied = |thread: usize, from: usize| match thread < VALID {
        true => group(from + thread),
        false => [0; 4],
    };
    let first = (0..THREADS).flat_map(|thread| copied(thread, 0));
    let second = (0..THREADS)
        .rev()
        .flat_map(|thread| copied(thread, THREADS));
    let past_the_cache = (0..THREADS).flat_map(group);
    let wanted: Vec<u32> = first.chain(second).chain(past_the_cache).collect();
    let got = words(bench, "copies", (1, 64), &input, wanted.len(), Some(VALID))?;
    same("words", &got, &wanted)
}
