//! Against f64 over awkward widths, and the fused form against its two steps.

use super::*;
use crate::isa::Isa;
use crate::testing::{Random, assert_close};

#[test]
fn rows_are_normalised_within_f32_rounding() {
    let mut random = Random::new(1);
    for cols in [1, 15, 16, 31, 33, 64, 97, 576, 2053] {
        for rows in [1, 2, 3, 40] {
            let (x, weight) = (random.values(rows * cols), random.values(cols));
            let exact: Vec<f64> = x
                .chunks_exact(cols)
                .flat_map(|row| {
                    let squares: f64 = row.iter().map(|v| f64::from(*v).powi(2)).sum();
                    let scale = 1.0 / (squares / cols as f64 + f64::from(1e-5f32)).sqrt();
                    let weight = &weight;
                    (0..cols).map(move |c| f64::from(row[c]) * scale * f64::from(weight[c]))
                })
                .collect();
            // The sum of squares loses at most cols / 64 + 8 roundings, the rest a handful.
            let tolerance = |at: usize| exact[at].abs() * (cols as f64 / 64.0 + 16.0) * 6e-8;
            for isa in Isa::available() {
                let pool = Pool::new(1 + rows % 3, isa).unwrap();
                let mut out = vec![f32::NAN; x.len()];
                run(&pool, &x, &weight, 1e-5, &mut out);
                assert_close(&out, &exact, tolerance, &format!("{isa} {rows} x {cols}"));
            }
        }
    }
}

#[test]
fn the_fused_form_is_add_then_norm_to_the_bit() {
    let mut random = Random::new(2);
    for (rows, cols) in [(1, 33), (5, 64), (70, 577)] {
        let (x, weight) = (random.values(rows * cols), random.values(cols));
        let residual = random.values(rows * cols);
        let sum: Vec<f32> = residual.iter().zip(&x).map(|(a, b)| a + b).collect();
        for isa in Isa::available() {
            let pool = Pool::new(2, isa).unwrap();
            let (mut fused, mut out) = (residual.clone(), vec![f32::NAN; x.len()]);
            run_residual(&pool, &x, &mut fused, &weight, 1e-6, &mut out);
            assert_eq!(fused, sum, "{isa}");
            let mut apart = vec![f32::NAN; x.len()];
            run(&pool, &sum, &weight, 1e-6, &mut apart);
            assert_eq!(out, apart, "{isa}");
        }
    }
}

#[test]
fn zeros_stay_zeros_and_no_rows_are_legal() {
    let pool = Pool::new(1, Isa::detect()).unwrap();
    let mut out = vec![f32::NAN; 40];
    run(&pool, &[0.0; 40], &[1.0; 20], 1e-5, &mut out);
    assert_eq!(out, vec![0.0; 40]);
    run(&pool, &[], &[1.0; 20], 1e-5, &mut []);
}
