//! The card's side of block_copy: pairs that cannot meet share a launch, launches keep the order.

use crate::gpu::{Arguments, Gpu, GpuError, Kind, Launch, TensorMut};
use crate::kv::KvCache;

const OP: &str = "block_copy";
/// As in block_copy.cu.
const THREADS: u32 = 256;
const UNITS_PER_BLOCK: usize = 256 * 4;
const MOST_PAIRS: usize = 16;

/// Copies block `from` over block `to` for every pair, as if in order, in `cache`: numbers of the
/// shape's type.
///
/// Launches once for every 16 pairs, and once more wherever a pair reads or writes a block that one
/// of its launch writes, or writes one that it reads. Lists of copies on write never do.
///
/// # Errors
/// When a block is out of range, or `cache` does not hold the shape. Nothing is copied then.
pub fn run(
    gpu: &Gpu,
    shape: &KvCache,
    pairs: &[(u32, u32)],
    cache: &TensorMut<'_>,
) -> Result<(), GpuError> {
    let kind = Kind::Number(shape.dtype);
    let numbers = shape.bytes() / shape.element_bytes();
    cache.check(OP, "cache", kind, numbers, shape.element_bytes() as u64)?;
    for (from, to) in pairs {
        let last = (*from).max(*to);
        if last as usize >= shape.blocks {
            return Err(GpuError::Unsupported {
                op: OP,
                what: "a block",
                value: last.into(),
                supported: format!("blocks below {}", shape.blocks),
            });
        }
    }
    let block = shape.block_bytes();
    let is_wide = block.is_multiple_of(16) && cache.address().is_multiple_of(16);
    let (kernel, unit) = if is_wide {
        ("block_copy_16", 16)
    } else {
        ("block_copy_2", 2)
    };
    let units = block / unit;
    let Ok(columns) = i32::try_from(units.div_ceil(UNITS_PER_BLOCK)) else {
        return Err(GpuError::Unsupported {
            op: OP,
            what: "bytes of a block",
            value: block as u64,
            supported: format!("at most {} units of {unit}", i32::MAX),
        });
    };
    let mut rest = pairs;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(wave(rest));
        let start = Arguments::new().write(cache).u64(units as u64);
        let word = |at: usize| match now.get(at) {
            Some((from, to)) => u64::from(*to) << 32 | u64::from(*from),
            None => 0,
        };
        gpu.launch(&Launch {
            op: OP,
            kernel,
            grid: [
                columns.unsigned_abs(),
                u32::try_from(now.len()).unwrap_or(0),
                1,
            ],
            threads: THREADS,
            shared_bytes: 0,
            arguments: (0..MOST_PAIRS).fold(start, |all, at| all.u64(word(at))),
        })?;
        rest = later;
    }
    Ok(())
}

/// How many pairs from the front may be copied at once.
fn wave(pairs: &[(u32, u32)]) -> usize {
    let pairs = &pairs[..pairs.len().min(MOST_PAIRS)];
    let meets = |(from, to): (u32, u32), earlier: &[(u32, u32)]| {
        earlier
            .iter()
            .any(|(read, written)| from == *written || to == *written || to == *read)
    };
    (1..pairs.len())
        .find(|at| meets(pairs[*at], &pairs[..*at]))
        .unwrap_or(pairs.len())
}
