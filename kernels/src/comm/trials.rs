//! all_reduce on a card: in f32 the bits of the CPU's group, in all types sums in rank order.

use std::time::Duration;

use plimsoll_planner::{Bytes, Dtype};

use super::cuda;
use super::{Collective, Exchange, Member, group};
use crate::device::{Cpu, Device, Pages};
use crate::gpu::trial::{self, Bench, DTYPES, Failure, Trial, refused, rounded, same};
use crate::gpu::{GpuError, Kind, Memory, TensorMut};

pub(crate) fn all() -> Vec<Trial> {
    let mut trials = Vec::new();
    for dtype in DTYPES {
        // Counts around groups and blocks.
        for (ranks, count) in [
            (1, 9),
            (2, 1),
            (2, 8),
            (3, 1031),
            (4, 1024),
            (5, 7),
            (6, 2048),
            (7, 0),
            (8, 2053),
            (16, 100),
        ] {
            trials.push(Trial::new(
                "comm",
                format!("{dtype} all-reduce of {count} numbers between {ranks} ranks"),
                move |bench| all_reduce(bench, dtype, ranks, count),
            ));
        }
    }
    trials.push(Trial::new(
        "comm",
        "what no kernel takes is refused",
        refusals,
    ));
    trials
}

fn all_reduce(bench: &Bench<'_>, dtype: Dtype, ranks: usize, count: usize) -> Result<(), Failure> {
    /// Numbers behind the count that must stay.
    const BEHIND: usize = 9;
    let mut random = trial::random(ranks * count);
    // Of very different sizes, so that another order of addition gives other bits.
    let values: Vec<Vec<f32>> = (0..ranks)
        .map(|rank| {
            let scale = [1.0, 300.0, 0.01][rank % 3];
            let values = random.values(count + BEHIND);
            rounded(dtype, &values.iter().map(|v| v * scale).collect::<Vec<_>>())
        })
        .collect();
    let sums = on_cpu(&values, count);

    let kind = Kind::Number(dtype);
    let mut memories: Vec<Memory> = values
        .iter()
        .map(|values| bench.put(dtype, values))
        .collect::<Result<_, _>>()?;
    let mut buffers: Vec<TensorMut<'_>> = memories.iter_mut().map(|m| m.view_mut(kind)).collect();
    cuda::all_reduce_sum(bench.gpu, count, &mut buffers)?;
    for (rank, memory) in memories.iter().enumerate() {
        let got = bench.take(memory, dtype, count + BEHIND)?;
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let wanted = [&rounded(dtype, &sums)[..], &values[rank][count..]].concat();
        same(&format!("rank {rank}"), &bits(&got), &bits(&wanted))?;
    }
    Ok(())
}

/// What a group of ranks in one process makes of the first `count` numbers.
fn on_cpu(values: &[Vec<f32>], count: usize) -> Vec<f32> {
    let bytes = Bytes::measured(4096);
    let buffers = values.iter().map(|_| {
        let mut buffer = Cpu
            .reserve(bytes, Pages::Small)
            .unwrap_or_else(|error| panic!("a page of address space: {error}"));
        buffer
            .commit_all()
            .unwrap_or_else(|error| panic!("a page of memory: {error}"));
        Exchange::new(buffer)
    });
    let members = group(buffers.collect(), Duration::from_secs(60));
    let reduce = |mut member: Member| {
        let mut sums = values[member.rank()][..count].to_vec();
        let outcome = member.all_reduce_sum(&mut sums).and(member.barrier());
        outcome.unwrap_or_else(|error| panic!("a group of threads: {error}"));
        sums
    };
    let sums: Vec<Vec<f32>> = std::thread::scope(|scope| {
        let ranks: Vec<_> = members
            .into_iter()
            .map(|member| scope.spawn(move || reduce(member)))
            .collect();
        let sums = ranks.into_iter().map(|rank| rank.join());
        sums.map(|sums| sums.unwrap_or_default()).collect()
    });
    sums.into_iter().next().unwrap_or_default()
}

fn refusals(bench: &Bench<'_>) -> Result<(), Failure> {
    let unsupported = |error: &GpuError| matches!(error, GpuError::Unsupported { .. });
    let shape = |error: &GpuError| matches!(error, GpuError::Shape { .. });
    let reduce = |kinds: &[Kind], count| {
        let mut memories = Vec::new();
        for _ in kinds {
            memories.push(bench.put(Dtype::Float32, &[0.0; 16])?);
        }
        let views = memories.iter_mut().zip(kinds);
        let mut buffers: Vec<TensorMut<'_>> = views.map(|(m, kind)| m.view_mut(*kind)).collect();
        cuda::all_reduce_sum(bench.gpu, count, &mut buffers)
    };
    refused("no ranks", reduce(&[], 4), unsupported)?;
    refused("17 ranks", reduce(&[Kind::F32; 17], 4), unsupported)?;
    refused("a short buffer", reduce(&[Kind::F32; 2], 17), shape)?;
    refused("integers", reduce(&[Kind::U32; 2], 4), shape)?;
    let mixed = [Kind::F32, Kind::Number(Dtype::Float16)];
    refused("two float types", reduce(&mixed, 4), shape)?;
    let (mut a, mut b) = (
        bench.put(Dtype::Float32, &[0.0; 16])?,
        bench.put(Dtype::Float32, &[0.0; 16])?,
    );
    let mut whole = b.view_mut(Kind::F32);
    let mut buffers = [a.view_mut(Kind::F32), whole.part(1, 8)];
    let answer = cuda::all_reduce_sum(bench.gpu, 8, &mut buffers);
    refused("an address between two groups", answer, shape)
}
