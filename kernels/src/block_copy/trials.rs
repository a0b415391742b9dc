//! block_copy on a card: the CPU's bytes, however pairs depend on each other.

use super::cuda;
use crate::gpu::trial::{self, Bench, DTYPES, Failure, Trial, refused, same};
use crate::gpu::{GpuError, Kind};
use crate::kv::KvCache;
use plimsoll_planner::Dtype;

/// A block of 2 x 2 x 5 x 3 = 60 numbers for every number of `head_dim`.
const fn shape(dtype: Dtype, head_dim: usize) -> KvCache {
    KvCache {
        dtype,
        blocks: 40,
        block_size: 3,
        layers: 2,
        heads: 5,
        head_dim,
    }
}

const LISTS: [(&str, &[(u32, u32)]); 7] = [
    ("no pairs", &[]),
    ("one pair", &[(39, 0)]),
    ("pairs that never meet", &[(1, 2), (1, 3), (5, 4), (0, 39)]),
    ("a chain", &[(1, 2), (2, 3), (3, 4), (4, 4)]),
    ("a swap through a third", &[(1, 9), (2, 1), (9, 2)]),
    ("a block that is written twice", &[(1, 9), (2, 9), (9, 3)]),
    ("a block over itself", &[(7, 7), (7, 8)]),
];

pub(crate) fn all() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (name, pairs) in LISTS {
        trials.push(Trial::new("block_copy", name, move |bench| {
            copied(bench, &shape(Dtype::BFloat16, 16), pairs, 0)
        }));
    }
    for dtype in DTYPES {
        // 16 bytes or not, below and above what one block of threads copies.
        for head_dim in [1, 5, 64, 140] {
            trials.push(Trial::new(
                "block_copy",
                format!("{dtype} head size {head_dim}"),
                move |bench| copied(bench, &shape(dtype, head_dim), &[(3, 38), (0, 5)], 0),
            ));
        }
    }
    trials.push(Trial::new(
        "block_copy",
        "more pairs than a launch takes",
        many,
    ));
    trials.push(Trial::new(
        "block_copy",
        "a cache that starts between two groups",
        |bench| copied(bench, &shape(Dtype::Float16, 8), &[(3, 38), (0, 5)], 3),
    ));
    trials.push(Trial::new(
        "block_copy",
        "what is out of range is refused",
        refusals,
    ));
    trials
}

/// Copies in a cache that starts `skip` numbers into the memory.
fn copied(
    bench: &Bench<'_>,
    shape: &KvCache,
    pairs: &[(u32, u32)],
    skip: usize,
) -> Result<(), Failure> {
    let (kind, front) = (Kind::Number(shape.dtype), skip * shape.element_bytes());
    let mut random = trial::random(shape.bytes());
    let mut wanted: Vec<u8> = (0..front + shape.bytes())
        .map(|_| random.word().to_le_bytes()[0])
        .collect();
    let mut memory = bench.put_raw(&wanted)?;
    let mut cache = memory.view_mut(kind);
    let count = shape.bytes() / shape.element_bytes();
    cuda::run(bench.gpu, shape, pairs, &cache.part(skip, count))?;
    super::run(&mut wanted[front..], shape, pairs);
    same("cache", &memory.download(wanted.len())?, &wanted)
}

/// 50 pairs at random, most of which meet another.
fn many(bench: &Bench<'_>) -> Result<(), Failure> {
    let (mut random, shape) = (trial::random(50), shape(Dtype::Float16, 2));
    let mut block = || u32::try_from(random.below(shape.blocks)).unwrap_or(0);
    let pairs: Vec<(u32, u32)> = (0..50).map(|_| (block(), block())).collect();
    copied(bench, &shape, &pairs, 0)?;
    // 17 pairs that never meet are one more than a launch takes.
    let pairs: Vec<(u32, u32)> = (0..17).map(|at| (at, at + 20)).collect();
    copied(bench, &shape, &pairs, 0)
}

fn refusals(bench: &Bench<'_>) -> Result<(), Failure> {
    let shape = shape(Dtype::Float16, 1);
    let before = vec![7u8; shape.bytes()];
    let mut memory = bench.put_raw(&before)?;
    let kind = Kind::Number(shape.dtype);
    let unsupported = |error: &GpuError| matches!(error, GpuError::Unsupported { .. });
    let wrong = |error: &GpuError| matches!(error, GpuError::Shape { .. });
    for pair in [(40, 0), (0, 40), (u32::MAX, 1)] {
        let pairs = [(1, 2), pair];
        let answer = cuda::run(bench.gpu, &shape, &pairs, &memory.view_mut(kind));
        refused("a block past the cache", answer, unsupported)?;
    }
    let answer = cuda::run(bench.gpu, &shape, &[], &memory.view_mut(Kind::F32));
    refused("numbers of another type", answer, wrong)?;
    let mut cache = memory.view_mut(kind);
    let answer = cuda::run(
        bench.gpu,
        &shape,
        &[],
        &cache.part(1, shape.bytes() / 2 - 1),
    );
    refused("a short cache", answer, wrong)?;
    same("cache", &memory.download(before.len())?, &before)
}
