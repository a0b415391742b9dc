//! The ledger as readers see it: plain figures, taken at one moment.

use std::time::Duration;

use plimsoll_planner::{Account, Bytes};

/// Every rank's rows, and the KV cache that they share the shape of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LedgerSnapshot {
    pub ranks: Vec<RankLedger>,
    pub kv: KvUsage,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RankLedger {
    pub rank: u32,
    pub budget: Bytes,
    pub quota: Option<Bytes>,
    /// In `Account::ALL` order; accounts that are planned zero and hold nothing are left out.
    pub accounts: Vec<AccountRow>,
    /// Resident size of this rank's own mappings, as the kernel reports it.
    pub driver: Bytes,
    /// `driver` minus the sum of `reserved`: what is resident and no account explains. Negative
    /// when the kernel has taken pages back (swap).
    pub other: i64,
    /// Bytes of blocks in use that hold no token.
    pub kv_wasted: Bytes,
    /// Resident size of what the rank keeps in host memory; in no other figure.
    pub host: Bytes,
    /// What was streamed of it since the start; `None` where nothing is offloaded.
    pub offload: Option<OffloadUsage>,
}

/// A rank's offloaded weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffloadUsage {
    pub layers: u32,
    /// Of a step.
    pub bytes: Bytes,
    /// The most that a step is predicted to wait.
    pub predicted: Duration,
    pub streamed: Streamed,
}

/// What steps streamed, and how long they waited for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streamed {
    pub steps: u64,
    pub bytes: u64,
    pub wait: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccountRow {
    pub account: Account,
    /// What the plan allows.
    pub planned: Bytes,
    /// What is mapped (committed) now. Equals the driver's view of this account.
    pub reserved: Bytes,
    /// What holds something: for the KV cache the blocks in use, elsewhere all that is reserved.
    pub used: Bytes,
    /// The most that was ever used.
    pub high_water: Bytes,
}

/// Blocks of the KV cache, the null block not counted. total = used + cached + free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvUsage {
    pub blocks_total: u32,
    /// Held by a sequence.
    pub blocks_used: u32,
    /// Held by none, kept because a prefix may come back; given up when needed.
    pub blocks_cached: u32,
    pub block_size: u32,
    /// Slots of used blocks that hold no token.
    pub slots_wasted: u64,
}

impl KvUsage {
    /// Tokens that the cache holds.
    pub fn tokens(&self) -> u64 {
        u64::from(self.blocks_total) * u64::from(self.block_size)
    }
}
