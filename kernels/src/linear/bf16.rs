//! The kernel on bf16 dot products: `vdpbf16ps` adds a pair of products to each of sixteen sums,
//! so one instruction does a panel's sixteen rows for two columns of one token.

use std::arch::x86_64::*;
use std::mem;

use crate::isa::Isa;
use crate::simd::{Avx512, Simd, unroll};

use super::product::{Chunk, Product};

/// Bytes of one column pair of a panel.
const PAIR_BYTES: usize = 64;

pub(super) fn multiply(product: &Product<'_>, chunk: &Chunk) {
    assert!(Isa::Avx512Bf16.is_available(), "no bf16 dot products");
    // SAFETY: the check above says that this machine has the instructions.
    unsafe { panels(product, chunk) }
}

/// Panels by two, then the last one.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn panels(product: &Product<'_>, chunk: &Chunk) {
    let mut panel = chunk.panels.start;
    while panel < chunk.panels.end {
        if chunk.panels.end - panel >= 2 {
            rows::<2>(product, chunk, panel);
            panel += 2;
        } else {
            rows::<1>(product, chunk, panel);
            panel += 1;
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn rows<const P: usize>(product: &Product<'_>, chunk: &Chunk, panel: usize) {
    let mut token = chunk.tokens.start;
    while token < chunk.tokens.end {
        match chunk.tokens.end - token {
            1 => block::<P, 1>(product, panel, &mut token),
            2..4 => block::<P, 2>(product, panel, &mut token),
            4..8 => block::<P, 4>(product, panel, &mut token),
            8..12 => block::<P, 8>(product, panel, &mut token),
            _ => block::<P, 12>(product, panel, &mut token),
        }
    }
}

/// T rows of x by P panels, columns in order.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn block<const P: usize, const T: usize>(product: &Product<'_>, panel: usize, token: &mut usize) {
    let pairs = product.shape.padded_cols() / 2;
    let mut weights: [&[[u8; PAIR_BYTES]]; P] = [&[]; P];
    for p in 0..P {
        weights[p] = &product.panel(panel + p).as_chunks().0[..pairs];
    }
    let mut x: [&[[u8; 4]]; T] = [&[]; T];
    for t in 0..T {
        x[t] = &product.row_bf16(*token + t).as_chunks().0[..pairs];
    }
    let mut sums = [[_mm512_setzero_ps(); T]; P];
    if product.resumes {
        let held = product.held::<_, P, T>(Avx512::here(), *token, panel);
        unroll!(J in 0..12 { if J < T {
            unroll!(I in 0..4 { if I < P { sums[I][J] = Avx512::here().load(&held[I][J]); } });
        } });
    }
    for k in 0..pairs {
        let mut step = [_mm512_setzero_si512(); P];
        unroll!(I in 0..4 { if I < P {
            // SAFETY: the array has the 64 bytes that are loaded.
            step[I] = unsafe { _mm512_loadu_si512(weights[I][k].as_ptr().cast()) };
        } });
        unroll!(J in 0..12 { if J < T {
            let x = pairs_of(_mm512_set1_epi32(i32::from_le_bytes(x[J][k])));
            unroll!(I in 0..4 { if I < P {
                sums[I][J] = _mm512_dpbf16_ps(sums[I][J], pairs_of(step[I]), x);
            } });
        } });
    }
    unroll!(J in 0..12 { if J < T {
        unroll!(I in 0..4 { if I < P {
            product.put(Avx512::here(), *token + J, panel + I, sums[I][J]);
        } });
    } });
    *token += T;
}

/// The same bits, as pairs of bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) fn pairs_of(bits: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes, and every bit pattern is a value of either.
    unsafe { mem::transmute(bits) }
}
