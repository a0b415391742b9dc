//! That no sum of integers leaves 32 bits, for every format.

use super::super::kinds::Kind;
use super::{GROUP, zero};

/// The largest |q| of 16 bits: 127 in both of its planes.
pub(super) const MOST: i64 = 127 * 256 + 127;

/// Fails to compile where a format's sums might overflow. Sums before the zero is subtracted may wrap:
/// that is undone by what follows.
pub(super) const fn check<K: Kind>() {
    let columns = (GROUP / K::PARTS) as i64;
    let zero = zero::<K>() as i64;
    let largest = match K::TABLE {
        None if K::LOW == 8 => 255,
        None => (1 << (K::LOW + K::HIGH)) - 1,
        Some(_) => 128 + 127,
    };
    let farthest = if largest - zero > zero {
        largest - zero
    } else {
        zero
    };
    assert!(columns * farthest * MOST <= i32::MAX as i64);
    // Two products of AVX2, of numbers without sign.
    assert!(2 * largest * MOST <= i32::MAX as i64);
    // A sum of q is exact as f32.
    assert!(GROUP as i64 * MOST < 1 << 24);
}
