//! Rows of sixteen lanes that change places with columns, and sums of rows on the way.

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

/// Of each quad of lanes the sums of four rows.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn sum_quads(a: __m256, b: __m256, c: __m256, d: __m256) -> __m256 {
    let two = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    let four = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    _mm256_add_ps(
        _mm256_shuffle_ps::<0x44>(two, four),
        _mm256_shuffle_ps::<0xEE>(two, four),
    )
}

/// The quads of two rows added.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn add_quads(a: Two, b: Two) -> __m256 {
    let half = |a: __m256, b: __m256| {
        _mm256_add_ps(
            _mm256_permute2f128_ps::<0x20>(a, b),
            _mm256_permute2f128_ps::<0x31>(a, b),
        )
    };
    _mm256_add_ps(half(a[0], b[0]), half(a[1], b[1]))
}

/// Every lane twice.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn twice(v: __m256) -> Two {
    let low = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    let high = _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7);
    [
        _mm256_permutevar8x32_ps(v, low),
        _mm256_permutevar8x32_ps(v, high),
    ]
}

/// Every second lane of sixteen.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn unzip<const WHICH: i32>(v: Two) -> __m256 {
    let mixed = _mm256_castps_pd(_mm256_shuffle_ps::<WHICH>(v[0], v[1]));
    _mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(mixed))
}
