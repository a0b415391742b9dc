//! Runs a kernel inside the function that is compiled for the instruction set in use.

use crate::isa::Isa;

use super::{Work, scalar};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};

/// Runs `work` with the lanes of `isa`.
///
/// # Panics
/// When this machine does not have `isa`.
pub(crate) fn dispatch(isa: Isa, work: impl Work) {
    assert!(isa.is_available(), "{isa} is not available");
    match isa {
        Isa::Scalar => scalar::run(work),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the check above says that this machine has AVX2, FMA and F16C.
        Isa::Avx2 => unsafe { avx2::run(work) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the check above says that this machine has AVX-512 F, BW, DQ and VL as well.
        Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => unsafe { avx512::run(work) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => scalar::run(work),
    }
}
