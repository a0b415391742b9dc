//! Groups of a panel whose numbers and scales are unpacked, for many tokens.

use std::arch::x86_64::*;

use super::super::super::kinds::Kind;
use super::super::{Form, Step};
use super::{QUADS, Scales, unpack};
use crate::simd::{Avx512, LANES, Simd};

/// An unpacked group.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Unpacked {
    pub(super) quads: [[u8; 64]; QUADS],
    d: [[f32; LANES]; 2],
    m: [[f32; LANES]; 2],
}

impl Unpacked {
    pub(super) const EMPTY: Unpacked = Unpacked {
        quads: [[0; 64]; QUADS],
        d: [[0.0; LANES]; 2],
        m: [[0.0; LANES]; 2],
    };

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    #[inline]
    pub(super) fn fill<K: Kind>(&mut self, step: &Step<'_>) {
        let s = Avx512::here();
        let quads = unpack::quads::<K>(step.numbers);
        for (to, quad) in self.quads.iter_mut().zip(quads) {
            // SAFETY: the array has the 64 bytes that are stored.
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), quad) };
        }
        let Scales { d, m } = Scales::of::<K>(step);
        for part in 0..<K as Form>::PARTS {
            s.store(d[part], &mut self.d[part]);
            if <K as Form>::HAS_MINIMUM {
                s.store(m[part], &mut self.m[part]);
            }
        }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    #[inline]
    pub(super) fn scales(&self) -> Scales {
        let s = Avx512::here();
        Scales {
            d: [s.load(&self.d[0]), s.load(&self.d[1])],
            m: [s.load(&self.m[0]), s.load(&self.m[1])],
        }
    }
}

/// What is left of a [`Kind`].
pub(super) struct Of<const PARTS: usize, const HAS_MINIMUM: bool>;

impl<const PARTS: usize, const HAS_MINIMUM: bool> Form for Of<PARTS, HAS_MINIMUM> {
    const PARTS: usize = PARTS;
    const HAS_MINIMUM: bool = HAS_MINIMUM;
}
