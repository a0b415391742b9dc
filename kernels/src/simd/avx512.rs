//! Sixteen lanes in one AVX-512 register.

use std::arch::x86_64::*;

use super::{LANES, Simd, Work};

/// Proof that this machine has AVX-512 F, BW, DQ and VL, with AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// Callable only where the instructions are known to be there.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
    #[inline]
    pub(crate) fn here() -> Avx512 {
        Avx512(())
    }
}

macro_rules! proved {
    ($body:expr) => {
        // SAFETY: `self` proves that this machine has the instructions, and pointers come from
        // references to arrays of exactly the size that is loaded or stored.
        unsafe { $body }
    };
}

/// Runs a kernel in a function of its own, which is compiled for these instructions.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
#[inline(never)]
pub(super) fn run(work: impl Work) {
    work.run(Avx512::here());
}

impl Simd for Avx512 {
    type V = __m512;
    const VECTORS: usize = 32;

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        proved!(_mm512_set1_ps(value))
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> __m512 {
        proved!(_mm512_loadu_ps(from.as_ptr()))
    }

    #[inline(always)]
    fn store(self, v: __m512, to: &mut [f32; LANES]) {
        proved!(_mm512_storeu_ps(to.as_mut_ptr(), v))
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        proved!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        proved!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        proved!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        proved!(_mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        proved!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        proved!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        proved!(_mm512_min_ps(a, b))
    }

    #[inline(always)]
    fn round(self, v: __m512) -> __m512 {
        proved!(_mm512_roundscale_ps::<
            { _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC },
        >(v))
    }

    #[inline(always)]
    fn pow2(self, n: __m512) -> __m512 {
        proved!({
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
        })
    }

    #[inline(always)]
    fn select_lt(self, a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
        proved!(_mm512_mask_blend_ps(
            _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b),
            no,
            yes
        ))
    }

    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        proved!({
            let half = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            super::avx2::sum(half)
        })
    }

    #[inline(always)]
    fn largest(self, v: __m512) -> f32 {
        proved!({
            let half = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            super::avx2::largest(half)
        })
    }

    #[inline(always)]
    fn load_bf16(self, from: &[u8; 2 * LANES]) -> __m512 {
        proved!({
            let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
        })
    }

    #[inline(always)]
    fn load_f16(self, from: &[u8; 2 * LANES]) -> __m512 {
        proved!(_mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())))
    }

    #[inline(always)]
    fn store_bf16(self, v: __m512, to: &mut [u8; 2 * LANES]) {
        proved!({
            let bits = _mm512_castps_si512(v);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF));
            let rounded = _mm512_add_epi32(bits, half);
            // Rounding must not turn a NaN into a number: keep its top half and make it quiet.
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x40_0000));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            let kept = _mm512_mask_blend_epi32(nan, rounded, quiet);
            let halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(kept));
            _mm256_storeu_si256(to.as_mut_ptr().cast(), halves);
        })
    }

    #[inline(always)]
    fn store_f16(self, v: __m512, to: &mut [u8; 2 * LANES]) {
        proved!({
            let halves = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v);
            _mm256_storeu_si256(to.as_mut_ptr().cast(), halves);
        })
    }

    #[inline(always)]
    fn split_bf16(self, pairs: __m512) -> (__m512, __m512) {
        proved!({
            let pairs = _mm512_castps_si512(pairs);
            let first = _mm512_slli_epi32::<16>(pairs);
            let second = _mm512_and_si512(pairs, _mm512_set1_epi32(0xFFFF_0000_u32.cast_signed()));
            (_mm512_castsi512_ps(first), _mm512_castsi512_ps(second))
        })
    }

    #[inline(always)]
    fn split_f16(self, pairs: __m512) -> (__m512, __m512) {
        proved!({
            let pairs = _mm512_castps_si512(pairs);
            let first = _mm512_cvtepi32_epi16(pairs);
            let second = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(pairs));
            (_mm512_cvtph_ps(first), _mm512_cvtph_ps(second))
        })
    }

    #[inline(always)]
    fn nibble(self, words: __m512, shift: u32, first: f32) -> __m512 {
        proved!({
            let values = _mm512_setr_ps(
                0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0,
                15.0,
            );
            let values = _mm512_add_ps(values, _mm512_set1_ps(first));
            let shift = _mm_cvtsi32_si128(shift.cast_signed());
            let at = _mm512_srl_epi32(_mm512_castps_si512(words), shift);
            // The lookup takes the low four bits of each lane.
            _mm512_permutexvar_ps(at, values)
        })
    }

    #[inline(always)]
    fn bits(self, words: __m512, shift: u32, field: u32) -> __m512 {
        proved!({
            let shift = _mm_cvtsi32_si128(shift.cast_signed());
            let low = _mm512_srl_epi32(_mm512_castps_si512(words), shift);
            let field = _mm512_set1_epi32(field.cast_signed());
            _mm512_cvtepi32_ps(_mm512_and_si512(low, field))
        })
    }

    #[inline(always)]
    fn lookup(self, words: __m512, shift: u32, table: &[f32; LANES]) -> __m512 {
        let table = self.load(table);
        proved!({
            let shift = _mm_cvtsi32_si128(shift.cast_signed());
            let at = _mm512_srl_epi32(_mm512_castps_si512(words), shift);
            // The lookup takes the low four bits of each lane.
            _mm512_permutexvar_ps(at, table)
        })
    }

    #[inline(always)]
    fn load_i8(self, from: &[u8; LANES]) -> __m512 {
        proved!({
            let bytes = _mm_loadu_si128(from.as_ptr().cast());
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))
        })
    }

    #[inline(always)]
    fn signed_byte<const N: usize>(self, words: __m512) -> __m512 {
        proved!({
            // Constants once this is inlined.
            let up = _mm_cvtsi64_si128(24 - 8 * N as i64);
            let top = _mm512_sll_epi32(_mm512_castps_si512(words), up);
            _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(top))
        })
    }

    #[inline(always)]
    fn store_i8(self, v: __m512, to: &mut [u8; LANES]) {
        proved!({
            let bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v));
            _mm_storeu_si128(to.as_mut_ptr().cast(), bytes);
        })
    }

    #[inline(always)]
    fn twice(self, v: __m512) -> [__m512; 2] {
        proved!({
            let low = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
            let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
            [
                _mm512_permutexvar_ps(low, v),
                _mm512_permutexvar_ps(high, v),
            ]
        })
    }

    #[inline(always)]
    fn unzip(self, a: __m512, b: __m512) -> (__m512, __m512) {
        proved!({
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
            (
                _mm512_permutex2var_ps(a, even, b),
                _mm512_permutex2var_ps(a, odd, b),
            )
        })
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
    fn transpose(self, rows: &mut [__m512; LANES]) {
        proved!(transpose(rows))
    }

    #[inline(always)]
    fn apart(self, work: impl Work) {
        proved!(run(work))
    }

    #[inline(always)]
    fn sum_quads(self, [a, b, c, d]: [__m512; 4]) -> __m512 {
        proved!({
            let two = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let four = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
            let (two, four) = (_mm512_castps_pd(two), _mm512_castps_pd(four));
            _mm512_add_ps(
                _mm512_castpd_ps(_mm512_unpacklo_pd(two, four)),
                _mm512_castpd_ps(_mm512_unpackhi_pd(two, four)),
            )
        })
    }

    #[inline(always)]
    fn add_quads(self, [a, b, c, d]: [__m512; 4]) -> __m512 {
        proved!({
            // Quads 0 and 2 of two rows, and 1 and 3: their sums are 0 + 1 and 2 + 3.
            let (even, odd) = (
                _mm512_shuffle_f32x4::<0x88>(a, b),
                _mm512_shuffle_f32x4::<0xDD>(a, b),
            );
            let low = _mm512_add_ps(even, odd);
            let (even, odd) = (
                _mm512_shuffle_f32x4::<0x88>(c, d),
                _mm512_shuffle_f32x4::<0xDD>(c, d),
            );
            let high = _mm512_add_ps(even, odd);
            _mm512_add_ps(
                _mm512_shuffle_f32x4::<0x88>(low, high),
                _mm512_shuffle_f32x4::<0xDD>(low, high),
            )
        })
    }
}

/// Pairs of rows by 32 and 64 bits inside each quarter, then quarters by 128 bits.
#[target_feature(enable = "avx512f")]
#[inline]
fn transpose(rows: &mut [__m512; LANES]) {
    let mut t = *rows;
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
    }
    let pd = |a: __m512| _mm512_castps_pd(a);
    let mut u = t;
    for i in 0..4 {
        let (a, b, c, d) = (
            pd(t[4 * i]),
            pd(t[4 * i + 1]),
            pd(t[4 * i + 2]),
            pd(t[4 * i + 3]),
        );
        u[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        u[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        u[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
        u[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
    // u[4 i + j] holds, in quarter q, column 4 q + j of rows 4 i..4 i + 4.
    for j in 0..4 {
        let low = _mm512_shuffle_f32x4::<0x88>(u[j], u[4 + j]);
        let high = _mm512_shuffle_f32x4::<0x88>(u[8 + j], u[12 + j]);
        rows[j] = _mm512_shuffle_f32x4::<0x88>(low, high);
        rows[8 + j] = _mm512_shuffle_f32x4::<0xDD>(low, high);
        let low = _mm512_shuffle_f32x4::<0xDD>(u[j], u[4 + j]);
        let high = _mm512_shuffle_f32x4::<0xDD>(u[8 + j], u[12 + j]);
        rows[4 + j] = _mm512_shuffle_f32x4::<0x88>(low, high);
        rows[12 + j] = _mm512_shuffle_f32x4::<0xDD>(low, high);
    }
}
