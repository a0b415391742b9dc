//! rms_norm: out[t, c] = x[t, c] * weight[c] / sqrt(mean over c of x[t, c]^2 + eps)
//!
//! x, out `[tokens, cols]`; weight `[cols]`. The fused form first adds x into the residual stream
//! and normalises that. Rows are independent of each other.

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(feature = "gpu-tests")]
pub(crate) mod trials;

pub(crate) use cpu::normalise;

#[cfg(test)]
mod tests;

use crate::pool::Pool;

/// Normalises every row of `x` into `out`.
///
/// # Panics
/// When the slices do not agree.
pub fn run(pool: &Pool, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    check(x, weight, out);
    if !x.is_empty() {
        cpu::run(pool, x, weight, eps, out);
    }
}

/// `residual += x`, then normalises every row of `residual` into `out`.
///
/// # Panics
/// When the slices do not agree.
pub fn run_residual(
    pool: &Pool,
    x: &[f32],
    residual: &mut [f32],
    weight: &[f32],
    eps: f32,
    out: &mut [f32],
) {
    check(x, weight, out);
    assert_eq!(residual.len(), x.len(), "residual has not the shape of x");
    if !x.is_empty() {
        cpu::run_residual(pool, x, residual, weight, eps, out);
    }
}

fn check(x: &[f32], weight: &[f32], out: &[f32]) {
    assert!(
        !weight.is_empty() && x.len().is_multiple_of(weight.len()),
        "rows of {}",
        weight.len()
    );
    assert_eq!(out.len(), x.len(), "out has not the shape of x");
}
