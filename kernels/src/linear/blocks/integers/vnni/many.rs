//! Many tokens: numbers and scales of some groups of a panel are unpacked into a buffer that stays in the
//! first cache, for all tokens to pass over. Sums go on from part to part through `out`, where they are
//! f32 as in registers.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::super::kinds::Kind;
use super::super::{Form, Product, Step};
use super::unpack::{self, load};
use super::{QUADS, Scales, add};
use crate::simd::{Avx512, LANES, Simd, unroll};

/// Groups of a part.
const GROUPS: usize = 24;
/// Tokens at a time.
const T: usize = 8;

/// An unpacked group.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Unpacked {
    quads: [[u8; 64]; QUADS],
    d: [[f32; LANES]; 2],
    m: [[f32; LANES]; 2],
}

const EMPTY: Unpacked = Unpacked {
    quads: [[0; 64]; QUADS],
    d: [[0.0; LANES]; 2],
    m: [[0.0; LANES]; 2],
};

/// What is left of a [`Kind`].
struct Of<const PARTS: usize, const HAS_MINIMUM: bool>;

impl<const PARTS: usize, const HAS_MINIMUM: bool> Form for Of<PARTS, HAS_MINIMUM> {
    const PARTS: usize = PARTS;
    const HAS_MINIMUM: bool = HAS_MINIMUM;
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn multiply<K: Kind, const N: usize>(
    product: &Product<'_, N>,
    panels: Range<usize>,
    tokens: Range<usize>,
) {
    let (grid, steps) = (product.grid::<K>(), product.steps());
    let mut buffer = [EMPTY; GROUPS];
    for panel in panels {
        let weights = product.panel(panel);
        let mut first = 0;
        // Once where there are no columns: the sums are empty.
        while first == 0 || first < steps {
            let part = first..(first + GROUPS).min(steps);
            for (at, to) in part.clone().zip(&mut buffer) {
                unpack::<K>(&Step::of::<K>(weights, grid, at), to);
            }
            let groups = &buffer[..part.len()];
            let at = (panel, first);
            match (<K as Form>::PARTS, <K as Form>::HAS_MINIMUM) {
                (1, false) => by_tokens::<Of<1, false>, N>(product, at, groups, &tokens),
                (1, true) => by_tokens::<Of<1, true>, N>(product, at, groups, &tokens),
                (_, false) => by_tokens::<Of<2, false>, N>(product, at, groups, &tokens),
                (_, true) => by_tokens::<Of<2, true>, N>(product, at, groups, &tokens),
            }
            first += GROUPS;
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
fn unpack<K: Kind>(step: &Step<'_>, to: &mut Unpacked) {
    let s = Avx512::here();
    let quads = unpack::quads::<K>(step.numbers);
    for (to, quad) in to.quads.iter_mut().zip(quads) {
        // SAFETY: the array has the 64 bytes that are stored.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), quad) };
    }
    let Scales { d, m } = Scales::of::<K>(step);
    for part in 0..<K as Form>::PARTS {
        s.store(d[part], &mut to.d[part]);
        if <K as Form>::HAS_MINIMUM {
            s.store(m[part], &mut to.m[part]);
        }
    }
}

/// All tokens by groups of a panel that begin with the `first`-th.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline(never)]
fn by_tokens<F: Form, const N: usize>(
    product: &Product<'_, N>,
    (panel, first): (usize, usize),
    groups: &[Unpacked],
    tokens: &Range<usize>,
) {
    let mut token = tokens.start;
    while token < tokens.end {
        let left = token..tokens.end;
        token += match left.len() {
            0..5 => block::<F, N, { T / 2 }>(product, (panel, first), groups, left),
            _ => block::<F, N, T>(product, (panel, first), groups, left),
        };
    }
}

/// The first T of the tokens that are left; T. Where there are fewer, the last one is multiplied again.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
fn block<F: Form, const N: usize, const T: usize>(
    product: &Product<'_, N>,
    (panel, first): (usize, usize),
    groups: &[Unpacked],
    left: Range<usize>,
) -> usize {
    let s = Avx512::here();
    let mut x: [&[[u8; N]]; T] = [&[]; T];
    let mut lanes = [[0.0; LANES]; T];
    for t in 0..T {
        let token = (left.start + t).min(left.end - 1);
        x[t] = &product.row(token)[first..][..groups.len()];
        if first > 0 {
            s.store(product.out.held(s, token, panel), &mut lanes[t]);
        }
    }
    let mut sums = [_mm512_setzero_ps(); T];
    unroll!(J in 0..8 { if J < T { sums[J] = s.load(&lanes[J]); } });
    for (at, group) in groups.iter().enumerate() {
        let mut x_of = [&[0; N]; T];
        unroll!(J in 0..8 { if J < T { x_of[J] = &x[J][at]; } });
        let mut quads = [_mm512_setzero_si512(); QUADS];
        unroll!(I in 0..8 { quads[I] = load(&group.quads[I]); });
        let scales = Scales {
            d: [s.load(&group.d[0]), s.load(&group.d[1])],
            m: [s.load(&group.m[0]), s.load(&group.m[1])],
        };
        add::<F, N, T>(&quads, &scales, x_of, &mut sums);
    }
    unroll!(J in 0..8 { if J < T { s.store(sums[J], &mut lanes[J]); } });
    let is_last = first + groups.len() == product.steps();
    for (token, lanes) in left.zip(&lanes) {
        product.out.put(s, token, panel, s.load(lanes), is_last);
    }
    T
}
