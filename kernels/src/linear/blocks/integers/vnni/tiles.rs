//! Many tokens on AMX tiles: `tdpbsud` multiplies 32 columns of sixteen tokens, which have signs, by those
//! of sixteen rows, which have none, in one instruction. Its integers are those of the definition, so
//! that sums have its bits; scales are applied to them in vectors.
//!
//! An unpacked group is a tile as it stands, but for the order of its eight vectors. Where a group has two
//! parts each has a tile of its own, with zeros in place of the other.

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use super::super::super::kinds::Kind;
use super::super::{Form, GROUP, HEAD_BYTES, Product, Step, planes, shift_of};
use super::tokens::Tokens;
use super::unpacked::{Of, Unpacked};
use super::{QUADS, Scales};
use crate::isa::Dots;
use crate::linear::tile_sizes::{self, Size};
use crate::simd::{LANES, unroll};

/// Tokens of a tile.
const TOKENS: usize = 16;
/// Tokens whose sums are in registers at once.
const T: usize = 8;
/// Groups at a time: their tiles and integer sums stay in the first cache.
const GROUPS: usize = 8;

/// A group's tiles, one of each part, and its scales.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Tiled {
    parts: [[[u8; 64]; QUADS]; 2],
    group: Unpacked,
}

/// Integer sums of a group: of its parts, by the planes of x, `[token][row]`.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Dotted([[[[i32; LANES]; TOKENS]; 2]; 2]);

pub(super) fn multiply<K: Kind, const N: usize>(
    product: &Product<'_, N>,
    panels: Range<usize>,
    tokens: Range<usize>,
) {
    assert!(Dots::AmxInt8.is_available(), "no tiles of bytes");
    // SAFETY: the check above says that this machine has tiles, AVX512-VNNI and the permission.
    unsafe { by_panels::<K, N>(product, panels, tokens) }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn by_panels<K: Kind, const N: usize>(
    product: &Product<'_, N>,
    panels: Range<usize>,
    tokens: Range<usize>,
) {
    let (grid, steps) = (product.grid::<K>(), product.steps());
    let mut buffer = [Tiled {
        parts: [[[0; 64]; QUADS]; 2],
        group: Unpacked::EMPTY,
    }; GROUPS];
    let mut dotted = [Dotted([[[[0; LANES]; TOKENS]; 2]; 2]); GROUPS];
    let mut configured = 0;
    for panel in panels {
        let weights = product.panel(panel);
        let mut first = 0;
        // Once where there are no columns: the sums are empty.
        while first == 0 || first < steps {
            let part = first..(first + GROUPS).min(steps);
            for (at, to) in part.clone().zip(&mut buffer) {
                to.group.fill::<K>(&Step::of::<K>(weights, grid, at));
                tile::<K>(&to.group.quads, &mut to.parts);
            }
            let at = (panel, first);
            for first in tokens.clone().step_by(TOKENS) {
                let tokens = first..(first + TOKENS).min(tokens.end);
                if configured != tokens.len() {
                    configured = tokens.len();
                    configure(configured);
                }
                let groups = (&buffer[..part.len()], &mut dotted[..]);
                match (<K as Form>::PARTS, <K as Form>::HAS_MINIMUM) {
                    (1, false) => block::<Of<1, false>, N>(product, at, groups, tokens),
                    (1, true) => block::<Of<1, true>, N>(product, at, groups, tokens),
                    (_, false) => block::<Of<2, false>, N>(product, at, groups, tokens),
                    (_, true) => block::<Of<2, true>, N>(product, at, groups, tokens),
                }
            }
            first += GROUPS;
        }
    }
    tile_sizes::release();
}

/// Tiles 0 and 1 hold sums, 2 and 3 planes of x, 4 numbers of weights.
#[target_feature(enable = "avx512f")]
fn configure(tokens: usize) {
    let sums = Size::new(tokens, 64);
    let x = Size::new(tokens, GROUP);
    let weights = Size::new(QUADS, 64);
    tile_sizes::configure(&[sums, sums, x, x, weights]);
}

/// Vectors in the order of the columns' places in x; those of the other part stay zeros.
fn tile<K: Kind>(quads: &[[u8; 64]; QUADS], parts: &mut [[[u8; 64]; QUADS]; 2]) {
    let per_part = QUADS / <K as Form>::PARTS;
    for (at, quad) in quads.iter().enumerate() {
        parts[at / per_part][at % 2 * (QUADS / 2) + at / 2] = *quad;
    }
}

/// At most sixteen tokens by groups of a panel that begin with the `first`-th.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline(never)]
fn block<F: Form, const N: usize>(
    product: &Product<'_, N>,
    (panel, first): (usize, usize),
    (groups, dotted): (&[Tiled], &mut [Dotted]),
    tokens: Range<usize>,
) {
    let x = product.row(tokens.start);
    for (at, (group, to)) in groups.iter().zip(&mut *dotted).enumerate() {
        let x = &x[first + at];
        for part in 0..F::PARTS {
            // SAFETY: tiles are configured for as many rows as there are tokens; the rows of x lie behind
            // each other in scratch, `steps` groups apart, and the tokens are the product's.
            unsafe { dot::<N>(x, product.steps(), &group.parts[part], &mut to.0[part]) };
        }
    }
    for of in (0..tokens.len()).step_by(T) {
        scale::<F, N>(product, (panel, first), (groups, dotted), (&tokens, of));
    }
}

/// The integer products of a part by both planes of x, or the one.
///
/// # Safety
/// Tiles are configured ([`configure`]), and as many rows of x as they have lie `steps` groups apart.
#[inline(always)]
unsafe fn dot<const N: usize>(
    x: &[u8; N],
    steps: usize,
    weights: &[[u8; 64]; QUADS],
    sums: &mut [[[i32; LANES]; TOKENS]; 2],
) {
    // SAFETY: reads what the caller vouches for, and a tile of weights; writes at most 16 rows of 64 bytes
    // into each of the sums. Tile registers are not used by compiled code.
    unsafe {
        if const { planes(N) == 1 } {
            asm!(
                "tilezero tmm0",
                "tileloadd tmm2, [{x} + {stride}]",
                "tileloadd tmm4, [{weights} + {row}]",
                "tdpbsud tmm0, tmm2, tmm4",
                "tilestored [{sums} + {row}], tmm0",
                x = in(reg) x.as_ptr().add(HEAD_BYTES),
                stride = in(reg) steps * N,
                weights = in(reg) weights.as_ptr(),
                sums = in(reg) sums.as_mut_ptr(),
                row = in(reg) 64_usize,
                options(nostack),
            );
        } else {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tileloadd tmm2, [{x} + {stride}]",
                "tileloadd tmm3, [{x} + {stride} + {plane}]",
                "tileloadd tmm4, [{weights} + {row}]",
                "tdpbsud tmm0, tmm2, tmm4",
                "tdpbsud tmm1, tmm3, tmm4",
                "tilestored [{sums} + {row}], tmm0",
                "tilestored [{sums} + {row} + {plane_sums}], tmm1",
                x = in(reg) x.as_ptr().add(HEAD_BYTES),
                stride = in(reg) steps * N,
                plane = const GROUP,
                weights = in(reg) weights.as_ptr(),
                sums = in(reg) sums.as_mut_ptr(),
                plane_sums = const TOKENS * LANES * 4,
                row = in(reg) 64_usize,
                options(nostack),
            );
        }
    }
}

/// Scales the integers of up to T tokens, from the `of`-th on, and adds them up.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
fn scale<F: Form, const N: usize>(
    product: &Product<'_, N>,
    (panel, first): (usize, usize),
    (groups, dotted): (&[Tiled], &[Dotted]),
    (tokens, of): (&Range<usize>, usize),
) {
    let (part, left) = (first..first + groups.len(), tokens.start + of..tokens.end);
    let (tokens, mut sums) = Tokens::<N, T>::begin(product, panel, part, left);
    for (at, (group, dotted)) in groups.iter().zip(dotted).enumerate() {
        let scales = group.group.scales();
        unroll!(J in 0..8 {
            sums[J] = one::<F, N>(&scales, (dotted, of + J), &tokens.x[J][at], sums[J]);
        });
    }
    tokens.end(&sums);
}

/// A group's share of the sum of a token.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
fn one<F: Form, const N: usize>(
    scales: &Scales,
    (dotted, token): (&Dotted, usize),
    x: &[u8; N],
    sum: __m512,
) -> __m512 {
    let mut value = _mm512_setzero_ps();
    unroll!(PART in 0..2 { if PART < F::PARTS {
        let [high, low] = &dotted.0[PART];
        let mut dots = load(&high[token]);
        if planes(N) > 1 {
            dots = _mm512_add_epi32(_mm512_slli_epi32::<8>(dots), load(&low[token]));
        }
        if !F::HAS_MINIMUM {
            dots = _mm512_add_epi32(dots, _mm512_set1_epi32(shift_of(x, PART)));
        }
        value = scales.weigh::<PART>(dots, value);
    } });
    scales.add::<F, N>(x, value, sum)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(sums: &[i32; LANES]) -> __m512i {
    // SAFETY: the array has the 64 bytes that are loaded.
    unsafe { _mm512_loadu_si512(sums.as_ptr().cast()) }
}
