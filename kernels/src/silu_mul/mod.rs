//! silu_mul: out[t, c] = silu(gate[t, c]) * up[t, c], silu(x) = x / (1 + exp(-x))
//!
//! gate_up `[tokens, 2 * half]`: `cols` gate columns at the front of each half-row, `cols` up
//! columns at the front of the second; half >= cols (the packed weight pads each half to 16).

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(feature = "gpu-tests")]
pub(crate) mod trials;

#[cfg(test)]
mod tests;

use crate::pool::Pool;

/// Writes `out` (`[tokens, cols]`).
///
/// # Panics
/// When the slices do not agree.
pub fn run(pool: &Pool, gate_up: &[f32], tokens: usize, cols: usize, out: &mut [f32]) {
    let half = half(gate_up.len(), tokens, cols);
    assert_eq!(out.len(), tokens * cols, "out is not [{tokens}, {cols}]");
    if tokens > 0 && cols > 0 {
        cpu::run(pool, gate_up, half, cols, out);
    }
}

/// Writes the result over the gate columns: row t is then `gate_up[t * 2 * half..][..cols]`.
///
/// # Panics
/// When the slices do not agree.
pub fn run_in_place(pool: &Pool, gate_up: &mut [f32], tokens: usize, cols: usize) {
    let half = half(gate_up.len(), tokens, cols);
    if tokens > 0 && cols > 0 {
        cpu::run_in_place(pool, gate_up, half, cols);
    }
}

fn half(len: usize, tokens: usize, cols: usize) -> usize {
    assert!(
        tokens == 0 || len.is_multiple_of(tokens * 2),
        "gate_up is not [{tokens}, 2 halves]"
    );
    let half = len / (2 * tokens).max(1);
    assert!(
        tokens == 0 || half >= cols,
        "half a row is {half}, below {cols} columns"
    );
    half
}
