//! AVX2: pairs of products in 16 bits, which never overflow: at most 2 x 15 x 127 x 4 with 4 bits, and
//! 2 x 128 x 127 with 8.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::{GROUP, WORDS_BYTES};
use super::{Kind, Product, X_BYTES, all_of, group_bytes, scale_of, shift_of, split};
use crate::isa::Dots;
use crate::simd::{Avx2, LANES, Simd, array};

pub(super) fn multiply<K: Kind>(product: &Product<'_>, panels: Range<usize>, tokens: Range<usize>) {
    assert!(Dots::Avx2.is_available(), "no AVX2");
    // SAFETY: the check above says that this machine has the instructions.
    unsafe { by_panels::<K>(product, panels, tokens) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn by_panels<K: Kind>(product: &Product<'_>, panels: Range<usize>, tokens: Range<usize>) {
    for panel in panels {
        let mut token = tokens.start;
        while token < tokens.end {
            token += match tokens.end - token {
                1 => block::<K, 1>(product, panel, token),
                _ => block::<K, 2>(product, panel, token),
            };
        }
    }
}

/// T tokens by a panel; T.
#[target_feature(enable = "avx2,fma,f16c")]
fn block<K: Kind, const T: usize>(product: &Product<'_>, panel: usize, token: usize) -> usize {
    let s = Avx2::here();
    let groups = product.shape.cols / GROUP;
    let bytes = const { group_bytes(K::FORMAT) };
    let weights = &product.panel(panel)[..groups * bytes];
    let mut x: [&[[u8; X_BYTES]]; T] = [&[]; T];
    for t in 0..T {
        x[t] = &product.row(token + t)[..groups];
    }
    let mut sums = [[_mm256_setzero_ps(); 2]; T];
    for g in 0..groups {
        let (d, m, numbers) = split::<K>(&weights[g * bytes..][..bytes]);
        let (d, m) = (s.load_f16(d), s.load_f16(m));
        let mut x_of = [&[0; X_BYTES]; T];
        for t in 0..T {
            x_of[t] = &x[t][g];
        }
        let dots = match K::BITS {
            4 => nibbles::<T>(numbers, x_of),
            _ => bytes_with_sign::<T>(numbers, x_of),
        };
        for t in 0..T {
            let scale = s.splat(scale_of(x_of[t]));
            let shift = match K::BITS {
                4 if !K::HAS_MINIMUM => _mm256_set1_epi32(shift_of(x_of[t])),
                // Bytes are multiplied with their sign.
                _ => _mm256_setzero_si256(),
            };
            let dots = dots[t].map(|dots| _mm256_cvtepi32_ps(_mm256_add_epi32(dots, shift)));
            sums[t] = s.fma(s.mul(d, scale), dots, sums[t]);
            if K::HAS_MINIMUM {
                sums[t] = s.fma(s.mul(m, scale), s.splat(all_of(x_of[t])), sums[t]);
            }
        }
    }
    for (t, sums) in sums.iter().enumerate() {
        product.out.put(s, token + t, panel, *sums, true);
    }
    T
}

/// The dot products of a group: rows 0..8, rows 8..16.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn nibbles<const T: usize>(numbers: &[u8], x: [&[u8; X_BYTES]; T]) -> [[__m256i; 2]; T] {
    let low = _mm256_set1_epi8(15);
    // Of words 0..8 the low and the high halves, then of words 8..16.
    let mut sums = [[_mm256_setzero_si256(); 4]; T];
    for at in 0..GROUP / 8 {
        let words: &[u8; WORDS_BYTES] = array(&numbers[at * WORDS_BYTES..]);
        let words = [load(array(words)), load(array(&words[32..]))];
        for t in 0..T {
            let eight = _mm256_set1_epi64x(i64::from_le_bytes(x[t][8..].as_chunks().0[at]));
            for w in 0..2 {
                let first = _mm256_and_si256(words[w], low);
                let last = _mm256_and_si256(_mm256_srli_epi16::<4>(words[w]), low);
                for (i, numbers) in [first, last].into_iter().enumerate() {
                    let pairs = _mm256_maddubs_epi16(numbers, eight);
                    sums[t][2 * w + i] = _mm256_add_epi16(sums[t][2 * w + i], pairs);
                }
            }
        }
    }
    let mut dots = [[_mm256_setzero_si256(); 2]; T];
    for t in 0..T {
        let ones = _mm256_set1_epi16(1);
        let quads = sums[t].map(|pairs| _mm256_madd_epi16(pairs, ones));
        for i in 0..2 {
            // Even and odd columns of rows 0, 1, 4, 5, 2, 3, 6, 7.
            let rows = _mm256_hadd_epi32(quads[i], quads[2 + i]);
            dots[t][i] = _mm256_permute4x64_epi64::<0b11_01_10_00>(rows);
        }
    }
    dots
}

/// As [`nibbles`]. The smaller factor of an instruction has no sign: it is the weight's size, and x has
/// the weight's sign.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn bytes_with_sign<const T: usize>(numbers: &[u8], x: [&[u8; X_BYTES]; T]) -> [[__m256i; 2]; T] {
    let ones = _mm256_set1_epi16(1);
    let mut sums = [[_mm256_setzero_si256(); 2]; T];
    for at in 0..GROUP / 4 {
        let pairs: &[u8; 4 * LANES] = array(&numbers[at * 4 * LANES..]);
        let (a, b) = (load(array(pairs)), load(array(&pairs[2 * LANES..])));
        // Rows 0..4 and 8..12, rows 4..8 and 12..16.
        let quads = [_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b)];
        for t in 0..T {
            let four = _mm256_set1_epi32(super::four_of(x[t], at));
            for (i, quads) in quads.into_iter().enumerate() {
                let signed = _mm256_sign_epi8(four, quads);
                let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(quads), signed);
                sums[t][i] = _mm256_add_epi32(sums[t][i], _mm256_madd_epi16(pairs, ones));
            }
        }
    }
    sums.map(|[a, b]| {
        [
            _mm256_permute2x128_si256::<0x20>(a, b),
            _mm256_permute2x128_si256::<0x31>(a, b),
        ]
    })
}

#[target_feature(enable = "avx2")]
#[inline]
fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: the array has the 32 bytes that are loaded.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}
