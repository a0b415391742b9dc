//! Weights in blocks of 2 to 8 bits, computed exactly and by integers, next to the same weights in BF16:
//! bytes that are stored per second, and how many times as fast as BF16. Each call has a weight that no
//! cache holds.

use std::time::Instant;

use plimsoll_kernels::device::{Cpu, Device, Pages};
use plimsoll_kernels::linear::{self, Input, LinearShape, Products, Weight};
use plimsoll_kernels::pool::Pool;
use plimsoll_planner::{BlockFormat, Bytes, Dtype};

use crate::cases::Report;
use crate::{Peak, Row};

/// Layers and head of SmolLM2-135M, and of an 8B model: rows, columns.
const SHAPES: [(usize, usize); 5] = [
    (576, 576),
    (1536, 576),
    (49_152, 576),
    (4096, 4096),
    (14_336, 4096),
];
const WAYS: [(Products, &str); 3] = [
    (Products::Exact, ""),
    (Products::Int8, " int8"),
    (Products::Int16, " int16"),
];
/// More than any cache holds.
const COLD_BYTES: usize = 192 << 20;

pub(crate) fn run(pool: &Pool, report: Report<'_>) {
    for (rows, cols) in SHAPES {
        for tokens in [1, 4, 16, 512] {
            let dense = LinearShape::dense(rows, cols, Dtype::BFloat16);
            let base = seconds(pool, dense, tokens);
            report(row("BF16".to_owned(), dense, tokens, base, base));
            let whole = |format: &BlockFormat| (cols as u64).is_multiple_of(format.columns());
            for format in BlockFormat::ALL.into_iter().filter(whole) {
                for (products, name) in WAYS {
                    let shape = LinearShape {
                        products,
                        ..LinearShape::stored(rows, cols, dense.dtype, format)
                    };
                    let taken = seconds(pool, shape, tokens);
                    report(row(format!("{format}{name}"), shape, tokens, taken, base));
                }
            }
        }
    }
}

fn row(format: String, shape: LinearShape, tokens: usize, seconds: f64, base: f64) -> Row {
    let LinearShape { rows, cols, .. } = shape;
    Row {
        name: format!(
            "{format:12} {rows} x {cols}, {tokens} ({:.2} of BF16)",
            base / seconds
        ),
        seconds,
        bytes: shape.packed_bytes() as f64,
        operations: (rows * cols * 2 * tokens) as f64,
        peak: if shape.is_by_integers() {
            Peak::Int8
        } else {
            Peak::Bf16
        },
    }
}

/// Of the fastest call, so that what else the machine does counts for little.
fn seconds(pool: &Pool, shape: LinearShape, tokens: usize) -> f64 {
    const SECONDS: f64 = 0.2;
    let bytes = shape.packed_bytes();
    let copies = (COLD_BYTES / bytes).max(1);
    let all = Bytes::measured((bytes * copies) as u64);
    let mut buffer = Cpu.reserve(all, Pages::Huge).expect("address space");
    buffer.commit_all().expect("memory");
    // Scales and numbers of about 0.5: no subnormals, no infinities.
    buffer.as_mut_slice::<u8>().fill(0x38);
    let x = vec![0.5; tokens * shape.cols];
    let mut out = vec![0.0; tokens * shape.rows];
    let mut scratch = vec![0; linear::scratch_bytes(tokens, &shape)];
    let (start, mut best, mut calls) = (Instant::now(), f64::MAX, 0);
    while calls < 5 || start.elapsed().as_secs_f64() < SECONDS {
        let packed = buffer.range::<u8>(calls % copies * bytes, bytes);
        let weight = Weight {
            shape,
            packed,
            bias: None,
        };
        let x = Input::dense(&x, tokens, shape.cols);
        let begin = Instant::now();
        linear::run(pool, x, &weight, &mut out, &mut scratch);
        best = best.min(begin.elapsed().as_secs_f64());
        calls += 1;
    }
    best
}
