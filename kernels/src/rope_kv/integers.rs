//! One head of one token to 8 bits: a scale, and integers that it is multiplied by.

use crate::simd::{LANES, Simd};

/// The largest integer; -128 does not occur.
const MOST: f32 = 127.0;
/// From here on scales are normal numbers.
const SMALLEST: f32 = MOST * f32::MIN_POSITIVE;

/// Writes `row` into the cache; the same bits on every instruction set.
#[inline(always)]
pub(super) fn keep<S: Simd>(s: S, row: &[f32], kept: &mut [u8], scale: &mut [u8]) {
    let factor = factor(s, row);
    scale.copy_from_slice(&factor.to_le_bytes());
    let is_positive = factor > 0.0;
    if !is_positive {
        kept.fill(0);
        return;
    }
    let inverse = s.splat(1.0 / factor);
    let (cells, rest) = row.as_chunks::<LANES>();
    for (cell, to) in cells.iter().zip(kept.as_chunks_mut::<LANES>().0) {
        s.store_i8(s.mul(s.load(cell), inverse), to);
    }
    if !rest.is_empty() {
        let mut bytes = [0; LANES];
        s.store_i8(s.mul(s.load_part(rest), inverse), &mut bytes);
        kept[cells.len() * LANES..].copy_from_slice(&bytes[..rest.len()]);
    }
}

/// What the integers of a row are multiples of; 0 where all are, NaN where a number is not finite.
#[inline(always)]
fn factor<S: Simd>(s: S, row: &[f32]) -> f32 {
    let zero = s.splat(0.0);
    let (cells, rest) = row.as_chunks::<LANES>();
    let (mut most, mut nothing) = (zero, zero);
    let mut look = |v: S::V| {
        most = s.max(s.max(v, s.sub(zero, v)), most);
        // Zero times a number is zero, and NaN times what is none.
        nothing = s.fma(v, zero, nothing);
    };
    for cell in cells {
        look(s.load(cell));
    }
    look(s.load_part(rest));
    if s.sum(nothing) != 0.0 {
        return f32::NAN;
    }
    match s.largest(most) {
        largest if largest < SMALLEST => 0.0,
        largest => largest / MOST,
    }
}
