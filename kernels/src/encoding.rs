//! Numbers as they lie in memory: f32, bf16 and f16, little endian, to and from f32.

use half::{bf16, f16};
use plimsoll_planner::Dtype;

/// Bytes of one number as a `usize`.
pub(crate) const fn bytes_of(dtype: Dtype) -> usize {
    match dtype {
        Dtype::Float32 => 4,
        Dtype::BFloat16 | Dtype::Float16 => 2,
    }
}

/// The number at byte `at`.
#[inline]
pub(crate) fn load(dtype: Dtype, bytes: &[u8], at: usize) -> f32 {
    match dtype {
        Dtype::Float32 => f32::from_le_bytes(cut(bytes, at)),
        Dtype::BFloat16 => bf16::from_le_bytes(cut(bytes, at)).to_f32(),
        Dtype::Float16 => f16::from_le_bytes(cut(bytes, at)).to_f32(),
    }
}

/// Writes `value` at byte `at`, rounded to nearest even.
#[inline]
pub(crate) fn store(dtype: Dtype, bytes: &mut [u8], at: usize, value: f32) {
    match dtype {
        Dtype::Float32 => bytes[at..at + 4].copy_from_slice(&value.to_le_bytes()),
        Dtype::BFloat16 => {
            bytes[at..at + 2].copy_from_slice(&bf16::from_f32(value).to_le_bytes());
        }
        Dtype::Float16 => bytes[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes()),
    }
}

/// `value` as `dtype` holds it: rounded to nearest even.
#[inline]
pub(crate) fn rounded(dtype: Dtype, value: f32) -> f32 {
    match dtype {
        Dtype::Float32 => value,
        Dtype::BFloat16 => bf16::from_f32(value).to_f32(),
        Dtype::Float16 => f16::from_f32(value).to_f32(),
    }
}

fn cut<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut cut = [0; N];
    cut.copy_from_slice(&bytes[at..at + N]);
    cut
}
