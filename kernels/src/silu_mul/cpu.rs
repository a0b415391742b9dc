//! Elementwise on vectors; the exponential is `simd`'s.

use crate::pool::Pool;
use crate::simd::{self, LANES, Simd, Work};

/// Numbers that are worth handing to another thread.
const CELLS_PER_CHUNK: usize = 8 << 10;

pub(super) fn run(pool: &Pool, gate_up: &[f32], half: usize, cols: usize, out: &mut [f32]) {
    let isa = pool.isa();
    let rows = pool.rows_per_chunk(out.len() / cols, cols, CELLS_PER_CHUNK);
    pool.run_rows(out, cols, rows, |first, out| {
        for (row, out) in out.chunks_exact_mut(cols).enumerate() {
            let (gate, up) = gate_up[(first + row) * 2 * half..][..2 * half].split_at(half);
            out.copy_from_slice(&gate[..cols]);
            simd::dispatch(
                isa,
                SiluMul {
                    gate: out,
                    up: &up[..cols],
                },
            );
        }
    });
}

pub(super) fn run_in_place(pool: &Pool, gate_up: &mut [f32], half: usize, cols: usize) {
    let isa = pool.isa();
    let rows = pool.rows_per_chunk(gate_up.len() / (2 * half), cols, CELLS_PER_CHUNK);
    pool.run_rows(gate_up, 2 * half, rows, |_, block| {
        for row in block.chunks_exact_mut(2 * half) {
            let (gate, up) = row.split_at_mut(half);
            simd::dispatch(
                isa,
                SiluMul {
                    gate: &mut gate[..cols],
                    up: &up[..cols],
                },
            );
        }
    });
}

/// gate = silu(gate) * up
struct SiluMul<'a> {
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl Work for SiluMul<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (gates, gates_rest) = self.gate.as_chunks_mut::<LANES>();
        let (ups, ups_rest) = self.up.as_chunks::<LANES>();
        for (gate, up) in gates.iter_mut().zip(ups) {
            s.store(silu_mul(s, s.load(gate), s.load(up)), gate);
        }
        if !gates_rest.is_empty() {
            let product = silu_mul(s, s.load_part(gates_rest), s.load_part(ups_rest));
            s.store_part(product, gates_rest);
        }
    }
}

#[inline(always)]
fn silu_mul<S: Simd>(s: S, gate: S::V, up: S::V) -> S::V {
    let one = s.splat(1.0);
    let denominator = s.add(one, s.exp(s.sub(s.splat(0.0), gate)));
    s.mul(s.div(gate, denominator), up)
}
