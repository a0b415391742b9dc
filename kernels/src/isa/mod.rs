//! The instruction sets that the CPU ops know, which of them this machine has, and their names.

mod dots;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
#[expect(
    unsafe_code,
    reason = "a signal handler that does what the processor cannot"
)]
mod emulated;
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "a system call asks for tile registers")]
mod tiles;

use std::fmt;
use std::str::FromStr;

pub use dots::Dots;

/// An instruction set, from the plainest to the fastest; each includes all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Portable Rust.
    Scalar,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX-512 with bf16 dot products (`vdpbf16ps`).
    Avx512Bf16,
    /// AMX tiles with bf16 products (`tdpbf16ps`).
    Amx,
}

impl Isa {
    pub const ALL: [Isa; 5] = [
        Isa::Scalar,
        Isa::Avx2,
        Isa::Avx512,
        Isa::Avx512Bf16,
        Isa::Amx,
    ];

    /// The fastest instruction set that this machine has.
    pub fn detect() -> Isa {
        Isa::available().last().copied().unwrap_or(Isa::Scalar)
    }

    /// Every instruction set that this machine has, ascending; never empty.
    pub fn available() -> Vec<Isa> {
        Isa::ALL
            .into_iter()
            .take_while(|isa| isa.is_available())
            .collect()
    }

    /// Whether this machine can run it. For [`Isa::Amx`] this also asks the kernel for the use of
    /// tile registers, which holds for the whole process.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => Isa::Avx512.is_available() && is_x86_feature_detected!("avx512bf16"),
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Isa::Avx512Bf16.is_available() && tiles::are_permitted(),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The name in flags, logs and status.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Bf16 => "avx512-bf16",
            Isa::Amx => "amx",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An instruction set that cannot be used, with those that can.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IsaError {
    #[error("instruction set {asked:?} is unknown; use one of {}", names(&Isa::ALL))]
    Unknown { asked: String },
    #[error(
        "instruction set {asked} is not available on this machine; use one of {}",
        names(available)
    )]
    Unavailable { asked: Isa, available: Vec<Isa> },
}

/// Names in a row, as help and errors show them.
pub fn names(list: &[Isa]) -> String {
    list.iter()
        .map(|isa| isa.name())
        .collect::<Vec<_>>()
        .join(", ")
}

/// Parses a name and checks that this machine has it.
///
/// # Errors
/// [`IsaError`] with the names that would work.
pub fn parse(name: &str) -> Result<Isa, IsaError> {
    let isa: Isa = name.parse()?;
    if isa.is_available() {
        return Ok(isa);
    }
    Err(IsaError::Unavailable {
        asked: isa,
        available: Isa::available(),
    })
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(name: &str) -> Result<Isa, IsaError> {
        // `avx512bf16` is how the kernel and compilers spell it.
        let plain = |name: &str| name.replace(['-', '_'], "").to_ascii_lowercase();
        let found = Isa::ALL
            .into_iter()
            .find(|isa| plain(isa.name()) == plain(name));
        found.ok_or_else(|| IsaError::Unknown {
            asked: name.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_parses_back() {
        for isa in Isa::ALL {
            assert_eq!(isa.name().parse(), Ok(isa));
            assert_eq!(isa.name().replace('-', "").parse(), Ok(isa));
            assert_eq!(isa.name().replace('-', "_").to_uppercase().parse(), Ok(isa));
        }
    }

    #[test]
    fn detect_is_the_last_of_available_and_parses() {
        assert_eq!(parse(Isa::detect().name()), Ok(Isa::detect()));
        assert_eq!(Isa::available()[0], Isa::Scalar);
    }

    #[test]
    fn unknown_name_says_what_would_work() {
        let error = parse("sse9").unwrap_err().to_string();
        assert!(
            error.contains("\"sse9\"") && error.contains("avx512-bf16"),
            "{error}"
        );
    }
}
