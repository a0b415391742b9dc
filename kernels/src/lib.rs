//! What computes and what holds memory: devices and their address space, a worker pool, and one
//! folder per op with its contract, its CPU implementation and its tests.
//!
//! The CPU implementation defines every result. Ops take slices and allocate nothing; callers own
//! the memory (`device`) and the threads (`pool`). Shape mistakes are ours, so ops assert.
//! `unsafe` is opened module by module below, each time with the reason.
#![allow(
    clippy::needless_range_loop,
    reason = "kernels index several arrays by one number"
)]

pub mod isa;
#[cfg_attr(
    feature = "cuda",
    expect(unsafe_code, reason = "plain numbers viewed as bytes")
)]
pub mod element;
pub mod device;
pub mod pool;
mod cgroup;
pub mod card;
#[cfg(feature = "cuda")]
pub mod gpu;
pub mod cards;

pub mod kv;
mod encoding;
mod simd;

pub mod embedding;
pub mod rms_norm;
pub mod gather;
pub mod linear;
pub mod lora;
pub mod rope;
pub mod rope_kv;
pub mod attention;
pub mod silu_mul;
pub mod sampling;
pub mod comm;
pub mod block_copy;
pub mod poison;
pub mod checksum;

#[cfg(feature = "gpu-tests")]
mod planned;
#[cfg(feature = "gpu-tests")]
mod probes;
#[cfg(feature = "gpu-tests")]
pub mod trials;

#[cfg(any(test, feature = "gpu-tests"))]
#[cfg_attr(not(test), expect(dead_code, reason = "trials use a part of it"))]
mod testing;
