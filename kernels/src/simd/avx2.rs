//! Sixteen lanes in two AVX registers: the low eight, the high eight.

use std::arch::x86_64::*;

use super::squares::{Two, add_quads, sum_quads, transpose_four, twice, unzip};
use super::{LANES, Simd, Work};

/// Proof that this machine has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// Callable only where the instructions are known to be there.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    pub(crate) fn here() -> Avx2 {
        Avx2(())
    }
}

macro_rules! proved {
    ($body:expr) => {
        // SAFETY: `self` proves that this machine has the instructions, and pointers come from
        // references to arrays of exactly the size that is loaded or stored.
        unsafe { $body }
    };
}

macro_rules! each {
    ($function:ident, $($v:ident),+) => { proved!([$function($($v[0]),+), $function($($v[1]),+)]) };
}

/// Runs a kernel in a function of its own, which is compiled for these instructions.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)]
pub(super) fn run(work: impl Work) {
    work.run(Avx2::here());
}

impl Simd for Avx2 {
    type V = Two;
    const VECTORS: usize = 8;

    #[inline(always)]
    fn splat(self, value: f32) -> Two {
        proved!([_mm256_set1_ps(value); 2])
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Two {
        proved!([
            _mm256_loadu_ps(from.as_ptr()),
            _mm256_loadu_ps(from[8..].as_ptr())
        ])
    }

    #[inline(always)]
    fn store(self, v: Two, to: &mut [f32; LANES]) {
        proved!({
            _mm256_storeu_ps(to.as_mut_ptr(), v[0]);
            _mm256_storeu_ps(to[8..].as_mut_ptr(), v[1]);
        })
    }

    #[inline(always)]
    fn add(self, a: Two, b: Two) -> Two {
        each!(_mm256_add_ps, a, b)
    }

    #[inline(always)]
    fn sub(self, a: Two, b: Two) -> Two {
        each!(_mm256_sub_ps, a, b)
    }

    #[inline(always)]
    fn mul(self, a: Two, b: Two) -> Two {
        each!(_mm256_mul_ps, a, b)
    }

    #[inline(always)]
    fn div(self, a: Two, b: Two) -> Two {
        each!(_mm256_div_ps, a, b)
    }

    #[inline(always)]
    fn fma(self, a: Two, b: Two, c: Two) -> Two {
        each!(_mm256_fmadd_ps, a, b, c)
    }

    #[inline(always)]
    fn max(self, a: Two, b: Two) -> Two {
        each!(_mm256_max_ps, a, b)
    }

    #[inline(always)]
    fn min(self, a: Two, b: Two) -> Two {
        each!(_mm256_min_ps, a, b)
    }

    #[inline(always)]
    fn round(self, v: Two) -> Two {
        each!(round, v)
    }

    #[inline(always)]
    fn pow2(self, n: Two) -> Two {
        each!(pow2, n)
    }

    #[inline(always)]
    fn select_lt(self, a: Two, b: Two, yes: Two, no: Two) -> Two {
        each!(select_lt, a, b, yes, no)
    }

    #[inline(always)]
    fn sum(self, v: Two) -> f32 {
        proved!(sum(_mm256_add_ps(v[0], v[1])))
    }

    #[inline(always)]
    fn largest(self, v: Two) -> f32 {
        proved!(largest(_mm256_max_ps(v[0], v[1])))
    }

    #[inline(always)]
    fn load_bf16(self, from: &[u8; 2 * LANES]) -> Two {
        proved!({
            let words = _mm256_loadu_si256(from.as_ptr().cast());
            let low = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(words));
            let high = _mm256_cvtepu16_epi32(_mm256_extracti128_si256::<1>(words));
            let (low, high) = (_mm256_slli_epi32::<16>(low), _mm256_slli_epi32::<16>(high));
            [_mm256_castsi256_ps(low), _mm256_castsi256_ps(high)]
        })
    }

    #[inline(always)]
    fn load_f16(self, from: &[u8; 2 * LANES]) -> Two {
        proved!({
            let low = _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast()));
            let high = _mm256_cvtph_ps(_mm_loadu_si128(from[16..].as_ptr().cast()));
            [low, high]
        })
    }

    #[inline(always)]
    fn store_bf16(self, v: Two, to: &mut [u8; 2 * LANES]) {
        proved!({
            let words = pack_low(top_half(v[0]), top_half(v[1]));
            _mm256_storeu_si256(to.as_mut_ptr().cast(), words);
        })
    }

    #[inline(always)]
    fn store_f16(self, v: Two, to: &mut [u8; 2 * LANES]) {
        proved!({
            let low = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[0]);
            let high = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[1]);
            _mm_storeu_si128(to.as_mut_ptr().cast(), low);
            _mm_storeu_si128(to[16..].as_mut_ptr().cast(), high);
        })
    }

    #[inline(always)]
    fn split_bf16(self, pairs: Two) -> (Two, Two) {
        (each!(first_bf16, pairs), each!(second_bf16, pairs))
    }

    #[inline(always)]
    fn split_f16(self, pairs: Two) -> (Two, Two) {
        proved!({
            let (low, high) = (_mm256_castps_si256(pairs[0]), _mm256_castps_si256(pairs[1]));
            let bottom = _mm256_set1_epi32(0xFFFF);
            let first = pack_low(
                _mm256_and_si256(low, bottom),
                _mm256_and_si256(high, bottom),
            );
            let second = pack_low(_mm256_srli_epi32::<16>(low), _mm256_srli_epi32::<16>(high));
            (widen_f16(first), widen_f16(second))
        })
    }

    #[inline(always)]
    fn nibble(self, words: Two, shift: u32, first: f32) -> Two {
        proved!([
            nibble(words[0], shift, first),
            nibble(words[1], shift, first)
        ])
    }

    #[inline(always)]
    fn bits(self, words: Two, shift: u32, field: u32) -> Two {
        proved!([bits(words[0], shift, field), bits(words[1], shift, field)])
    }

    #[inline(always)]
    fn lookup(self, words: Two, shift: u32, table: &[f32; LANES]) -> Two {
        proved!([
            lookup(words[0], shift, table),
            lookup(words[1], shift, table)
        ])
    }

    #[inline(always)]
    fn load_i8(self, from: &[u8; LANES]) -> Two {
        proved!({
            let bytes = _mm_loadu_si128(from.as_ptr().cast());
            let high = _mm_unpackhi_epi64(bytes, bytes);
            [
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high)),
            ]
        })
    }

    #[inline(always)]
    fn signed_byte<const N: usize>(self, words: Two) -> Two {
        words.map(|words| {
            proved!({
                let up = _mm_cvtsi64_si128(24 - 8 * N as i64);
                let top = _mm256_sll_epi32(_mm256_castps_si256(words), up);
                _mm256_cvtepi32_ps(_mm256_srai_epi32::<24>(top))
            })
        })
    }

    #[inline(always)]
    fn store_i8(self, v: Two, to: &mut [u8; LANES]) {
        proved!({
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(v[0]), _mm256_cvtps_epi32(v[1]));
            // Packing goes by halves of a register.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let (low, high) = (
                _mm256_castsi256_si128(words),
                _mm256_extracti128_si256::<1>(words),
            );
            _mm_storeu_si128(to.as_mut_ptr().cast(), _mm_packs_epi16(low, high));
        })
    }

    #[inline(always)]
    fn twice(self, v: Two) -> [Two; 2] {
        proved!([twice(v[0]), twice(v[1])])
    }

    #[inline(always)]
    fn unzip(self, a: Two, b: Two) -> (Two, Two) {
        proved!((
            [unzip::<0x88>(a), unzip::<0x88>(b)],
            [unzip::<0xDD>(a), unzip::<0xDD>(b)],
        ))
    }

    #[inline(always)]
    fn prefetch(self, bytes: &[u8]) {
        for line in bytes.chunks(64) {
            proved!(_mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()));
        }
    }

    #[inline(always)]
    fn prefetch_l2(self, bytes: &[u8]) {
        for line in bytes.chunks(64) {
            proved!(_mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()));
        }
    }

    #[inline(always)]
    fn transpose(self, rows: &mut [Two; LANES]) {
        proved!(transpose_four(rows))
    }

    #[inline(always)]
    fn apart(self, work: impl Work) {
        proved!(run(work))
    }

    #[inline(always)]
    fn sum_quads(self, [a, b, c, d]: [Two; 4]) -> Two {
        each!(sum_quads, a, b, c, d)
    }

    #[inline(always)]
    fn add_quads(self, [a, b, c, d]: [Two; 4]) -> Two {
        proved!([add_quads(a, b), add_quads(c, d)])
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn first_bf16(pairs: __m256) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(pairs)))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn second_bf16(pairs: __m256) -> __m256 {
    let top = _mm256_set1_epi32(0xFFFF_0000_u32.cast_signed());
    _mm256_castsi256_ps(_mm256_and_si256(_mm256_castps_si256(pairs), top))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn nibble(words: __m256, shift: u32, first: f32) -> __m256 {
    let shift = _mm_cvtsi32_si128(shift.cast_signed());
    let low = _mm256_srl_epi32(_mm256_castps_si256(words), shift);
    let low = _mm256_and_si256(low, _mm256_set1_epi32(15));
    _mm256_add_ps(_mm256_cvtepi32_ps(low), _mm256_set1_ps(first))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn bits(words: __m256, shift: u32, field: u32) -> __m256 {
    let shift = _mm_cvtsi32_si128(shift.cast_signed());
    let low = _mm256_srl_epi32(_mm256_castps_si256(words), shift);
    let field = _mm256_set1_epi32(field.cast_signed());
    _mm256_cvtepi32_ps(_mm256_and_si256(low, field))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn lookup(words: __m256, shift: u32, table: &[f32; LANES]) -> __m256 {
    let shift = _mm_cvtsi32_si128(shift.cast_signed());
    let at = _mm256_srl_epi32(_mm256_castps_si256(words), shift);
    let (first, second) = table.split_at(LANES / 2);
    // SAFETY: either half has the 32 bytes that are loaded.
    let first = unsafe { _mm256_loadu_ps(first.as_ptr()) };
    // SAFETY: as above.
    let second = unsafe { _mm256_loadu_ps(second.as_ptr()) };
    // Lookups take the low three bits of each lane, the choice its topmost.
    let first = _mm256_permutevar8x32_ps(first, at);
    let second = _mm256_permutevar8x32_ps(second, at);
    let fourth = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(at));
    _mm256_blendv_ps(first, second, fourth)
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn round(v: __m256) -> __m256 {
    _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v)
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn pow2(n: __m256) -> __m256 {
    let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn select_lt(a: __m256, b: __m256, yes: __m256, no: __m256) -> __m256 {
    _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b))
}

/// Halves are added until one lane is left.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn sum(v: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn largest(v: __m256) -> f32 {
    let four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
}

/// The bf16 bits of each lane, rounded to nearest even, in the low half of its word.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn top_half(v: __m256) -> __m256i {
    let bits = _mm256_castps_si256(v);
    let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
    let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
    // Rounding must not turn a NaN into a number: keep its top half and make it quiet.
    let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
    let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
    _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan))
}

/// The low halves of sixteen words (each at most 0xFFFF), in order.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn pack_low(low: __m256i, high: __m256i) -> __m256i {
    _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(low, high))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn widen_f16(halves: __m256i) -> Two {
    let high = _mm256_extracti128_si256::<1>(halves);
    [
        _mm256_cvtph_ps(_mm256_castsi256_si128(halves)),
        _mm256_cvtph_ps(high),
    ]
}
