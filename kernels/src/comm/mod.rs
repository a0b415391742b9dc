//! comm: sums, broadcasts and small records between the ranks of one group.
//!
//! Every rank calls the same operations in the same order with the same lengths. Sums are taken in
//! the order of ranks, so every rank gets the same bits; long ones by pieces, a piece to each rank. A rank that fails, drops its member or
//! stays away longer than the limit poisons the group: everyone else's call, now or later,
//! returns [`RankFailed`]. Nothing waits without a bound.
//!
//! `cuda` sums between ranks that share a card; it waits for nobody.

#[expect(
    unsafe_code,
    reason = "shares the address of a buffer whose pages come and go"
)]
mod exchange;
#[expect(
    unsafe_code,
    reason = "ranks read each other's exchange buffers between barriers"
)]
mod group;
mod meeting;

#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(feature = "gpu-tests")]
pub(crate) mod trials;

#[cfg(test)]
mod tests;

use crate::pool::Pool;

pub use exchange::Exchange;
pub use group::{Member, group};

/// Some rank of the group cannot go on, so no rank can.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RankFailed {
    #[error("rank {rank} failed: {reason}")]
    Failed { rank: usize, reason: String },
    #[error("rank {rank} waited {seconds} s for the other ranks")]
    TimedOut { rank: usize, seconds: u64 },
}

/// What ranks do together; shared memory here, NCCL on GPUs.
pub trait Collective: Send {
    /// This member's rank.
    fn rank(&self) -> usize;

    /// Ranks in the group.
    fn ranks(&self) -> usize;

    /// Replaces `values` by the sum over ranks, added in rank order. Equal bits on every rank.
    ///
    /// # Errors
    /// When a rank failed.
    fn all_reduce_sum(&mut self, values: &mut [f32]) -> Result<(), RankFailed>;

    /// The same with the threads of the rank's pool, where that is faster.
    ///
    /// # Errors
    /// As there.
    fn all_reduce_sum_on(&mut self, pool: &Pool, values: &mut [f32]) -> Result<(), RankFailed>;

    /// Collects every rank's `words` into `all` (`[ranks, words]`), in rank order.
    ///
    /// # Errors
    /// When a rank failed.
    fn all_gather(&mut self, words: &[u64], all: &mut [u64]) -> Result<(), RankFailed>;

    /// Replaces `words` by those of rank `root`.
    ///
    /// # Errors
    /// When a rank failed.
    fn broadcast(&mut self, root: usize, words: &mut [u64]) -> Result<(), RankFailed>;

    /// Returns when every rank has called it.
    ///
    /// # Errors
    /// When a rank failed.
    fn barrier(&mut self) -> Result<(), RankFailed>;

    /// Poisons the group: every other rank's call returns this rank's failure.
    fn fail(&self, reason: &str);
}
