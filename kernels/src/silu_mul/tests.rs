//! Against f64, at the ends of the range too, and in place against not.

use super::*;
use crate::isa::Isa;
use crate::testing::{Random, assert_close};

#[test]
fn products_are_within_f32_rounding_over_the_whole_range() {
    let mut random = Random::new(1);
    for (tokens, cols, half) in [
        (1, 1, 16),
        (2, 31, 32),
        (3, 33, 48),
        (40, 1000, 1008),
        (5, 64, 64),
    ] {
        let mut gate_up = random.values(tokens * 2 * half);
        for gate in gate_up.chunks_exact_mut(half).step_by(2).flatten() {
            *gate *= 20.0;
        }
        gate_up[0] = -1e30;
        let exact: Vec<f64> = gate_up
            .chunks_exact(2 * half)
            .flat_map(|row| {
                (0..cols).map(|c| {
                    let (gate, up) = (f64::from(row[c]), f64::from(row[half + c]));
                    gate / (1.0 + (-gate).exp()) * up
                })
            })
            .collect();
        // exp is good to 2 units in the last place (8 scalar), then three roundings. Where the
        // exponential passes the f32 range, the result is below 1e-30 either way.
        let tolerance = |at: usize| exact[at].abs() * 12.0 * f64::from(f32::EPSILON) + 1e-7;
        for isa in Isa::available() {
            let pool = Pool::new(1 + tokens % 3, isa).unwrap();
            let mut out = vec![f32::NAN; tokens * cols];
            run(&pool, &gate_up, tokens, cols, &mut out);
            assert_close(&out, &exact, tolerance, &format!("{isa} {tokens} x {cols}"));
            let mut in_place = gate_up.clone();
            run_in_place(&pool, &mut in_place, tokens, cols);
            for (row, out) in in_place.chunks_exact(2 * half).zip(out.chunks_exact(cols)) {
                assert_eq!(&row[..cols], out);
            }
        }
    }
}

#[test]
fn no_tokens_and_no_columns_are_legal() {
    let pool = Pool::new(1, Isa::detect()).unwrap();
    run(&pool, &[], 0, 48, &mut []);
    run(&pool, &[], 3, 0, &mut []);
}
