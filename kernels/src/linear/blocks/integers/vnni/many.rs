//! Many tokens: numbers and scales of some groups of a panel are unpacked into a buffer that stays in the
//! first cache, for all tokens to pass over. Sums go on from part to part through `out`, where they are
//! f32 as in registers.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::super::kinds::Kind;
use super::super::{Form, Product, Step};
use super::tokens::Tokens;
use super::unpack::load;
use super::unpacked::{Of, Unpacked};
use super::{QUADS, add};
use crate::simd::unroll;

/// Groups of a part.
const GROUPS: usize = 24;
/// Tokens at a time.
const T: usize = 8;

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn multiply<K: Kind, const N: usize>(
    product: &Product<'_, N>,
    panels: Range<usize>,
    tokens: Range<usize>,
) {
    let (grid, steps) = (product.grid::<K>(), product.steps());
    let mut buffer = [Unpacked::EMPTY; GROUPS];
    for panel in panels {
        let weights = product.panel(panel);
        let mut first = 0;
        // Once where there are no columns: the sums are empty.
        while first == 0 || first < steps {
            let part = first..(first + GROUPS).min(steps);
            for (at, to) in part.clone().zip(&mut buffer) {
                to.fill::<K>(&Step::of::<K>(weights, grid, at));
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
    let part = first..first + groups.len();
    let (tokens, mut sums) = Tokens::<N, T>::begin(product, panel, part, left);
    for (at, group) in groups.iter().enumerate() {
        let mut x_of = [&[0; N]; T];
        unroll!(J in 0..8 { if J < T { x_of[J] = &tokens.x[J][at]; } });
        let mut quads = [_mm512_setzero_si512(); QUADS];
        unroll!(I in 0..8 { quads[I] = load(&group.quads[I]); });
        add::<F, N, T>(&quads, &group.scales(), x_of, &mut sums);
    }
    tokens.end(&sums);
    T
}
