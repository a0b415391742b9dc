//! The plain loops.

use crate::pool::Pool;

pub(super) fn run(pool: &Pool, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let cols = weight.len();
    for (x, out) in x.chunks_exact(cols).zip(out.chunks_exact_mut(cols)) {
        normalise(x, weight, eps, out);
    }
    let _ = pool;
}

pub(super) fn run_residual(
    pool: &Pool,
    x: &[f32],
    residual: &mut [f32],
    weight: &[f32],
    eps: f32,
    out: &mut [f32],
) {
    residual
        .iter_mut()
        .zip(x)
        .for_each(|(sum, delta)| *sum += delta);
    run(pool, residual, weight, eps, out);
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a row has far fewer than 2^24 columns"
)]
pub(crate) fn normalise(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mean = x.iter().map(|value| value * value).sum::<f32>() / x.len() as f32;
    let scale = 1.0 / (mean + eps).sqrt();
    for ((out, value), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = value * scale * weight;
    }
}
