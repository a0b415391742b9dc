//! gather: out[t, c] = x[t, columns[c]]
//!
//! x and out `[tokens, cols]`, columns `[cols]`. A matrix whose columns lie in an order of their own takes
//! its inputs so. A column that is none of x gives NaN, as a weight does that was never read.

mod cpu;

#[cfg(test)]
mod tests;

use crate::pool::Pool;

/// Writes `out` (`[tokens, cols]`).
///
/// # Panics
/// When the slices do not agree.
pub fn run(pool: &Pool, x: &[f32], columns: &[u32], out: &mut [f32]) {
    let cols = columns.len();
    assert_eq!(x.len(), out.len(), "x and out are not as long");
    assert!(
        cols > 0 && x.len().is_multiple_of(cols) || x.is_empty(),
        "x is not rows of {cols}"
    );
    if !x.is_empty() {
        cpu::run(pool, x, columns, out);
    }
}
