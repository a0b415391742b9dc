//! AVX512-VNNI: one instruction multiplies four columns of sixteen rows by those of a token, and adds.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::{GROUP, WORDS_BYTES};
use super::{Kind, Product, X_BYTES, all_of, four_of, group_bytes, scale_of, shift_of, split};
use crate::isa::Dots;
use crate::simd::{Avx512, LANES, Simd, array, unroll};

/// Columns of a step: two vectors of four columns by sixteen rows.
const STEP: usize = 8;

pub(super) fn multiply<K: Kind>(product: &Product<'_>, panels: Range<usize>, tokens: Range<usize>) {
    assert!(Dots::Avx512Vnni.is_available(), "no integer dot products");
    // SAFETY: the check above says that this machine has the instructions.
    unsafe { by_panels::<K>(product, panels, tokens) }
}

/// Few tokens take two panels at a time, for there are too few sums to keep one busy.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn by_panels<K: Kind>(product: &Product<'_>, panels: Range<usize>, tokens: Range<usize>) {
    let mut panel = panels.start;
    while panel < panels.end {
        let at_once = match panels.end - panel {
            1 => 1,
            _ if tokens.len() > 4 => 1,
            _ => 2,
        };
        // What comes next is asked for, so that memory never waits for a panel's end.
        let next = (panel + at_once).min(panels.end - at_once);
        let mut token = tokens.start;
        while token < tokens.end {
            let left = tokens.end - token;
            let at = (panel, token);
            token += match (at_once, left) {
                (2, 1) => block::<K, 2, 1>(product, at, next),
                (2, 2) => block::<K, 2, 2>(product, at, next),
                (2, 3) => block::<K, 2, 2>(product, at, next),
                (2, _) => block::<K, 2, 4>(product, at, next),
                (_, 1) => block::<K, 1, 1>(product, at, next),
                (_, 2..4) => block::<K, 1, 2>(product, at, next),
                (_, 4..8) => block::<K, 1, 4>(product, at, next),
                (_, 8..12) => block::<K, 1, 8>(product, at, next),
                (_, _) => block::<K, 1, 12>(product, at, next),
            };
        }
        panel += at_once;
    }
}

/// T tokens by P panels; T.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn block<K: Kind, const P: usize, const T: usize>(
    product: &Product<'_>,
    (panel, token): (usize, usize),
    next: usize,
) -> usize {
    let s = Avx512::here();
    let groups = product.shape.cols / GROUP;
    let bytes = const { group_bytes(K::FORMAT) };
    let (mut weights, mut after): ([&[u8]; P], [&[u8]; P]) = ([&[]; P], [&[]; P]);
    for p in 0..P {
        weights[p] = &product.panel(panel + p)[..groups * bytes];
        after[p] = &product.panel(next + p)[..groups * bytes];
    }
    let mut x: [&[[u8; X_BYTES]]; T] = [&[]; T];
    for t in 0..T {
        x[t] = &product.row(token + t)[..groups];
    }
    let mut sums = [[_mm512_setzero_ps(); T]; P];
    for g in 0..groups {
        for p in 0..P {
            let group = &weights[p][g * bytes..][..bytes];
            if T < 8 {
                s.prefetch(&after[p][g * bytes..][..bytes]);
            }
            let (d, m, numbers) = split::<K>(group);
            let mut dots = [_mm512_setzero_si512(); T];
            if !K::HAS_MINIMUM {
                unroll!(J in 0..12 { if J < T {
                    dots[J] = _mm512_set1_epi32(shift_of(&x[J][g]));
                } });
            }
            unroll!(I in 0..4 {
                let [first, second] = step::<K>(numbers, I);
                unroll!(J in 0..12 { if J < T {
                    let four = _mm512_set1_epi32(four_of(&x[J][g], 2 * I));
                    dots[J] = _mm512_dpbusd_epi32(dots[J], first, four);
                    let four = _mm512_set1_epi32(four_of(&x[J][g], 2 * I + 1));
                    dots[J] = _mm512_dpbusd_epi32(dots[J], second, four);
                } });
            });
            let d = s.load_f16(d);
            unroll!(J in 0..12 { if J < T {
                let scale = _mm512_set1_ps(scale_of(&x[J][g]));
                let dots = _mm512_cvtepi32_ps(dots[J]);
                sums[p][J] = _mm512_fmadd_ps(_mm512_mul_ps(d, scale), dots, sums[p][J]);
            } });
            if K::HAS_MINIMUM {
                let m = s.load_f16(m);
                unroll!(J in 0..12 { if J < T {
                    let scale = _mm512_set1_ps(scale_of(&x[J][g]));
                    let all = _mm512_set1_ps(all_of(&x[J][g]));
                    sums[p][J] = _mm512_fmadd_ps(_mm512_mul_ps(m, scale), all, sums[p][J]);
                } });
            }
        }
    }
    let mut lanes = [[[0.0; LANES]; T]; P];
    for p in 0..P {
        unroll!(J in 0..12 { if J < T { s.store(sums[p][J], &mut lanes[p][J]); } });
    }
    for (p, lanes) in lanes.iter().enumerate() {
        for (t, lanes) in lanes.iter().enumerate() {
            product
                .out
                .put(s, token + t, panel + p, s.load(lanes), true);
        }
    }
    T
}

/// Eight columns of sixteen rows, without sign: four columns of a row in a lane.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
fn step<K: Kind>(numbers: &[u8], at: usize) -> [__m512i; 2] {
    match K::BITS {
        4 => {
            let words = load(array(&numbers[at * WORDS_BYTES..]));
            let low = _mm512_set1_epi8(15);
            let first = _mm512_and_si512(words, low);
            let last = _mm512_and_si512(_mm512_srli_epi16::<4>(words), low);
            // A row's even columns lie in an even lane, the odd ones behind it.
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
            [
                _mm512_permutex2var_epi32(first, even, last),
                _mm512_permutex2var_epi32(first, odd, last),
            ]
        }
        _ => {
            let numbers = &numbers[at * STEP * LANES..];
            [quads(array(numbers)), quads(array(&numbers[4 * LANES..]))]
        }
    }
}

/// Two column pairs of sixteen rows with signs: four columns of a row in a lane, without.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
fn quads(pairs: &[u8; 64]) -> __m512i {
    const ORDER: [u16; 32] = {
        let mut order = [0; 32];
        let mut row = 0;
        while row < 16 {
            order[2 * row as usize] = row;
            order[2 * row as usize + 1] = 16 + row;
            row += 1;
        }
        order
    };
    // SAFETY: the array has the 64 bytes that are loaded.
    let order = unsafe { _mm512_loadu_si512(ORDER.as_ptr().cast()) };
    let quads = _mm512_permutexvar_epi16(order, load(pairs));
    _mm512_xor_si512(quads, _mm512_set1_epi8(-128))
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: the array has the 64 bytes that are loaded.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}
