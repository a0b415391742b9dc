//! Blocks to pairs of bf16 with AVX-512: into a buffer, or, for a few rows of x, straight into dot
//! products, so that the weight's own bytes are all that is read.
//!
//! A half of a pair is a vector of f32; one instruction rounds both halves of a pair and leaves them
//! in the order of a panel's cell. It takes subnormals for zeros, which do not occur: scales are f16,
//! and zero points whole, so every number is a multiple of 2^-24.

use std::arch::x86_64::*;
use std::mem::{self, MaybeUninit};
use std::ops::Range;

use plimsoll_planner::Dtype;

use crate::isa::Isa;
use crate::simd::{Avx512, LANES, Simd, array, unroll};

use super::super::bf16::pairs_of;
use super::super::product::{Chunk, Product};
use super::cell::Cell;
use super::kinds::{self, Kind, Q4_0, Q4_1, Q8_0, Z4By32, Z4By128, Z8By32};
use super::{GROUP, Grid, PAIRS, SCALE_BYTES, Short, WORD_PAIRS, WORDS_BYTES};
use super::{head_bytes, step_bytes, steps_of_block};

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
            Short::Z4By32 => panels::<Z4By32>(product, chunk),
            Short::Z4By128 => panels::<Z4By128>(product, chunk),
            Short::Z8By32 => panels::<Z8By32>(product, chunk),
        }
    }
}

/// Writes every cell of some steps of one panel: a column pair of bf16 each.
pub(super) fn expand(
    format: Short,
    grid: Grid,
    steps: (&[u8], Range<usize>),
    cells: &mut [MaybeUninit<Cell>],
) {
    assert!(Isa::Avx512Bf16.is_available(), "no bf16 dot products");
    // SAFETY: the check above says that this machine has the instructions.
    unsafe {
        match format {
            Short::Q4_0 => groups::<Q4_0>(grid, steps, cells),
            Short::Q4_1 => groups::<Q4_1>(grid, steps, cells),
            Short::Q8_0 => groups::<Q8_0>(grid, steps, cells),
            Short::Z4By32 => groups::<Z4By32>(grid, steps, cells),
            Short::Z4By128 => groups::<Z4By128>(grid, steps, cells),
            Short::Z8By32 => groups::<Z8By32>(grid, steps, cells),
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn groups<K: Kind>(
    grid: Grid,
    (panel, steps): (&[u8], Range<usize>),
    cells: &mut [MaybeUninit<Cell>],
) {
    let grid = known::<K>(grid);
    let (cells, _) = cells.as_chunks_mut::<PAIRS>();
    for (step, cells) in steps.zip(cells) {
        let group = Group::of::<K>(panel, grid, step);
        let scales = Scales::of::<K>(group.head);
        for (at, cells) in cells.as_chunks_mut::<WORD_PAIRS>().0.iter_mut().enumerate() {
            let four = Four::load::<K>(group.numbers, at);
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

/// The grid of a constant format, so that sizes are, and in short blocks where they lie.
const fn known<K: Kind>(grid: Grid) -> Grid {
    Grid {
        format: K::FORMAT,
        skipped: match steps_of_block(K::FORMAT) {
            1 => 0,
            _ => grid.skipped,
        },
    }
}

/// 32 columns of a panel.
#[derive(Clone, Copy)]
struct Group<'a> {
    /// Of their block.
    head: &'a [u8],
    numbers: &'a [u8],
}

impl<'a> Group<'a> {
    #[inline(always)]
    fn of<K: Kind>(panel: &'a [u8], grid: Grid, step: usize) -> Group<'a> {
        let (block, _) = grid.place(step);
        let block = &panel[grid.head(block)..grid.numbers(step) + const { step_bytes(K::FORMAT) }];
        let (before, numbers) = block.split_at(block.len() - const { step_bytes(K::FORMAT) });
        Group {
            head: &before[..const { head_bytes(K::FORMAT) }],
            numbers,
        }
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
    let groups = product.shape.cols / GROUP;
    let grid = known::<K>(Grid::of(&product.shape, K::FORMAT));
    let mut weights: [&[u8]; P] = [&[]; P];
    for p in 0..P {
        weights[p] = product.panel((panel + p).min(last));
    }
    // The panels that come after these in the chunk, so that memory never waits for a panel's end.
    let mut next = weights;
    for p in 0..P {
        next[p] = product.panel((panel + P + p).min(last));
    }
    let mut x: [&[[[u8; 4]; PAIRS]]; T] = [&[]; T];
    for t in 0..T {
        let row = (tokens.start + t).min(tokens.end - 1);
        let pairs = product.row_bf16(row).as_chunks::<4>().0;
        x[t] = &pairs.as_chunks().0[..groups];
    }
    let mut sums = [[_mm512_setzero_ps(); T]; P];
    let mut scales = [Scales::none(); P];
    for g in 0..groups {
        let mut numbers: [&[u8]; P] = [&[]; P];
        let (_, inside) = grid.place(g);
        for p in 0..P {
            let group = Group::of::<K>(weights[p], grid, g);
            numbers[p] = group.numbers;
            let mut from = grid.numbers(g);
            // Once for all steps of a block, of which the first may be another rank's.
            if inside == 0 || g == 0 {
                scales[p] = Scales::of::<K>(group.head);
                from -= const { head_bytes(K::FORMAT) };
            }
            let to = grid.numbers(g) + const { step_bytes(K::FORMAT) };
            Avx512::here().prefetch(&next[p][from..to]);
        }
        for at in 0..PAIRS / WORD_PAIRS {
            let mut fours = [Four::none(); P];
            for p in 0..P {
                fours[p] = Four::load::<K>(numbers[p], at);
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

/// d and m of a block for either half of a pair: each row's twice.
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
    fn of<K: Kind>(head: &[u8]) -> Scales {
        let s = Avx512::here();
        let d = s.load_f16(array(head));
        Scales {
            d: s.twice(d),
            m: match K::HALVES.len() {
                1 => [_mm512_setzero_ps(); 2],
                _ => {
                    let half = s.load_f16(array(&head[SCALE_BYTES..]));
                    s.twice(kinds::minimum::<_, K>(s, d, half, 0.0))
                }
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
    fn load<K: Kind>(quants: &'a [u8], at: usize) -> Four<'a> {
        match K::LOW {
            4 => {
                let words: &[u8; WORDS_BYTES] = array(&quants[at * WORDS_BYTES..]);
                // SAFETY: the array has the 64 bytes that are loaded.
                let words = unsafe { _mm512_loadu_si512(words.as_ptr().cast()) };
                Four {
                    words,
                    ..Four::none()
                }
            }
            _ => Four {
                bytes: array(&quants[at * 8 * LANES..]),
                ..Four::none()
            },
        }
    }

    /// Both halves of a pair, as f32.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    #[inline]
    fn halves<K: Kind, const PAIR: usize>(&self, scales: &Scales) -> [__m512; 2] {
        let numbers = match K::LOW {
            4 => {
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
            _ => {
                let (s, bytes) = (Avx512::here(), &self.bytes[PAIR * 2 * LANES..]);
                [s.load_i8(array(bytes)), s.load_i8(array(&bytes[LANES..]))]
            }
        };
        let Scales { d, m } = scales;
        match K::HALVES.len() {
            1 => [
                _mm512_mul_ps(d[0], numbers[0]),
                _mm512_mul_ps(d[1], numbers[1]),
            ],
            // The product is exact, so one rounding is what two steps have.
            _ => [
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
