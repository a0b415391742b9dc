//! Runs a kernel inside the function that is compiled for the instruction set in use.

use crate::isa::Isa;

use super::{Work, scalar::Scalar};
#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2, avx512::Avx512};

/// Runs `work` with the lanes of `isa`.
///
/// # Panics
/// When this machine does not have `isa`.
pub(crate) fn dispatch(isa: Isa, work: impl Work) {
    assert!(isa.is_available(), "{isa} is not available");
    match isa {
        Isa::Scalar => scalar(work),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the check above says that this machine has AVX2, FMA and F16C.
        Isa::Avx2 => unsafe { avx2(work) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the check above says that this machine has AVX-512 F, BW, DQ and VL as well.
        Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => unsafe { avx512(work) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => scalar(work),
    }
}

#[inline(never)]
pub(super) fn scalar(work: impl Work) {
    work.run(Scalar);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)]
pub(super) fn avx2(work: impl Work) {
    work.run(Avx2::here());
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
#[inline(never)]
pub(super) fn avx512(work: impl Work) {
    work.run(Avx512::here());
}
