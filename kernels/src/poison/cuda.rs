//! The card's side of poison: how many bytes lie before the first whole group, and how many blocks.

use crate::gpu::{Arguments, Gpu, GpuError, Launch, TensorMut};

const OP: &str = "poison";
/// As in poison.cu.
const THREADS: u32 = 256;
const BYTES_PER_BLOCK: u64 = 256 * 4 * 16;

/// Fills all of `memory`, numbers of any kind.
///
/// # Errors
/// When there is more of it than a grid has blocks for (32 TiB).
pub fn run(gpu: &Gpu, memory: &TensorMut<'_>) -> Result<(), GpuError> {
    let view = memory.as_tensor();
    let bytes = view.count() as u64 * view.kind().bytes() as u64;
    if bytes == 0 {
        return Ok(());
    }
    let head = (view.address().wrapping_neg() % 16).min(bytes);
    let blocks = (bytes - head).div_ceil(BYTES_PER_BLOCK).max(1);
    let (Ok(blocks), Ok(head)) = (i32::try_from(blocks), u32::try_from(head)) else {
        return Err(GpuError::Unsupported {
            op: OP,
            what: "bytes",
            value: bytes,
            supported: format!("at most {} blocks of 16 KiB", i32::MAX),
        });
    };
    gpu.launch(&Launch {
        op: OP,
        kernel: "poison_fill",
        grid: [blocks.unsigned_abs(), 1, 1],
        threads: THREADS,
        shared_bytes: 0,
        arguments: Arguments::new().write(memory).u64(bytes).u32(head),
    })
}
