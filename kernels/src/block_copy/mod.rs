//! block_copy: copies whole KV blocks, all layers, inside one cache.
//!
//! Pairs are copied in order: one may read what an earlier one wrote. The card keeps to that: it
//! copies at once only pairs that cannot meet, and the others after them.

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(feature = "gpu-tests")]
pub(crate) mod trials;

#[cfg(test)]
mod tests;

use plimsoll_planner::KvDtype;

use crate::kv::KvCache;

/// Copies block `from` over block `to` for every pair, in order.
///
/// # Panics
/// When a block is out of range.
pub fn run<D: Copy + Into<KvDtype>>(cache: &mut [u8], shape: &KvCache<D>, pairs: &[(u32, u32)]) {
    shape.check(cache);
    cpu::run(cache, &shape.of_any(), pairs);
}
