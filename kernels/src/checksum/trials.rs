//! checksum on a card: the CPU's figure to the bit.

use super::{CHUNK_BYTES, cuda};
use crate::gpu::trial::{self, Bench, Failure, Trial, refused, same};
use crate::gpu::{GpuError, Kind};
use plimsoll_planner::Dtype;

/// Lengths around words, rows, chunks, warps and blocks.
pub(crate) fn all() -> Vec<Trial> {
    let (warp, block) = (8 * CHUNK_BYTES, 32 * CHUNK_BYTES);
    let mut trials: Vec<Trial> = [
        0,
        1,
        15,
        16,
        17,
        63,
        64,
        65,
        1000,
        CHUNK_BYTES - 1,
        CHUNK_BYTES,
        CHUNK_BYTES + 1,
        2 * CHUNK_BYTES + 40,
        warp - 64,
        warp + 3,
        block,
        block + CHUNK_BYTES / 2 + 9,
        2 * block + 5,
    ]
    .into_iter()
    .map(|bytes| {
        Trial::new("checksum", format!("{bytes} bytes"), move |bench| {
            figure(bench, bytes)
        })
    })
    .collect();
    trials.push(Trial::new("checksum", "numbers of any kind", kinds));
    trials.push(Trial::new(
        "checksum",
        "what no kernel takes is refused",
        refusals,
    ));
    trials
}

fn figure(bench: &Bench<'_>, bytes: usize) -> Result<(), Failure> {
    let mut random = trial::random(bytes);
    let data: Vec<u8> = (0..bytes).map(|_| random.word().to_le_bytes()[0]).collect();
    let on_card = bench.put_raw(&data)?;
    let mut out = bench.put_raw(&[u64::MAX, 7])?;
    cuda::run(bench.gpu, on_card.view(Kind::U8), &out.view_mut(Kind::U64))?;
    // The figure, and no other word.
    same("out", &out.download::<u64>(2)?, &[super::run(&data), 7])
}

fn kinds(bench: &Bench<'_>) -> Result<(), Failure> {
    let words: Vec<u32> = (0..1500).collect();
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let on_card = bench.put_raw(&words)?;
    for kind in [Kind::Number(Dtype::BFloat16), Kind::F32, Kind::U64] {
        let mut out = bench.put_raw(&[0u64])?;
        cuda::run(bench.gpu, on_card.view(kind), &out.view_mut(Kind::U64))?;
        same("out", &out.download::<u64>(1)?, &[super::run(&bytes)])?;
    }
    Ok(())
}

fn refusals(bench: &Bench<'_>) -> Result<(), Failure> {
    let data = bench.put_raw(&[0u8; 64])?;
    let mut out = bench.put_raw(&[0u64])?;
    let shape = |error: &GpuError| matches!(error, GpuError::Shape { .. });
    let odd = data.view(Kind::U8).part(8, 32);
    let answer = cuda::run(bench.gpu, odd, &out.view_mut(Kind::U64));
    refused("an address between two groups", answer, shape)?;
    let whole = data.view(Kind::U8);
    let answer = cuda::run(bench.gpu, whole, &out.view_mut(Kind::U32));
    refused("a figure of 32 bits", answer, shape)?;
    let answer = cuda::run(bench.gpu, whole, &out.view_mut(Kind::U64).part(0, 0));
    refused("no room", answer, shape)
}
