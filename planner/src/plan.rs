//! A plan: what every rank holds, to the byte, and the limits that follow.

use crate::account::Account;
use crate::bytes::Bytes;
use crate::refusal::Refusal;
use crate::request::Request;
use crate::shard::Shard;

/// One rank of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankPlan {
    pub rank: u32,
    pub shard: Shard,
    pub budget: Bytes,
    /// One row per account that is not zero, in `Account::ALL` order; sums to at most `budget`.
    pub accounts: Vec<(Account, Bytes)>,
}

impl RankPlan {
    pub fn bytes(&self, account: Account) -> Bytes {
        self.accounts
            .iter()
            .filter(|(a, _)| *a == account)
            .map(|(_, b)| *b)
            .sum()
    }

    pub fn total(&self) -> Bytes {
        self.accounts.iter().map(|(_, b)| *b).sum()
    }
}

/// A split that fits every rank. Equal requests give equal plans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub ranks: Vec<RankPlan>,
    /// Blocks of the KV cache on every rank, the null block included.
    pub kv_blocks: u32,
    /// Tokens the KV cache holds: (kv_blocks - 1) x block size.
    pub kv_tokens: u64,
    /// The context in force: as asked, or the model's own shrunk to the KV cache.
    pub max_model_len: u32,
}

/// Solves a request.
///
/// # Errors
/// A [`Refusal`] with the numbers of every rank and remedies that were solved again and hold.
pub fn plan(_request: &Request) -> Result<Plan, Box<Refusal>> {
    unimplemented!()
}
