//! AVX512-VNNI: one instruction multiplies four columns of sixteen rows by those of a token, and adds.
//! Many tokens are multiplied on tiles where the machine has them.

mod many;
mod tiles;
mod tokens;
mod unpack;
mod unpacked;

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::kinds::Kind;
use super::{Form, Product, Step, all_of, four_of, planes, scale_of, shift_of};
use crate::isa::Dots;
use crate::simd::{Avx512, LANES, Simd, unroll};

/// How far ahead several tokens ask for what comes, in bytes.
const AHEAD: usize = 4 << 10;
/// Vectors of four columns by sixteen rows in a group.
const QUADS: usize = 8;

pub(super) fn multiply<K: Kind, const N: usize>(
    dots: Dots,
    product: &Product<'_, N>,
    panels: Range<usize>,
    tokens: Range<usize>,
) {
    assert!(Dots::Avx512Vnni.is_available(), "no integer dot products");
    if dots == Dots::AmxInt8 && tokens.len() > MOST_FEW {
        return tiles::multiply::<K, N>(product, panels, tokens);
    }
    // SAFETY: the check above says that this machine has the instructions.
    unsafe { by_tokens::<K, N>(product, panels, tokens) }
}

/// Tokens that pass over a panel as it lies.
const MOST_FEW: usize = 4;

/// Many tokens pay for numbers that are unpacked in memory.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn by_tokens<K: Kind, const N: usize>(
    product: &Product<'_, N>,
    panels: Range<usize>,
    tokens: Range<usize>,
) {
    match tokens.len() {
        0 => (),
        1 => few::<K, N, 1>(product, panels, tokens),
        2 => few::<K, N, 2>(product, panels, tokens),
        3..=MOST_FEW => few::<K, N, MOST_FEW>(product, panels, tokens),
        _ => many::multiply::<K, N>(product, panels, tokens),
    }
}

/// At most T tokens by one panel after the other: memory is read in one stream, which processors foresee
/// (two panels at a time, each asking for the next, had two thirds of its speed). Several tokens take so
/// long over a step that it has to be asked for. Where there are fewer, the last one is multiplied again.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn few<K: Kind, const N: usize, const T: usize>(
    product: &Product<'_, N>,
    panels: Range<usize>,
    tokens: Range<usize>,
) {
    let s = Avx512::here();
    let grid = product.grid::<K>();
    let mut x: [&[[u8; N]]; T] = [&[]; T];
    for t in 0..T {
        x[t] = product.row((tokens.start + t).min(tokens.end - 1));
    }
    for panel in panels {
        let weights = product.panel(panel);
        let mut sums = [_mm512_setzero_ps(); T];
        for at in 0..product.steps() {
            let mut x_of = [&[0; N]; T];
            for t in 0..T {
                x_of[t] = &x[t][at];
            }
            let step = Step::of::<K>(weights, grid, at);
            if T > 1 {
                let ahead = panel * product.shape.panel_bytes() + grid.numbers(at) + AHEAD;
                let ahead = product.packed.get(ahead..ahead + step.numbers.len());
                s.prefetch(ahead.unwrap_or_default());
            }
            let quads = unpack::quads::<K>(step.numbers);
            let scales = Scales::of::<K>(&step);
            add::<K, N, T>(&quads, &scales, x_of, &mut sums);
        }
        let mut lanes = [[0.0; LANES]; T];
        unroll!(J in 0..4 { if J < T { s.store(sums[J], &mut lanes[J]); } });
        for (token, lanes) in tokens.clone().zip(&lanes) {
            product.out.put(s, token, panel, s.load(lanes), true);
        }
    }
}

/// d s and m t of a group's parts.
#[derive(Clone, Copy)]
struct Scales {
    d: [__m512; 2],
    m: [__m512; 2],
}

impl Scales {
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    #[inline]
    fn of<K: Kind>(step: &Step<'_>) -> Scales {
        let s = Avx512::here();
        let (d, m) = step.scales::<_, K>(s, 0);
        let mut scales = Scales {
            d: [d; 2],
            m: [m; 2],
        };
        if <K as Form>::PARTS == 2 {
            (scales.d[1], scales.m[1]) = step.scales::<_, K>(s, 1);
        }
        scales
    }

    /// With the products of a part, after those of the parts before it.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    #[inline]
    fn weigh<const PART: usize>(&self, dots: __m512i, value: __m512) -> __m512 {
        let dots = _mm512_cvtepi32_ps(dots);
        match PART {
            0 => _mm512_mul_ps(self.d[PART], dots),
            _ => _mm512_fmadd_ps(self.d[PART], dots, value),
        }
    }

    /// The minima's share, and all of it by x's scale to a token's sum.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    #[inline]
    fn add<F: Form, const N: usize>(&self, x: &[u8; N], mut value: __m512, sum: __m512) -> __m512 {
        if F::HAS_MINIMUM {
            unroll!(PART in 0..2 { if PART < F::PARTS {
                let all = _mm512_set1_ps(all_of(x, PART));
                value = _mm512_fmadd_ps(self.m[PART], all, value);
            } });
        }
        _mm512_fmadd_ps(_mm512_set1_ps(scale_of(x)), value, sum)
    }
}

/// Adds the products of a group to the sums of T tokens.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
fn add<F: Form, const N: usize, const T: usize>(
    quads: &[__m512i; QUADS],
    scales: &Scales,
    x: [&[u8; N]; T],
    sums: &mut [__m512; T],
) {
    let mut values = [_mm512_setzero_ps(); T];
    unroll!(PART in 0..2 { if PART < F::PARTS {
        let dots = dots::<F, N, T, PART>(quads, x);
        unroll!(J in 0..8 { if J < T {
            values[J] = scales.weigh::<PART>(dots[J], values[J]);
        } });
    } });
    unroll!(J in 0..8 { if J < T {
        sums[J] = scales.add::<F, N>(x[J], values[J], sums[J]);
    } });
}

/// The integer sums of a part.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
fn dots<F: Form, const N: usize, const T: usize, const PART: usize>(
    quads: &[__m512i; QUADS],
    x: [&[u8; N]; T],
) -> [__m512i; T] {
    let per_part = QUADS / F::PARTS;
    let mut dots = [_mm512_setzero_si512(); T];
    unroll!(PLANE in 0..2 { if PLANE < planes(N) {
        unroll!(J in 0..8 { if J < T {
            let mut shift = _mm512_setzero_si512();
            if PLANE + 1 == planes(N) && !F::HAS_MINIMUM {
                shift = _mm512_set1_epi32(shift_of(x[J], PART));
            }
            dots[J] = match PLANE {
                0 => shift,
                // What the plane above has given, 256 times.
                _ => _mm512_add_epi32(_mm512_slli_epi32::<8>(dots[J]), shift),
            };
        } });
        unroll!(I in 0..8 { if I < per_part {
            let at = PART * per_part + I;
            unroll!(J in 0..8 { if J < T {
                let four = _mm512_set1_epi32(four_of(x[J], PLANE, at));
                dots[J] = _mm512_dpbusd_epi32(dots[J], quads[at], four);
            } });
        } });
    } });
    dots
}
