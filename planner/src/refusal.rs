//! Why a request cannot fit: the numbers of every rank and what would help.

use crate::account::Account;
use crate::bytes::Bytes;
use crate::remedy::Remedy;
use crate::request::Budget;

/// A request that cannot be met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: Reason,
    /// The shards were given ([`crate::refit`]): floors are what each rank's own shard takes
    /// without any KV cache, and units the cache of one sequence at its longest.
    pub shards_given: bool,
    /// One row per rank; empty when the request made no sense.
    pub ranks: Vec<RankRefusal>,
    /// Up to three changes, each of which makes the request fit: they were solved again.
    pub remedies: Vec<Remedy>,
}

/// The kind of a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A field makes no sense, whatever the memory.
    Invalid { field: String, detail: String },
    /// It would fit with a shorter `spec.limits.maxModelLen`.
    ContextTooLong,
    /// It would fit without `spec.memory.kvCache.size`.
    KvCacheTooSmall,
    /// The quotas are too small.
    QuotaTooSmall,
    /// The devices (or the container's limit) are too small.
    MemoryTooSmall,
    /// The container's memory limit does not hold the quotas and the host's reserve. Where ranks
    /// are told too, their quotas would not do even without the limit.
    HostMemoryTooSmall {
        limit: Bytes,
        quotas: Bytes,
        reserve: Bytes,
    },
}

impl Reason {
    /// The reason as conditions write it.
    pub const fn name(&self) -> &'static str {
        match self {
            Reason::Invalid { .. } => "InvalidRequest",
            Reason::ContextTooLong => "ContextTooLong",
            Reason::KvCacheTooSmall => "KVCacheTooSmall",
            Reason::QuotaTooSmall => "QuotaTooSmall",
            Reason::MemoryTooSmall => "MemoryTooSmall",
            Reason::HostMemoryTooSmall { .. } => "HostMemoryInsufficient",
        }
    }
}

/// One rank of a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankRefusal {
    pub rank: u32,
    pub budget: Budget,
    /// What the rank takes before it holds any share of the model, account by account. With given
    /// shards: what its shard takes, the KV cache left out.
    pub floor: Vec<(Account, Bytes)>,
    /// What the smallest share of attention adds: one KV-head group and its KV cache at the
    /// shortest context that is accepted. With given shards: the KV cache of the context in force.
    pub smallest_unit: Bytes,
    /// What the rank needs: in the split that overruns the budgets least, or in the given one.
    pub needed: Bytes,
    /// needed - budget, or zero.
    pub shortfall: Bytes,
}

impl RankRefusal {
    pub fn floor_total(&self) -> Bytes {
        self.floor.iter().map(|(_, bytes)| *bytes).sum()
    }
}

impl Refusal {
    /// What all ranks together need.
    pub fn needed(&self) -> Bytes {
        self.ranks.iter().map(|rank| rank.needed).sum()
    }

    /// What all ranks together may use.
    pub fn available(&self) -> Bytes {
        self.ranks.iter().map(|rank| rank.budget.bytes).sum()
    }

    /// What the ranks that fall short lack.
    pub fn shortfall(&self) -> Bytes {
        self.ranks.iter().map(|rank| rank.shortfall).sum()
    }
}
