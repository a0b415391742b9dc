//! The backend that defines all results: a rank on the processor. Its ops are those of `kernels`,
//! its memory are arenas, one per account.

mod fill;
#[cfg(test)]
mod listed;
mod memory;
mod ops;
mod stream;
mod views;

use plimsoll_kernels::kv::KvCache;
use plimsoll_kernels::linear::Products;
use plimsoll_kernels::pool::Pool;
use plimsoll_kernels::sampling::Sampler;
use plimsoll_planner::KvDtype;

use super::backend::HostAdapters;
use super::handle::Handle;
use super::lora::AdapterPlaces;
use super::places::Scratch;
use crate::memory::arena::Arena;

pub use memory::Host;
use stream::Stream;

/// Slots for adapters.
#[derive(Debug)]
struct Slots {
    at: AdapterPlaces,
    /// Of each slot and matrix.
    ranks: Vec<u32>,
    /// Rows of the step that have an adapter.
    rows: usize,
}

/// One rank's memory and threads.
///
/// After a release and a restore all of it is as after the first reservation, except the weights
/// (read again, or kept) and the tables (computed again): arenas keep their addresses, places and
/// shapes are the plan's, threads hold nothing between two ops, and what the last step left is
/// forgotten with the KV cache, so that a token carried over a sleep is a panic and not a guess.
/// Scratch is never read before it is written: it is poison at boot, too.
#[derive(Debug)]
pub struct CpuRank {
    weights: Arena,
    /// The rest of them, where some are offloaded.
    stream: Option<Stream>,
    kv: Arena,
    activations: Arena,
    workspaces: Arena,
    adapters: Arena,
    /// Its pages are the rank's to give back; what lies in them is the group's.
    comm: Arena,
    kv_shape: KvCache<KvDtype>,
    /// All blocks.
    cache: Handle,
    scratch: Scratch,
    slots: Slots,
    beside: Option<Box<dyn HostAdapters>>,
    /// Of matrices in blocks.
    products: Products,
    pool: Pool,
    sampler: Sampler,
    /// What the last step drew: tokens of the next.
    drawn: Vec<u32>,
}
