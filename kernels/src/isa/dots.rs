//! Dot products of 8-bit integers: a feature beside the ladder of instruction sets, for there are
//! processors that have them and no bf16.

use super::Isa;

/// Instructions that multiply 8-bit integers and add the products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dots {
    /// Portable Rust.
    Scalar,
    /// Pairs of products in 16 bits (`vpmaddubsw`).
    Avx2,
    /// Four products in 32 bits (`vpdpbusd`), sixteen lanes.
    Avx512Vnni,
    /// The same, and for many tokens tiles of sixteen by sixteen (`tdpbsud`).
    AmxInt8,
}

impl Dots {
    /// The fastest that this machine has, of those that a pool with this instruction set may use.
    pub fn of(isa: Isa) -> Dots {
        match isa {
            Isa::Scalar => Dots::Scalar,
            Isa::Avx2 => Dots::Avx2,
            Isa::Amx if Dots::AmxInt8.is_available() => Dots::AmxInt8,
            Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => match Dots::Avx512Vnni.is_available() {
                true => Dots::Avx512Vnni,
                false => Dots::Avx2,
            },
        }
    }

    /// Whether this machine can run them.
    pub fn is_available(self) -> bool {
        match self {
            Dots::Scalar => true,
            Dots::Avx2 => Isa::Avx2.is_available(),
            #[cfg(target_arch = "x86_64")]
            Dots::Avx512Vnni => {
                Isa::Avx512.is_available() && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "x86_64")]
            Dots::AmxInt8 => Dots::Avx512Vnni.is_available() && super::tiles::multiply_bytes(),
            #[cfg(not(target_arch = "x86_64"))]
            Dots::Avx512Vnni | Dots::AmxInt8 => false,
        }
    }
}
