//! Seconds of one launch: the median over many event pairs around a few launches each.

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
}

/// What measures a case and shows it.
pub(crate) type Show<'a> = dyn FnMut(&Case<'_>) -> Result<(), GpuError> + 'a;

const WARM_UP: usize = 5;
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
    cuda.time(|| batch(WARM_UP))?;
    let mut times = Vec::with_capacity(REPEATS);
    for _ in 0..REPEATS {
        times.push(cuda.time(|| batch(BATCH))? / BATCH as f64);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[REPEATS / 2])
}

/// How many copies of `bytes` are needed so that a turn over all of them passes any second cache.
pub(crate) const fn copies(bytes: usize) -> usize {
    const TURN: usize = 256 << 20;
    let wanted = TURN / if bytes == 0 { 1 } else { bytes } + 1;
    if wanted > 8 {
        8
    } else if wanted < 2 {
        2
    } else {
        wanted
    }
}
