//! Seeded numbers on the card. Random ones: a card computes on zeros with less power, and so faster.

use plimsoll_kernels::gpu::{Gpu, GpuError, Memory};

/// Numbers that repeat: making a GiB of different ones would take longer than the measurement.
const PERIOD: usize = 1 << 20;

/// bf16 numbers in -1..1.
pub(crate) fn bf16(gpu: &Gpu, count: usize) -> Result<Memory, GpuError> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let pattern: Vec<u16> = (0..PERIOD.min(count.max(1)))
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let value = (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0;
            half::bf16::from_f32(value).to_bits()
        })
        .collect();
    let values: Vec<u16> = pattern.iter().copied().cycle().take(count).collect();
    put(gpu, &values)
}

/// f32 numbers in -1..1.
pub(crate) fn f32(gpu: &Gpu, count: usize) -> Result<Memory, GpuError> {
    let values: Vec<f32> = (0..count)
        .map(|at| (at.wrapping_mul(0x9E37_79B1) >> 7 & 0xFFFF) as f32 / 32768.0 - 1.0)
        .collect();
    put(gpu, &values)
}

/// `count` numbers from 0 on, in an order that jumps about.
pub(crate) fn scattered(gpu: &Gpu, count: usize) -> Result<Memory, GpuError> {
    let mut values: Vec<u32> = (0..u32::try_from(count).unwrap_or(u32::MAX)).collect();
    let mut state = 1_usize;
    for at in (1..count).rev() {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        values.swap(at, (state >> 33) % (at + 1));
    }
    put(gpu, &values)
}

pub(crate) fn put<T: plimsoll_kernels::element::Element>(
    gpu: &Gpu,
    values: &[T],
) -> Result<Memory, GpuError> {
    let mut memory = gpu.allocate(size_of_val(values))?;
    memory.upload(values)?;
    Ok(memory)
}
