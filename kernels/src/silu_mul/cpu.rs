//! The plain loops.

use crate::pool::Pool;

pub(super) fn run(pool: &Pool, gate_up: &[f32], half: usize, cols: usize, out: &mut [f32]) {
    pool.run_rows(out, cols, 1, |token, out| {
        let (gate, up) = gate_up[token * 2 * half..][..2 * half].split_at(half);
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = silu(*gate) * up;
        }
    });
}

pub(super) fn run_in_place(pool: &Pool, gate_up: &mut [f32], half: usize, cols: usize) {
    pool.run_rows(gate_up, 2 * half, 1, |_, row| {
        let (gate, up) = row.split_at_mut(half);
        for (gate, up) in gate[..cols].iter_mut().zip(up) {
            *gate = silu(*gate) * *up;
        }
    });
}

fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}
