//! The backend that defines all results: a rank on the processor. Its ops are those of `kernels`,
//! its memory are buffers cut from arenas.

mod memory;
mod ops;
mod views;

use plimsoll_kernels::device::Buffer;
use plimsoll_kernels::kv::KvCache;
use plimsoll_kernels::pool::Pool;
use plimsoll_kernels::sampling::Sampler;

use super::places::Scratch;

pub use memory::Host;

/// One rank's memory and threads.
#[derive(Debug)]
pub struct CpuRank {
    /// Addressed by offset: tensors lie where the planner's layout says.
    weights: Buffer,
    kv: Buffer,
    kv_shape: KvCache,
    /// By handle, in the order in which they were cut.
    activations: Vec<Buffer>,
    workspaces: Vec<Buffer>,
    scratch: Scratch,
    pool: Pool,
    sampler: Sampler,
    /// What the last step drew: tokens of the next.
    drawn: Vec<u32>,
    /// A step's history with the drawn tokens in it.
    history: Vec<u32>,
}
