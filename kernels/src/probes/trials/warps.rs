//! Shuffles, votes, sums and atomics.

use super::{launch, room, words};
use crate::gpu::trial::{Bench, Failure, Trial, random, same};
use crate::gpu::{Arguments, Kind};

const WARP: usize = 32;

pub(super) fn all() -> Vec<Trial> {
    vec![
        Trial::new(super::OP, "shuffles at every distance", shuffles),
        Trial::new(super::OP, "votes, of half a warp too", votes),
        Trial::new(super::OP, "sums of a warp and of a block", sums),
        Trial::new(super::OP, "atomics, shared and between blocks", atomics),
    ]
}

fn numbers(count: usize) -> Vec<u32> {
    let mut random = random(count);
    (0..count).map(|_| (random.word() >> 40) as u32).collect()
}

/// Where lane `lane` reads, in segments of `width`: the lane itself when the other is outside.
fn source(kind: usize, lane: usize, by: usize, width: usize) -> usize {
    let segment = lane / width * width;
    match kind {
        0 => segment + by % width,
        // Another segment in front may be read, one behind may not.
        1 if lane ^ by < segment + width => lane ^ by,
        2 if lane % width >= by => lane - by,
        3 if lane % width + by < width => lane + by,
        _ => lane,
    }
}

fn shuffles(bench: &Bench<'_>) -> Result<(), Failure> {
    let input = numbers(WARP);
    let mut wanted = Vec::new();
    for by in 1..WARP {
        for width in [WARP, 8] {
            for kind in 0..4 {
                wanted.extend((0..WARP).map(|lane| input[source(kind, lane, by, width)]));
            }
        }
    }
    let got = words(bench, "shuffles", (1, 32), &input, wanted.len(), None)?;
    same("rows of 32", &got, &wanted)
}

fn votes(bench: &Bench<'_>) -> Result<(), Failure> {
    // Bit 1: nobody but lane 9; bit 2: everybody but lane 9.
    let input: Vec<u32> = numbers(WARP)
        .iter()
        .enumerate()
        .map(|(lane, v)| (v & 1) | if lane == 9 { 2 } else { 4 })
        .collect();
    let ballot = |lanes: std::ops::Range<usize>| {
        lanes.fold(0u32, |votes, lane| votes | (input[lane] & 1) << lane)
    };
    let mut wanted = vec![ballot(0..32); WARP];
    wanted.extend([1; WARP]);
    wanted.extend([0; WARP]);
    wanted.extend([ballot(0..16); 16]);
    wanted.extend([ballot(16..32); 16]);
    wanted.extend((0..WARP).map(|lane| input[lane] + input[lane ^ 1]));
    let got = words(bench, "votes", (1, 32), &input, wanted.len(), None)?;
    same("rows of 32", &got, &wanted)
}

fn sums(bench: &Bench<'_>) -> Result<(), Failure> {
    for threads in [32usize, 96, 256, 1024] {
        // Whole numbers, whose sums are exact in any order.
        let input: Vec<f32> = numbers(threads).iter().map(|v| (v % 1000) as f32).collect();
        let memory = bench.put_raw(&input)?;
        let (mut of_warp, mut of_block) = (room(bench, threads)?, room(bench, threads)?);
        let arguments = Arguments::new()
            .write(&of_warp.view_mut(Kind::F32))
            .write(&of_block.view_mut(Kind::F32))
            .read(memory.view(Kind::F32));
        let size = (1, u32::try_from(threads).unwrap_or(u32::MAX));
        launch(bench, "sums", size, arguments)?;
        let warps: Vec<f32> = input
            .chunks_exact(WARP)
            .flat_map(|warp| [warp.iter().sum::<f32>(); WARP])
            .collect();
        same("of a warp", &of_warp.download(threads)?, &warps)?;
        let total: f32 = input.iter().sum();
        let got = of_block.download::<f32>(threads)?;
        same("of a block", &got, &vec![total; threads])?;
    }
    Ok(())
}

fn atomics(bench: &Bench<'_>) -> Result<(), Failure> {
    const BLOCKS: usize = 3;
    const THREADS: usize = 96;
    let input = numbers(BLOCKS * THREADS);
    let memory = bench.put_raw(&input)?;
    let mut of_block = room(bench, 4 * BLOCKS)?;
    let mut of_all = bench.put_raw(&[0u32, 0, u32::MAX, 0, 5, 0])?;
    let arguments = Arguments::new()
        .write(&of_block.view_mut(Kind::U32))
        .write(&of_all.view_mut(Kind::U32))
        .read(memory.view(Kind::U32));
    launch(bench, "atomics", (3, 96), arguments)?;
    let totals = |values: &[u32]| {
        let sum = values.iter().fold(0u32, |sum, v| sum.wrapping_add(*v));
        let (most, least) = (values.iter().max(), values.iter().min());
        let bits = values.iter().fold(0, |bits, v| bits | v);
        [
            sum,
            most.copied().unwrap_or(0),
            least.copied().unwrap_or(u32::MAX),
            bits,
        ]
    };
    let wanted: Vec<u32> = input.chunks_exact(THREADS).flat_map(totals).collect();
    same("of a block", &of_block.download(4 * BLOCKS)?, &wanted)?;
    let mut wanted = totals(&input).to_vec();
    wanted.extend([9, 5 + 7]);
    same("of all", &of_all.download(6)?, &wanted)
}
