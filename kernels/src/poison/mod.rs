//! poison: fills memory with 0xFF, which is not a number in every float type and a large index in
//! every integer type, so that memory read before it was filled shows. Any length and alignment.

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(feature = "gpu-tests")]
pub(crate) mod trials;

#[cfg(test)]
mod tests;

/// What poisoned memory holds.
pub const BYTE: u8 = 0xFF;

/// Fills `bytes`.
pub fn run(bytes: &mut [u8]) {
    cpu::run(bytes);
}
