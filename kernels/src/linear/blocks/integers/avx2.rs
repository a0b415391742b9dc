//! AVX2: numbers without sign and q in 16 bits each, two products added in 32 (`vpmaddwd`).

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::kinds::Kind;
use super::super::{PAIRS, WORDS_BYTES};
use super::{Form, GROUP, HEAD_BYTES, Product, Step, all_of, planes, scale_of, shift_of, table};
use crate::isa::Dots;
use crate::simd::{Avx2, LANES, Simd, array, unroll};

pub(super) fn multiply<K: Kind, const N: usize>(
    product: &Product<'_, N>,
    panels: Range<usize>,
    tokens: Range<usize>,
) {
    assert!(Dots::Avx2.is_available(), "no AVX2");
    // SAFETY: the check above says that this machine has the instructions.
    unsafe { by_panels::<K, N>(product, panels, tokens) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn by_panels<K: Kind, const N: usize>(
    product: &Product<'_, N>,
    panels: Range<usize>,
    tokens: Range<usize>,
) {
    for panel in panels {
        let mut token = tokens.start;
        while token < tokens.end {
            token += match tokens.end - token {
                1 => block::<K, N, 1>(product, panel, token),
                _ => block::<K, N, 2>(product, panel, token),
            };
        }
    }
}

/// T tokens by a panel; T.
#[target_feature(enable = "avx2,fma,f16c")]
fn block<K: Kind, const N: usize, const T: usize>(
    product: &Product<'_, N>,
    panel: usize,
    token: usize,
) -> usize {
    let s = Avx2::here();
    let (weights, grid) = (product.panel(panel), product.grid::<K>());
    let mut x: [&[[u8; N]]; T] = [&[]; T];
    for t in 0..T {
        x[t] = product.row(token + t);
    }
    let mut sums = [[_mm256_setzero_ps(); 2]; T];
    for at in 0..product.steps() {
        let step = Step::of::<K>(weights, grid, at);
        let mut x_of = [&[0; N]; T];
        for t in 0..T {
            x_of[t] = &x[t][at];
        }
        let dots = match K::LOW {
            8 => [of_pairs::<N, T>(step.numbers, x_of), zeros()],
            _ => of_planes::<K, N, T>(step.numbers, x_of),
        };
        let mut values = [[_mm256_setzero_ps(); 2]; T];
        let mut scales = [step.scales::<_, K>(s, 0); 2];
        if <K as Form>::PARTS == 2 {
            scales[1] = step.scales::<_, K>(s, 1);
        }
        for (part, (d, _)) in scales.iter().enumerate().take(<K as Form>::PARTS) {
            for t in 0..T {
                let shift = match <K as Form>::HAS_MINIMUM {
                    false => _mm256_set1_epi32(shift_of(x_of[t], part)),
                    true => _mm256_setzero_si256(),
                };
                let dots = dots[part][t];
                let dots = [
                    _mm256_cvtepi32_ps(_mm256_add_epi32(dots[0], shift)),
                    _mm256_cvtepi32_ps(_mm256_add_epi32(dots[1], shift)),
                ];
                values[t] = match part {
                    0 => s.mul(*d, dots),
                    _ => s.fma(*d, dots, values[t]),
                };
            }
        }
        if <K as Form>::HAS_MINIMUM {
            for (part, (_, m)) in scales.iter().enumerate().take(<K as Form>::PARTS) {
                for t in 0..T {
                    values[t] = s.fma(*m, s.splat(all_of(x_of[t], part)), values[t]);
                }
            }
        }
        for t in 0..T {
            sums[t] = s.fma(s.splat(scale_of(x_of[t])), values[t], sums[t]);
        }
    }
    for (t, sums) in sums.iter().enumerate() {
        product.out.put(s, token + t, panel, *sums, true);
    }
    T
}

/// Sums of rows 0..8, rows 8..16, of every token.
type Dots16<const T: usize> = [[__m256i; 2]; T];

#[target_feature(enable = "avx2")]
#[inline]
fn zeros<const T: usize>() -> Dots16<T> {
    [[_mm256_setzero_si256(); 2]; T]
}

/// Of planes, part by part. A word has four columns of a row: those in its even bytes are multiplied
/// apart from those in its odd ones.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn of_planes<K: Kind, const N: usize, const T: usize>(
    numbers: &[u8],
    x: [&[u8; N]; T],
) -> [Dots16<T>; 2] {
    let mut q = [[_mm256_setzero_si256(); 2]; T];
    for t in 0..T {
        q[t] = evens_and_odds(x[t]);
    }
    let mut parts = [zeros::<T>(); 2];
    // Of words 0..8 the low and the high halves (rows 0..8, rows 8..16), then of words 8..16.
    let mut sums = [[_mm256_setzero_si256(); 4]; T];
    unroll!(BLOCK in 0..4 {
        let bytes = eight::<K, BLOCK>(numbers);
        let even = _mm256_set1_epi16(0xFF);
        for t in 0..T {
            let q = [broadcast::<BLOCK>(q[t][0]), broadcast::<BLOCK>(q[t][1])];
            for (sum, bytes) in sums[t].iter_mut().zip(bytes) {
                let evens = _mm256_madd_epi16(_mm256_and_si256(bytes, even), q[0]);
                let odds = _mm256_madd_epi16(_mm256_srli_epi16::<8>(bytes), q[1]);
                *sum = _mm256_add_epi32(*sum, _mm256_add_epi32(evens, odds));
            }
        }
        if BLOCK % (4 / <K as Form>::PARTS) == 4 / <K as Form>::PARTS - 1 {
            for t in 0..T {
                for half in 0..2 {
                    // Even and odd columns of rows 0, 1, 4, 5, 2, 3, 6, 7.
                    let rows = _mm256_hadd_epi32(sums[t][half], sums[t][2 + half]);
                    parts[BLOCK * <K as Form>::PARTS / 4][t][half] =
                        _mm256_permute4x64_epi64::<0b11_01_10_00>(rows);
                }
                sums[t] = [_mm256_setzero_si256(); 4];
            }
        }
    });
    parts
}

/// The q of a group's even bytes, of its odd ones.
#[target_feature(enable = "avx2")]
#[inline]
fn evens_and_odds<const N: usize>(x: &[u8; N]) -> [__m256i; 2] {
    // Of eight columns the even ones, then the odd ones.
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    let plane = |bytes: &[u8]| _mm256_permutevar8x32_epi32(load(array(bytes)), order);
    let last = plane(&x[HEAD_BYTES + GROUP * (planes(N) - 1)..]);
    let low = [
        _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(last)),
        _mm256_srai_epi16::<8>(last),
    ];
    if planes(N) == 1 {
        return low;
    }
    let high = plane(&x[HEAD_BYTES..]);
    let tops = _mm256_set1_epi16(0xFF00_u16.cast_signed());
    [
        _mm256_add_epi16(_mm256_slli_epi16::<8>(high), low[0]),
        _mm256_add_epi16(_mm256_and_si256(high, tops), low[1]),
    ]
}

/// The `BLOCK`-th 64 bits, four times.
#[target_feature(enable = "avx2")]
#[inline]
fn broadcast<const BLOCK: usize>(q: __m256i) -> __m256i {
    match BLOCK {
        0 => _mm256_permute4x64_epi64::<0b00_00_00_00>(q),
        1 => _mm256_permute4x64_epi64::<0b01_01_01_01>(q),
        2 => _mm256_permute4x64_epi64::<0b10_10_10_10>(q),
        _ => _mm256_permute4x64_epi64::<0b11_11_11_11>(q),
    }
}

/// Eight columns as bytes without sign: of words 0..8 rows 0..8, rows 8..16, then of words 8..16.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn eight<K: Kind, const BLOCK: usize>(numbers: &[u8]) -> [__m256i; 4] {
    let mut all = [_mm256_setzero_si256(); 4];
    for words in 0..2 {
        let half = words * WORDS_BYTES / 2;
        let high = &numbers[const { K::LOW * WORDS_BYTES } + half * usize::from(K::HIGH > 0)..];
        let low = match K::LOW {
            4 => {
                let words = load(array(&numbers[BLOCK * WORDS_BYTES + half..]));
                let low = _mm256_set1_epi8(15);
                let last = _mm256_srli_epi16::<4>(words);
                [_mm256_and_si256(words, low), _mm256_and_si256(last, low)]
            }
            _ => two_bits::<BLOCK, 0>(&numbers[half..]),
        };
        let [first, last] = match (K::TABLE, K::HIGH) {
            (Some(_), _) => of_table(low, const { &table::<K>() }),
            (None, 0) => low,
            (None, 1) => with_bit::<BLOCK>(low, high, 1 << K::LOW),
            (None, _) => {
                let high = two_bits::<BLOCK, 4>(high);
                [
                    _mm256_or_si256(low[0], high[0]),
                    _mm256_or_si256(low[1], high[1]),
                ]
            }
        };
        (all[2 * words], all[2 * words + 1]) = (first, last);
    }
    all
}

/// What 4-bit numbers stand for.
#[target_feature(enable = "avx2")]
#[inline]
fn of_table(numbers: [__m256i; 2], table: &[u8; 16]) -> [__m256i; 2] {
    // SAFETY: the array has the 16 bytes that are loaded.
    let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
    let table = _mm256_broadcastsi128_si256(table);
    [
        _mm256_shuffle_epi8(table, numbers[0]),
        _mm256_shuffle_epi8(table, numbers[1]),
    ]
}

/// The numbers of a plane of 2 bits, at bit `AT` (0 or 4) of their bytes, as `vnni` has them.
#[target_feature(enable = "avx2")]
#[inline]
fn two_bits<const BLOCK: usize, const AT: u32>(plane: &[u8]) -> [__m256i; 2] {
    let words = load(array(&plane[BLOCK / 2 * WORDS_BYTES..]));
    // Each byte twice.
    let order = match BLOCK % 2 {
        0 => _mm_setr_epi8(0, 0, 1, 1, 4, 4, 5, 5, 8, 8, 9, 9, 12, 12, 13, 13),
        _ => _mm_setr_epi8(2, 2, 3, 3, 6, 6, 7, 7, 10, 10, 11, 11, 14, 14, 15, 15),
    };
    let twice = _mm256_shuffle_epi8(words, _mm256_broadcastsi128_si256(order));
    let odd = _mm256_set1_epi16(0xFF00_u16.cast_signed());
    let fields = match AT {
        0 => _mm256_blendv_epi8(twice, _mm256_srli_epi16::<4>(twice), odd),
        _ => _mm256_blendv_epi8(_mm256_slli_epi16::<4>(twice), twice, odd),
    };
    let field = _mm256_set1_epi8(3 << AT);
    let last = _mm256_srli_epi16::<2>(fields);
    [
        _mm256_and_si256(fields, field),
        _mm256_and_si256(last, field),
    ]
}

/// The numbers with their highest bit from a plane of 1 bit, as `vnni` has them.
#[target_feature(enable = "avx2")]
#[inline]
fn with_bit<const BLOCK: usize>(
    [first, last]: [__m256i; 2],
    plane: &[u8],
    bit: i8,
) -> [__m256i; 2] {
    #[expect(clippy::cast_possible_truncation, reason = "below 4")]
    let byte = _mm256_set1_epi32(0x0101_0101 * BLOCK as i32);
    let lanes = _mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12);
    let order = _mm256_add_epi8(byte, _mm256_broadcastsi128_si256(lanes));
    let bits = _mm256_shuffle_epi8(load(array(plane)), order);
    let of_first = _mm256_set1_epi32(0x4010_0401);
    let of_last = _mm256_set1_epi32(0x8020_0802_u32.cast_signed());
    let bit = _mm256_set1_epi8(bit);
    let set = [
        _mm256_cmpeq_epi8(_mm256_and_si256(bits, of_first), of_first),
        _mm256_cmpeq_epi8(_mm256_and_si256(bits, of_last), of_last),
    ];
    [
        _mm256_or_si256(first, _mm256_and_si256(set[0], bit)),
        _mm256_or_si256(last, _mm256_and_si256(set[1], bit)),
    ]
}

/// Of bytes with signs, column pair by column pair, their highest bit flipped.
#[target_feature(enable = "avx2")]
#[inline]
fn of_pairs<const N: usize, const T: usize>(numbers: &[u8], x: [&[u8; N]; T]) -> Dots16<T> {
    let mut q = [[0; GROUP]; T];
    for t in 0..T {
        q[t] = numbers_of(x[t]);
    }
    let mut sums = zeros::<T>();
    for pair in 0..PAIRS {
        let bytes: &[u8; 2 * LANES] = array(&numbers[pair * 2 * LANES..]);
        let bytes = _mm256_xor_si256(load(bytes), _mm256_set1_epi8(-128));
        let rows = [
            _mm256_cvtepu8_epi16(_mm256_castsi256_si128(bytes)),
            _mm256_cvtepu8_epi16(_mm256_extracti128_si256::<1>(bytes)),
        ];
        for t in 0..T {
            let [a, b] = *array(&q[t][2 * pair..]);
            let two = _mm256_set1_epi32(i32::from(a) & 0xFFFF | i32::from(b) << 16);
            for (sum, rows) in sums[t].iter_mut().zip(rows) {
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(rows, two));
            }
        }
    }
    sums
}

/// The q of a group.
#[inline(always)]
fn numbers_of<const N: usize>(x: &[u8; N]) -> [i16; GROUP] {
    let plane: &[u8; GROUP] = array(&x[HEAD_BYTES..]);
    let first = plane.map(|byte| i16::from(byte.cast_signed()));
    if planes(N) == 1 {
        return first;
    }
    let low: &[u8; GROUP] = array(&x[HEAD_BYTES + GROUP..]);
    std::array::from_fn(|at| (first[at] << 8) + i16::from(low[at].cast_signed()))
}

#[target_feature(enable = "avx2")]
#[inline]
fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: the array has the 32 bytes that are loaded.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}
