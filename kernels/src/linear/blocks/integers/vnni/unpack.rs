//! Numbers of few bits to bytes without sign: four columns of sixteen rows a vector.

use std::arch::x86_64::*;

use super::super::super::WORDS_BYTES;
use super::super::super::kinds::Kind;
use super::super::table;
use super::QUADS;
use crate::simd::{array, unroll};

/// 32 columns of sixteen rows, four of a row in a lane: those at places 4 i.. of a plane of x, then at
/// 16 + 4 i.., for i = 0 to 3.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
pub(super) fn quads<K: Kind>(numbers: &[u8]) -> [__m512i; QUADS] {
    let mut quads = [_mm512_setzero_si512(); QUADS];
    unroll!(I in 0..4 {
        [quads[2 * I], quads[2 * I + 1]] = match K::LOW {
            8 => {
                let numbers = &numbers[64 * I..];
                [of_pairs(array(numbers)), of_pairs(array(&numbers[256..]))]
            }
            _ => {
                let [first, last] = of_planes::<K, I>(numbers);
                // A row's even columns lie in an even lane, the odd ones behind it.
                let even =
                    _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
                let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
                [
                    _mm512_permutex2var_epi32(first, even, last),
                    _mm512_permutex2var_epi32(first, odd, last),
                ]
            }
        };
    });
    quads
}

/// Two column pairs of sixteen rows with signs.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
fn of_pairs(pairs: &[u8; 64]) -> __m512i {
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

/// The `BLOCK`-th eight columns of rows 0..8, then of rows 8..16: of a row the four even columns in a
/// lane, the odd ones in the next.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
fn of_planes<K: Kind, const BLOCK: usize>(numbers: &[u8]) -> [__m512i; 2] {
    let high = &numbers[const { K::LOW * WORDS_BYTES }..];
    let low = match K::LOW {
        4 => {
            let words = load(array(&numbers[BLOCK * WORDS_BYTES..]));
            let low = _mm512_set1_epi8(15);
            let last = _mm512_srli_epi16::<4>(words);
            [_mm512_and_si512(words, low), _mm512_and_si512(last, low)]
        }
        _ => two_bits::<BLOCK, 0>(numbers),
    };
    if K::TABLE.is_some() {
        return of_table(low, const { &table::<K>() });
    }
    match (K::HIGH, K::LOW) {
        (1, 4) => with_bit::<BLOCK, 4>(low, high),
        (1, _) => with_bit::<BLOCK, 2>(low, high),
        (2, _) => {
            let [first, last] = two_bits::<BLOCK, 4>(high);
            [
                _mm512_or_si512(low[0], first),
                _mm512_or_si512(low[1], last),
            ]
        }
        _ => low,
    }
}

/// What 4-bit numbers stand for.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
fn of_table(numbers: [__m512i; 2], table: &[u8; 16]) -> [__m512i; 2] {
    // SAFETY: the array has the 16 bytes that are loaded.
    let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
    let table = _mm512_broadcast_i32x4(table);
    [
        _mm512_shuffle_epi8(table, numbers[0]),
        _mm512_shuffle_epi8(table, numbers[1]),
    ]
}

/// The numbers of a plane of 2 bits, at bit `AT` (0 or 4) of their bytes. In a word, the eight columns
/// of either half have two bytes; of byte b the rows 0..8 have bits 0, 1 and 4, 5.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
fn two_bits<const BLOCK: usize, const AT: u32>(plane: &[u8]) -> [__m512i; 2] {
    const ODD: u64 = 0xAAAA_AAAA_AAAA_AAAA;
    let words = load(array(&plane[BLOCK / 2 * WORDS_BYTES..]));
    // Each byte twice.
    let order = match BLOCK % 2 {
        0 => _mm_setr_epi8(0, 0, 1, 1, 4, 4, 5, 5, 8, 8, 9, 9, 12, 12, 13, 13),
        _ => _mm_setr_epi8(2, 2, 3, 3, 6, 6, 7, 7, 10, 10, 11, 11, 14, 14, 15, 15),
    };
    let twice = _mm512_shuffle_epi8(words, _mm512_broadcast_i32x4(order));
    let fields = match AT {
        0 => _mm512_mask_blend_epi8(ODD, twice, _mm512_srli_epi16::<4>(twice)),
        _ => _mm512_mask_blend_epi8(ODD, _mm512_slli_epi16::<4>(twice), twice),
    };
    let field = _mm512_set1_epi8(3 << AT);
    let last = _mm512_srli_epi16::<2>(fields);
    [
        _mm512_and_si512(fields, field),
        _mm512_and_si512(last, field),
    ]
}

/// The numbers with their highest bit, at bit `AT` of their bytes, from a plane of 1 bit: of a word, eight
/// columns have one byte, in which rows 0..8 have the even bits.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
fn with_bit<const BLOCK: usize, const AT: u32>(
    [first, last]: [__m512i; 2],
    plane: &[u8],
) -> [__m512i; 2] {
    let words = load(array(plane));
    #[expect(clippy::cast_possible_truncation, reason = "below 4")]
    let byte = _mm512_set1_epi32(0x0101_0101 * BLOCK as i32);
    let order = _mm512_add_epi8(
        byte,
        _mm512_broadcast_i32x4(_mm_setr_epi8(
            0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12,
        )),
    );
    let bits = _mm512_shuffle_epi8(words, order);
    let bit = _mm512_set1_epi8(1 << AT);
    let of_first = _mm512_test_epi8_mask(bits, _mm512_set1_epi32(0x4010_0401));
    let of_last = _mm512_test_epi8_mask(bits, _mm512_set1_epi32(0x8020_0802_u32.cast_signed()));
    [
        _mm512_mask_add_epi8(first, of_first, first, bit),
        _mm512_mask_add_epi8(last, of_last, last, bit),
    ]
}

#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn load(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: the array has the 64 bytes that are loaded.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}
