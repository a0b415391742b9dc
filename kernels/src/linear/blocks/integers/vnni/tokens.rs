//! Some tokens, what they have of a few groups' columns, and their sums: f32 that wait in `out` from part
//! to part of a panel.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::Product;
use crate::simd::{Avx512, LANES, Simd, unroll};

/// The first T of the tokens that are left (8 at most), beside some groups of a panel. Where there are fewer,
/// the last one is multiplied again.
pub(super) struct Tokens<'p, 'a, const N: usize, const T: usize> {
    product: &'p Product<'a, N>,
    panel: usize,
    groups: Range<usize>,
    left: Range<usize>,
    /// Of every token, these groups.
    pub(super) x: [&'a [[u8; N]]; T],
}

impl<'p, 'a, const N: usize, const T: usize> Tokens<'p, 'a, N, T> {
    /// Also: their sums over the groups before these.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    #[inline]
    pub(super) fn begin(
        product: &'p Product<'a, N>,
        panel: usize,
        groups: Range<usize>,
        left: Range<usize>,
    ) -> (Self, [__m512; T]) {
        let s = Avx512::here();
        let mut x: [&[[u8; N]]; T] = [&[]; T];
        let mut lanes = [[0.0; LANES]; T];
        for t in 0..T {
            let token = (left.start + t).min(left.end - 1);
            x[t] = &product.row(token)[groups.clone()];
            if groups.start > 0 {
                s.store(product.out.held(s, token, panel), &mut lanes[t]);
            }
        }
        let mut sums = [_mm512_setzero_ps(); T];
        unroll!(J in 0..8 { if J < T { sums[J] = s.load(&lanes[J]); } });
        let tokens = Tokens {
            product,
            panel,
            groups,
            left,
            x,
        };
        (tokens, sums)
    }

    /// Puts the sums where they go on, or end.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    #[inline]
    pub(super) fn end(self, sums: &[__m512; T]) {
        let s = Avx512::here();
        let mut lanes = [[0.0; LANES]; T];
        unroll!(J in 0..8 { if J < T { s.store(sums[J], &mut lanes[J]); } });
        let is_last = self.groups.end == self.product.steps();
        for (token, lanes) in self.left.zip(&lanes) {
            let out = self.product.out;
            out.put(s, token, self.panel, s.load(lanes), is_last);
        }
    }
}
