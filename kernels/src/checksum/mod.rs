//! checksum: a 64-bit figure of a tensor's bytes, to tell whether they are what they were.
//!
//! Not cryptographic. Every bit and its place count; the figure does not depend on the machine, nor
//! on the order in which chunks are taken, so that a device may take them all at once:
//!
//! - Chunks of 4 KiB; the last is filled up with zeros to whole rows of 64 bytes.
//! - A row has eight little-endian words, and word w enters lane w: lane = mix(lane, word), from
//!   w + 1 on.
//! - A chunk's figure: its index mixed with the eight lanes in order, then spread.
//! - The checksum: spread(!length) plus the figures of all chunks, modulo 2^64.
//!
//! mix(sum, word) = rotl((sum ^ word) * P, 31) and spread (the finish of SplitMix64) are bijections of
//! either argument: a change of one word always changes its chunk's figure, and thereby the sum.

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(feature = "gpu-tests")]
pub(crate) mod trials;

#[cfg(test)]
mod tests;

use crate::pool::Pool;

/// Bytes whose words are mixed one after the other.
const CHUNK_BYTES: usize = 4 << 10;

/// The checksum of `bytes`.
pub fn run(bytes: &[u8]) -> u64 {
    cpu::run(bytes)
}

/// The checksum of each tensor, by all threads of a pool, however the tensors differ in length.
pub fn run_all(pool: &Pool, tensors: &[&[u8]]) -> Vec<u64> {
    cpu::run_all(pool, tensors)
}
