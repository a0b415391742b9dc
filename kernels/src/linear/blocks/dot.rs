//! Blocks to pairs of bf16 with AVX-512: into a buffer, or, for a few rows of x, straight into dot
//! products, so that the weight's own bytes are all that is read.
//!
//! A half of a pair is a vector of f32; one instruction rounds both halves of a pair and leaves them
//! in the order of a panel's cell. It takes subnormals for zeros, which do not occur: scales are f16,
//! so every number is a multiple of 2^-24.

use std::arch::x86_64::*;
use std::mem::{self, MaybeUninit};

use plimsoll_planner::Dtype;

use crate::isa::Isa;
use crate::simd::{Avx512, LANES, Simd, array, unroll};

use super::super::bf16::pairs_of;
use super::super::product::{Chunk, Product};
use super::cell::Cell;
use super::kinds::{self, Q4_0, Q4_1, Q8_0};
use super::{PAIRS, SCALE_BYTES, Short, WORD_PAIRS, WORDS_BYTES};
use super::{group_bytes, head_bytes};

/// A block type that these kernels are compiled for.
trait Kind: kinds::Kind {
    const SHORT: Short;
}

impl Kind for Q4_0 {
    const SHORT: Short = Short::Q4_0;
}

impl Kind for Q4_1 {
    const SHORT: Short = Short::Q4_1;
}

impl Kind for Q8_0 {
    const SHORT: Short = Short::Q8_0;
}

/// Panels that are multiplied at a time.
const P: usize = 2;
/// Rows of x for which sums and scales of two panels fit into registers.
const MOST_TOKENS: usize = 8;

/// Whether [`multiply`] is the kernel of this chunk.
pub(super) fn takes(isa: Isa, product: &Product<'_>, chunk: &Chunk) -> bool {
    isa == Isa::Avx512Bf16
        && product.shape.dtype == Dtype::BFloat16
        && chunk.tokens.len() <= MOST_TOKENS
}

pub(super) fn multiply(product: &Product<'_>, chunk: &Chunk, format: Short) {
    assert!(Isa::Avx512Bf16.is_available(), "no bf16 dot products");
    // SAFETY: the check above says that this machine has the instructions.
    unsafe {
        match format {
            Short::Q4_0 => panels::<Q4_0>(product, chunk),
            Short::Q4_1 => panels::<Q4_1>(product, chunk),
            Short::Q8_0 => panels::<Q8_0>(product, chunk),
        }
    }
}

/// Writes every cell of whole groups of one panel: a column pair of bf16 each.
pub(super) fn expand(format: Short, stored: &[u8], cells: &mut [MaybeUninit<Cell>]) {
    assert!(Isa::Avx512Bf16.is_available(), "no bf16 dot products");
    // SAFETY: the check above says that this machine has the instructions.
    unsafe {
        match format {
            Short::Q4_0 => groups::<Q4_0>(stored, cells),
            Short::Q4_1 => groups::<Q4_1>(stored, cells),
            Short::Q8_0 => groups::<Q8_0>(stored, cells),
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn groups<K: Kind>(stored: &[u8], cells: &mut [MaybeUninit<Cell>]) {
    let (cells, _) = cells.as_chunks_mut::<PAIRS>();
    let groups = stored.chunks_exact(const { group_bytes(K::FORMAT) });
    for (group, cells) in groups.zip(cells) {
        let scales = Scales::of::<K>(group);
        for (at, cells) in cells.as_chunks_mut::<WORD_PAIRS>().0.iter_mut().enumerate() {
            let four = Four::load::<K>(group, at);
            unroll!(I in 0..4 {
                let pair = round(four.halves::<K, I>(&scales));
                // SAFETY: a cell has the 64 bytes that are stored, at a multiple of 64.
                unsafe { _mm512_store_si512(cells[I].as_mut_ptr().cast(), pair) };
            });
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn panels<K: Kind>(product: &Product<'_>, chunk: &Chunk) {
    match chunk.tokens.len() {
        0 => (),
        1 => by_two::<K, 1>(product, chunk),
        2 => by_two::<K, 2>(product, chunk),
        3..=4 => by_two::<K, 4>(product, chunk),
        _ => by_two::<K, MOST_TOKENS>(product, chunk),
    }
}

/// At most T rows of x by panels by two, columns in order: the sums of `bf16::block`. Where there are
/// fewer rows, the last one is multiplied again, and so is a last panel.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn by_two<K: Kind, const T: usize>(product: &Product<'_>, chunk: &Chunk) {
    for panel in chunk.panels.clone().step_by(P) {
        block::<K, T>(product, chunk, panel);
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn block<K: Kind, const T: usize>(product: &Product<'_>, chunk: &Chunk, panel: usize) {
    let tokens = &chunk.tokens;
    let last = chunk.panels.end - 1;
    let groups = product.shape.cols / super::GROUP;
    let bytes = const { group_bytes(K::FORMAT) };
    let mut weights: [&[u8]; P] = [&[]; P];
    for p in 0..P {
        weights[p] = &product.panel((panel + p).min(last))[..groups * bytes];
    }
    // The panels that come after these in the chunk, so that memory never waits for a panel's end.
    let mut next = weights;
    for p in 0..P {
        let after = (panel + P + p).min(last);
        next[p] = &product.panel(after)[..groups * bytes];
    }
    let mut x: [&[[[u8; 4]; PAIRS]]; T] = [&[]; T];
    for t in 0..T {
        let row = (tokens.start + t).min(tokens.end - 1);
        let pairs = product.row_bf16(row).as_chunks::<4>().0;
        x[t] = &pairs.as_chunks().0[..groups];
    }
    let mut sums = [[_mm512_setzero_ps(); T]; P];
    for g in 0..groups {
        let mut group: [&[u8]; P] = [&[]; P];
        let mut scales = [Scales::none(); P];
        for p in 0..P {
            group[p] = &weights[p][g * bytes..][..bytes];
            scales[p] = Scales::of::<K>(group[p]);
            Avx512::here().prefetch(&next[p][g * bytes..][..bytes]);
        }
        for at in 0..PAIRS / WORD_PAIRS {
            let mut fours = [Four::none(); P];
            for p in 0..P {
                fours[p] = Four::load::<K>(group[p], at);
            }
            unroll!(I in 0..4 {
                let mut step = [_mm512_setzero_si512(); P];
                for p in 0..P {
                    step[p] = round(fours[p].halves::<K, I>(&scales[p]));
                }
                unroll!(J in 0..12 { if J < T {
                    let x = i32::from_le_bytes(x[J][g][at * WORD_PAIRS + I]);
                    let x = pairs_of(_mm512_set1_epi32(x));
                    for p in 0..P {
                        sums[p][J] = _mm512_dpbf16_ps(sums[p][J], pairs_of(step[p]), x);
                    }
                } });
            });
        }
    }
    let s = Avx512::here();
    let mut lanes = [[[0.0; LANES]; P]; T];
    unroll!(J in 0..12 { if J < T {
        for p in 0..P {
            s.store(sums[p][J], &mut lanes[J][p]);
        }
    } });
    for (token, lanes) in tokens.clone().zip(&lanes) {
        for (p, lanes) in lanes.iter().enumerate().take(chunk.panels.end - panel) {
            product.put(s, token, panel + p, s.load(lanes));
        }
    }
}

/// d and m of a group for either half of a pair: each row's twice.
#[derive(Clone, Copy)]
struct Scales {
    d: [__m512; 2],
    /// Zeros where the type has none.
    m: [__m512; 2],
}

impl Scales {
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    #[inline]
    fn none() -> Scales {
        Scales {
            d: [_mm512_setzero_ps(); 2],
            m: [_mm512_setzero_ps(); 2],
        }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    #[inline]
    fn of<K: Kind>(group: &[u8]) -> Scales {
        let s = Avx512::here();
        Scales {
            d: s.twice(s.load_f16(array(group))),
            m: match K::SHORT {
                Short::Q4_0 | Short::Q8_0 => [_mm512_setzero_ps(); 2],
                Short::Q4_1 => s.twice(s.load_f16(array(&group[SCALE_BYTES..]))),
            },
        }
    }
}

/// Four column pairs of a group.
#[derive(Clone, Copy)]
struct Four<'a> {
    /// Of 4-bit types, all their numbers.
    words: __m512i,
    /// Of 8-bit types.
    bytes: &'a [u8; 8 * LANES],
}

impl<'a> Four<'a> {
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    #[inline]
    fn none() -> Four<'a> {
        Four {
            words: _mm512_setzero_si512(),
            bytes: &[0; 8 * LANES],
        }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    #[inline]
    fn load<K: Kind>(group: &'a [u8], at: usize) -> Four<'a> {
        let quants = &group[const { head_bytes(K::FORMAT) }..];
        match K::SHORT {
            Short::Q4_0 | Short::Q4_1 => {
                let words: &[u8; WORDS_BYTES] = array(&quants[at * WORDS_BYTES..]);
                // SAFETY: the array has the 64 bytes that are loaded.
                let words = unsafe { _mm512_loadu_si512(words.as_ptr().cast()) };
                Four {
                    words,
                    ..Four::none()
                }
            }
            Short::Q8_0 => Four {
                bytes: array(&quants[at * 8 * LANES..]),
                ..Four::none()
            },
        }
    }

    /// Both halves of a pair, as f32.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    #[inline]
    fn halves<K: Kind, const PAIR: usize>(&self, scales: &Scales) -> [__m512; 2] {
        let numbers = match K::SHORT {
            Short::Q4_0 | Short::Q4_1 => {
                let values = const { values::<K>() };
                // SAFETY: the array has the 64 bytes that are loaded.
                let values = unsafe { _mm512_loadu_ps(values.as_ptr()) };
                // The lookup takes the low four bits of each lane.
                let first = match PAIR {
                    0 => self.words,
                    1 => _mm512_srli_epi32::<8>(self.words),
                    2 => _mm512_srli_epi32::<16>(self.words),
                    _ => _mm512_srli_epi32::<24>(self.words),
                };
                let second = _mm512_srli_epi32::<4>(first);
                [
                    _mm512_permutexvar_ps(first, values),
                    _mm512_permutexvar_ps(second, values),
                ]
            }
            Short::Q8_0 => {
                let (s, bytes) = (Avx512::here(), &self.bytes[PAIR * 2 * LANES..]);
                [s.load_i8(array(bytes)), s.load_i8(array(&bytes[LANES..]))]
            }
        };
        let Scales { d, m } = scales;
        match K::SHORT {
            Short::Q4_0 | Short::Q8_0 => [
                _mm512_mul_ps(d[0], numbers[0]),
                _mm512_mul_ps(d[1], numbers[1]),
            ],
            // The product is exact, so one rounding is what two steps have.
            Short::Q4_1 => [
                _mm512_fmadd_ps(d[0], numbers[0], m[0]),
                _mm512_fmadd_ps(d[1], numbers[1], m[1]),
            ],
        }
    }
}

/// What the sixteen 4-bit numbers stand for.
const fn values<K: Kind>() -> [f32; LANES] {
    let mut values = [0.0 - K::ZERO; LANES];
    let mut at = 1;
    while at < LANES {
        values[at] = values[at - 1] + 1.0;
        at += 1;
    }
    values
}

/// A pair's numbers in bf16, `[row16][2]`.
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn round(halves: [__m512; 2]) -> __m512i {
    let pairs = _mm512_cvtne2ps_pbh(halves[1], halves[0]);
    // SAFETY: both are 64 bytes, and every bit pattern is a value of either.
    unsafe { mem::transmute(pairs) }
}
