//! Seconds of one launch: the median over many event pairs around a few launches each.
//!
//! A case that reads and writes less than [`TURN`] bytes must take turns over copies: otherwise it is
//! measured against the second cache (50 MB on an H100, 126 MB on a B200), not against the memory.

use std::rc::Rc;

use plimsoll_kernels::gpu::GpuError;
use plimsoll_kernels::gpu::driver::Cuda;

/// What is timed. `run` only launches; its argument counts up, so that calls can take turns over
/// copies of what they read and none finds it in the second cache.
pub(crate) struct Case<'a> {
    /// As in peers.py.
    pub(crate) name: String,
    /// Moved through device memory at least: each input read once, each output written once.
    pub(crate) bytes: f64,
    /// Multiplications and additions that the result asks for.
    pub(crate) operations: f64,
    pub(crate) run: Box<dyn Fn(usize) -> Result<(), GpuError> + 'a>,
    /// For what `run` spoils: puts it right before every call, and is not timed.
    pub(crate) prepare: Option<Box<dyn Fn() -> Result<(), GpuError> + 'a>>,
}

/// What measures a case and shows it.
pub(crate) type Show<'a> = dyn FnMut(&Case<'_>) -> Result<(), GpuError> + 'a;

/// What a turn over all copies passes at least.
const TURN: usize = 256 << 20;
const WARM_UP: usize = 3;
const BATCH: usize = 10;
const REPEATS: usize = 21;

pub(crate) fn seconds(cuda: &Rc<Cuda>, case: &Case<'_>) -> Result<f64, GpuError> {
    let mut turn = 0;
    let mut batch = |count: usize| {
        for _ in 0..count {
            (case.run)(turn)?;
            turn += 1;
        }
        Ok(())
    };
    // What has to be put right before every call is timed call by call.
    let size = if case.prepare.is_some() { 1 } else { BATCH };
    let mut times = Vec::with_capacity(REPEATS);
    for round in 0..WARM_UP + REPEATS {
        if let Some(prepare) = &case.prepare {
            prepare()?;
        }
        let seconds = cuda.time(|| batch(size))? / size as f64;
        if round >= WARM_UP {
            times.push(seconds);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times[REPEATS / 2])
}

/// How many copies of `bytes` are needed so that a turn over all of them passes any second cache.
pub(crate) const fn copies(bytes: usize) -> usize {
    let wanted = TURN / if bytes == 0 { 1 } else { bytes } + 1;
    if wanted > 32 { 32 } else { wanted }
}
