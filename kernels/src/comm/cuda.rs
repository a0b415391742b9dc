//! The card's side of comm: the sum over ranks that share one card, in one launch.
//!
//! It orders nothing between ranks: whoever launches it has waited for what every rank did to its
//! buffer, and the ranks wait for it. A stream that all ranks use does both.

use crate::gpu::{Arguments, Gpu, GpuError, Kind, Launch, TensorMut};

const OP: &str = "all_reduce";
/// As in all_reduce.cu.
const THREADS: usize = 256;
const GROUP_BYTES: usize = 16;
const MOST_RANKS: usize = 16;

/// Replaces the first `count` numbers of every rank's buffer by their sum over ranks, added in the
/// order of the buffers in f32. Equal bits on every rank; of f32, those of the CPU's group.
///
/// # Errors
/// When there are more than 16 ranks, or buffers of different types, or too short ones.
pub fn all_reduce_sum(
    gpu: &Gpu,
    count: usize,
    buffers: &mut [TensorMut<'_>],
) -> Result<(), GpuError> {
    let Some(first) = buffers.first() else {
        return Err(unsupported("ranks", 0));
    };
    if buffers.len() > MOST_RANKS {
        return Err(unsupported("ranks", buffers.len()));
    }
    let Some(dtype) = first.as_tensor().dtype() else {
        return Err(GpuError::Shape {
            op: OP,
            what: "a rank's buffer",
            has: format!("{:?}", first.as_tensor().kind()),
            needs: "floats".to_owned(),
        });
    };
    let kind = Kind::Number(dtype);
    for buffer in &*buffers {
        buffer.check(OP, "a rank's buffer", kind, count, GROUP_BYTES as u64)?;
    }
    if buffers.len() == 1 {
        return Ok(());
    }
    let per_block = THREADS * (GROUP_BYTES / kind.bytes());
    let Ok(blocks) = i32::try_from(count.div_ceil(per_block)) else {
        return Err(unsupported("count", count));
    };
    let pointers = (0..MOST_RANKS).fold(Arguments::new(), |all, rank| match buffers.get(rank) {
        Some(buffer) => all.write(buffer),
        None => all.null(),
    });
    gpu.launch(&Launch {
        op: OP,
        kernel: &format!("all_reduce_{}", Kind::suffix(dtype)),
        grid: [blocks.unsigned_abs(), 1, 1],
        threads: 256,
        shared_bytes: 0,
        arguments: pointers
            .u32(u32::try_from(buffers.len()).unwrap_or(0))
            .u64(count as u64),
    })
}

fn unsupported(what: &'static str, value: usize) -> GpuError {
    GpuError::Unsupported {
        op: OP,
        what,
        value: value as u64,
        supported: match what {
            "ranks" => format!("1 to {MOST_RANKS}"),
            _ => format!(
                "at most {} blocks of {THREADS} groups of 16 bytes",
                i32::MAX
            ),
        },
    }
}
