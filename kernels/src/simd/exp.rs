//! e^x on vectors: range reduction by ln 2 in two parts, then the Cephes polynomial of degree 6.

use super::Simd;

/// Smallest argument whose result is a normal number; everything below gives 0.
const LOWEST: f32 = -87.336_54;
/// Largest argument before infinity; everything above gives the largest result.
const HIGHEST: f32 = 88.376_26;
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

#[inline(always)]
pub(super) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    // `x` stands second, so that NaN passes through.
    let clamped = s.min(s.splat(HIGHEST), s.max(s.splat(LOWEST), x));
    let n = s.round(s.mul(clamped, s.splat(std::f32::consts::LOG2_E)));
    let r = s.fma(n, s.splat(-LN_2_HIGH), clamped);
    let r = s.fma(n, s.splat(-LN_2_LOW), r);
    let mut p = s.splat(1.987_569_1e-4);
    for c in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        5e-1,
    ] {
        p = s.fma(p, r, s.splat(c));
    }
    let p = s.add(s.fma(s.mul(r, r), p, r), s.splat(1.0));
    let result = s.mul(p, s.pow2(n));
    s.select_lt(x, s.splat(LOWEST), s.splat(0.0), result)
}
