//! A plan: what every rank holds, to the byte, and the limits that follow.

use crate::account::Account;
use crate::bytes::Bytes;
use crate::check::check;
use crate::holdings::{of, rank_accounts, total};
use crate::kv_cache;
use crate::offload::{self, Offload};
use crate::refusal::Refusal;
use crate::refuse::refuse;
use crate::request::Request;
use crate::shard::Shard;
use crate::split::{self, Problem};
use crate::weights;

/// One rank of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankPlan {
    pub rank: u32,
    pub shard: Shard,
    pub budget: Bytes,
    /// One row per account that is not zero, in `Account::ALL` order; those on the device sum to at
    /// most `budget`.
    pub accounts: Vec<(Account, Bytes)>,
}

impl RankPlan {
    pub fn bytes(&self, account: Account) -> Bytes {
        of(&self.accounts, account)
    }

    /// Bytes on the device and in host memory.
    pub fn everywhere(&self) -> Bytes {
        self.accounts.iter().map(|(_, bytes)| *bytes).sum()
    }

    /// Bytes on the device.
    pub fn total(&self) -> Bytes {
        total(&self.accounts)
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

impl Plan {
    /// Bytes each rank reads in a decode step with the cache as full as it is wanted: its weights,
    /// streamed or not, and keys and values of min(tokens held, tokens wanted). The largest predicts the step time
    /// of ranks with equal bandwidth, and is what the second criterion of the split minimises.
    pub fn step_bytes(&self, request: &Request) -> Vec<Bytes> {
        let blocks = u64::from(self.kv_blocks.saturating_sub(1));
        let blocks = blocks.min(split::blocks_wanted(request));
        let of_rank = |rank: &RankPlan| {
            let kv = kv_cache::block_bytes(&request.shape, &rank.shard, &request.kv);
            weights::layout(&request.shape, &rank.shard, request.kept(), rank.rank).total()
                + kv.saturating_mul(blocks)
        };
        self.ranks.iter().map(of_rank).collect()
    }
}

impl Plan {
    /// What each rank offloads.
    pub fn offload(&self, request: &Request) -> Vec<Offload> {
        let of_rank = |rank: &RankPlan| offload::of(request, &rank.shard);
        self.ranks.iter().map(of_rank).collect()
    }
}

/// Solves a request.
///
/// # Errors
/// A [`Refusal`] with the numbers of every rank and remedies that were solved again and hold.
pub fn plan(request: &Request) -> Result<Plan, Box<Refusal>> {
    let budgets = check(request)?;
    let problem = Problem::new(
        request,
        budgets.iter().map(|budget| budget.bytes.get()).collect(),
    );
    match problem.solve() {
        Some(split) => Ok(fill(request, &problem, split.shards)),
        None => Err(Box::new(refuse(request, &budgets))),
    }
}

/// Gives the KV cache all that the budgets leave.
fn fill(request: &Request, problem: &Problem<'_>, shards: Vec<Shard>) -> Plan {
    let fits = |rank: usize, blocks: u64| {
        let accounts = rank_accounts(request, rank, &shards[rank], blocks);
        total(&accounts).get() <= problem.budgets[rank]
            && request
                .kv
                .size
                .is_none_or(|size| of(&accounts, Account::KvCache) <= size)
    };
    let blocks = problem.most_blocks(fits);
    // The split was found with tables of differences; here the layouts themselves agree.
    assert!(
        blocks >= split::fewest_blocks(request),
        "a split that does not fit: {request:?}"
    );
    let rank = |(shard, rank): (Shard, u32)| {
        let index = rank as usize;
        let accounts = rank_accounts(request, index, &shard, blocks);
        RankPlan {
            rank,
            shard,
            budget: Bytes(problem.budgets[index]),
            accounts,
        }
    };
    Plan {
        kv_blocks: u32::try_from(blocks + 1).unwrap_or(u32::MAX),
        kv_tokens: blocks * u64::from(request.kv.block_size),
        max_model_len: split::max_model_len(request, blocks),
        ranks: shards.clone().into_iter().zip(0..).map(rank).collect(),
    }
}
