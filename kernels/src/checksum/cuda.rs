//! The card's side of checksum: the length's share first, then every chunk's is added.

use super::{CHUNK_BYTES, cpu};
use crate::gpu::{Arguments, Gpu, GpuError, Kind, Launch, Tensor, TensorMut};

const OP: &str = "checksum";
/// As in checksum.cu: four threads per chunk.
const THREADS: u32 = 128;
const CHUNKS_PER_BLOCK: u64 = 32;

/// `out[0]` = the checksum of all bytes of `data`, numbers of any kind; `out` is one u64.
///
/// # Errors
/// When `out` has no room, or `data` does not start at a multiple of 16 bytes.
pub fn run(gpu: &Gpu, data: Tensor<'_>, out: &TensorMut<'_>) -> Result<(), GpuError> {
    data.check(OP, "data", data.kind(), data.count(), 16)?;
    out.check(OP, "out", Kind::U64, 1, 8)?;
    let bytes = data.count() as u64 * data.kind().bytes() as u64;
    let blocks = bytes
        .div_ceil(CHUNK_BYTES as u64)
        .div_ceil(CHUNKS_PER_BLOCK);
    let Ok(blocks) = i32::try_from(blocks) else {
        return Err(GpuError::Unsupported {
            op: OP,
            what: "bytes",
            value: bytes,
            supported: format!("at most {} blocks of 128 KiB", i32::MAX),
        });
    };
    let launch = |kernel, grid, threads, arguments| {
        gpu.launch(&Launch {
            op: OP,
            kernel,
            grid: [grid, 1, 1],
            threads,
            shared_bytes: 0,
            arguments,
        })
    };
    let start = Arguments::new().write(out).u64(cpu::of_length(bytes));
    launch("checksum_start", 1, 1, start)?;
    let add = Arguments::new().write(out).read(data).u64(bytes);
    launch("checksum_add", blocks.unsigned_abs(), THREADS, add)
}
