//! What each primitive must answer, from its documentation and in this language's own arithmetic;
//! never from the emulator's code.

mod matrices;
mod numbers;
mod warps;

use plimsoll_planner::Dtype;

use crate::gpu::trial::{Bench, Trial};
use crate::gpu::{Arguments, GpuError, Kind, Launch, Memory};

const OP: &str = "probes";

pub(crate) fn all() -> Vec<Trial> {
    [numbers::all(), warps::all(), matrices::all()]
        .into_iter()
        .flatten()
        .collect()
}

/// `blocks` of `threads`.
type Size = (u32, u32);

/// One thread for each of `count` things.
fn threads_for(count: usize) -> Size {
    let blocks = count.div_ceil(256);
    (u32::try_from(blocks).unwrap_or(u32::MAX), 256)
}

fn launch(
    bench: &Bench<'_>,
    kernel: &str,
    (blocks, threads): Size,
    arguments: Arguments,
) -> Result<(), GpuError> {
    bench.gpu.launch(&Launch {
        op: OP,
        kernel: &format!("probes_{kernel}"),
        grid: [blocks, 1, 1],
        threads,
        shared_bytes: 0,
        arguments,
    })
}

/// Runs a kernel that takes room for `count` words, words to read and how many `things` there are;
/// the words it wrote.
fn words<T: crate::element::Element>(
    bench: &Bench<'_>,
    kernel: &str,
    size: Size,
    input: &[T],
    count: usize,
    things: Option<usize>,
) -> Result<Vec<u32>, GpuError> {
    let (mut out, input) = (room(bench, count)?, bench.put_raw(input)?);
    let arguments = Arguments::new()
        .write(&out.view_mut(Kind::U32))
        .read(input.view(Kind::U8));
    let arguments = match things {
        Some(things) => arguments.u32(u32::try_from(things).unwrap_or(u32::MAX)),
        None => arguments,
    };
    launch(bench, kernel, size, arguments)?;
    out.download(count)
}

/// Room for `count` words.
fn room(bench: &Bench<'_>, count: usize) -> Result<Memory, GpuError> {
    bench.room(Dtype::Float32, count)
}
