//! Sixteen registers of sixteen lanes, rows for columns.

use std::arch::x86_64::*;

use super::LANES;

/// Sixteen lanes.
pub(super) type Two = [__m256; 2];

/// Four squares of 8 x 8; the two off the diagonal change places.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn transpose_four(rows: &mut [Two; LANES]) {
    let mut squares = [[_mm256_setzero_ps(); 8]; 4];
    for r in 0..8 {
        (squares[0][r], squares[1][r]) = (rows[r][0], rows[r][1]);
        (squares[2][r], squares[3][r]) = (rows[8 + r][0], rows[8 + r][1]);
    }
    for square in &mut squares {
        transpose(square);
    }
    for r in 0..8 {
        rows[r] = [squares[0][r], squares[2][r]];
        rows[8 + r] = [squares[1][r], squares[3][r]];
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn transpose(rows: &mut [__m256; 8]) {
    let mut t = *rows;
    for i in 0..4 {
        t[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
    }
    let mut u = t;
    for i in 0..2 {
        u[4 * i] = _mm256_shuffle_ps::<0x44>(t[4 * i], t[4 * i + 2]);
        u[4 * i + 1] = _mm256_shuffle_ps::<0xEE>(t[4 * i], t[4 * i + 2]);
        u[4 * i + 2] = _mm256_shuffle_ps::<0x44>(t[4 * i + 1], t[4 * i + 3]);
        u[4 * i + 3] = _mm256_shuffle_ps::<0xEE>(t[4 * i + 1], t[4 * i + 3]);
    }
    for i in 0..4 {
        rows[i] = _mm256_permute2f128_ps::<0x20>(u[i], u[4 + i]);
        rows[4 + i] = _mm256_permute2f128_ps::<0x31>(u[i], u[4 + i]);
    }
}
