//! What the launcher of rope_kv refuses, and with which error.

use super::cuda;
use crate::gpu::trial::{Bench, Failure, refused};
use crate::gpu::{GpuError, Kind};
use crate::kv::KvCache;
use plimsoll_planner::Dtype;

/// A call that is launched, and what is refused when one thing of it changes.
pub(super) fn all(bench: &Bench<'_>) -> Result<(), Failure> {
    let shape = KvCache {
        dtype: Dtype::Float16,
        blocks: 5,
        block_size: 5,
        layers: 3,
        heads: 3,
        head_dim: 16,
    };
    let numbers = shape.bytes() / shape.element_bytes();
    let (mut cache, mut rows) = (
        bench.room(shape.dtype, numbers)?,
        bench.put(Dtype::Float32, &[0.0; 2 * 9 * 16])?,
    );
    let (tables, integers) = (
        bench.put(Dtype::Float32, &[0.0; 80])?,
        bench.put_raw(&[0u64, 1])?,
    );
    let floats = tables.view(Kind::F32);
    let right = cuda::Step {
        tokens: 2,
        query_heads: 3,
        layer: 0,
        norm: None,
        cos: floats,
        sin: floats,
        positions: integers.view(Kind::U32),
        slots: integers.view(Kind::U64),
        last_position: 9,
        last_slot: 24,
    };
    let half = Kind::Number(Dtype::Float16);
    let mut run = |step: cuda::Step<'_>, shape: KvCache, qkv: Kind, cached: Kind| {
        let (rows, cache) = (rows.view_mut(qkv), cache.view_mut(cached));
        cuda::run(bench.gpu, &rows, &step, &cache, &shape)
    };
    run(right, shape, half, half)?;
    let unsupported = |error: &GpuError| matches!(error, GpuError::Unsupported { .. });
    let wrong = |error: &GpuError| matches!(error, GpuError::Shape { .. });
    for head_dim in [0, 7, 258] {
        let shape = KvCache { head_dim, ..shape };
        refused("a head size", run(right, shape, half, half), unsupported)?;
    }
    let norm = Some(cuda::HeadNorm {
        query: floats.part(0, 16),
        key: floats.part(0, 15),
        eps: 1e-6,
    });
    for (what, step) in [
        (
            "a position past the tables",
            cuda::Step {
                last_position: 10,
                ..right
            },
        ),
        (
            "a slot past the cache",
            cuda::Step {
                last_slot: 25,
                ..right
            },
        ),
        ("a layer past the cache", cuda::Step { layer: 3, ..right }),
        (
            "too many heads",
            cuda::Step {
                query_heads: 65_530,
                ..right
            },
        ),
    ] {
        refused(what, run(step, shape, half, half), unsupported)?;
    }
    for (what, step) in [
        ("a short q_norm or k_norm", cuda::Step { norm, ..right }),
        (
            "tables that differ",
            cuda::Step {
                sin: floats.part(0, 79),
                ..right
            },
        ),
        (
            "a table between two groups",
            cuda::Step {
                cos: floats.part(1, 79),
                last_position: 8,
                ..right
            },
        ),
        (
            "more tokens than positions",
            cuda::Step {
                tokens: 3,
                positions: right.positions.part(0, 2),
                ..right
            },
        ),
        ("more tokens than rows", cuda::Step { tokens: 9, ..right }),
        (
            "slots of 32 bits",
            cuda::Step {
                slots: right.positions,
                ..right
            },
        ),
    ] {
        refused(what, run(step, shape, half, half), wrong)?;
    }
    refused("integers", run(right, shape, Kind::U32, half), wrong)?;
    refused(
        "a cache of another type",
        run(right, shape, half, Kind::F32),
        wrong,
    )?;
    let empty = KvCache {
        block_size: 0,
        ..shape
    };
    refused("an empty block", run(right, empty, half, half), unsupported)?;
    let is_dtype = |error: &GpuError| matches!(error, GpuError::Dtype { .. });
    refused(
        "qkv of another type",
        run(right, shape, Kind::F32, half),
        is_dtype,
    )
}
