//! Why a request cannot fit: the numbers of every rank and what would help.

use crate::account::Account;
use crate::bytes::Bytes;
use crate::kv_cache;
use crate::plan::{rank_accounts, total};
use crate::remedy::{Remedy, remedies};
use crate::request::{Bound, Budget, Request};
use crate::scratch::granule;
use crate::shard::Shard;
use crate::split::{Problem, fewest_blocks, smallest};

/// A request that cannot be met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: Reason,
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
    /// What the rank takes before it holds any share of the model, account by account.
    pub floor: Vec<(Account, Bytes)>,
    /// What the smallest share of attention adds: one KV-head group and its KV cache at the
    /// shortest context that is accepted.
    pub smallest_unit: Bytes,
    /// What the rank needs in the split that overruns the budgets least.
    pub needed: Bytes,
    /// needed - budget, or zero.
    pub shortfall: Bytes,
}

impl RankRefusal {
    pub fn floor_total(&self) -> Bytes {
        total(&self.floor)
    }
}

impl Refusal {
    /// What all ranks together need, in the split that overruns the budgets least.
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

/// The numbers of a request that no split fits.
pub(crate) fn refuse(request: &Request, budgets: &[Budget]) -> Refusal {
    let needed = least_overrun(request, budgets);
    let reason = reason(request, budgets, &needed);
    let rank = |(rank, budget): (usize, &Budget)| {
        let blocks = fewest_blocks(request);
        let empty = Shard {
            kv_heads: 0..0,
            query_heads: 0..0,
            mlp_columns: 0..0,
            vocab_rows: 0..0,
        };
        let group = Shard {
            kv_heads: 0..1,
            query_heads: 0..request.shape.group(),
            ..empty.clone()
        };
        let floor = rank_accounts(request, rank, &empty, blocks);
        let with_group = total(&rank_accounts(request, rank, &group, blocks));
        RankRefusal {
            rank: u32::try_from(rank).unwrap_or(u32::MAX),
            budget: *budget,
            smallest_unit: with_group.saturating_sub(total(&floor)),
            floor,
            needed: needed[rank],
            shortfall: needed[rank].saturating_sub(budget.bytes),
        }
    };
    let ranks: Vec<RankRefusal> = budgets.iter().enumerate().map(rank).collect();
    let remedies = remedies(request, &reason, &ranks);
    Refusal {
        reason,
        ranks,
        remedies,
    }
}

/// What each rank needs in the split that fits when every budget is raised by the same, least
/// amount (and `kvCache.size` does not bind).
fn least_overrun(request: &Request, budgets: &[Budget]) -> Vec<Bytes> {
    let free = Request {
        kv: crate::KvLayout {
            size: None,
            ..request.kv
        },
        ..request.clone()
    };
    let blocks = fewest_blocks(request);
    let unit = granule(request.backend);
    let whole = whole_model(&free, blocks);
    // With room for the whole model on each rank any split fits.
    let most = whole.get() / unit.get() + 1;
    let mut problem = Problem::new(&free, Vec::new());
    let raised = |units: u64| -> Vec<u64> {
        budgets
            .iter()
            .map(|budget| budget.bytes.get() + units * unit.get())
            .collect()
    };
    let least = smallest(0..=most, |units| {
        problem.fits_within(&raised(units), blocks)
    });
    problem.budgets = raised(least.unwrap_or(most));
    let Some(split) = problem.solve_at(blocks) else {
        return vec![whole; budgets.len()];
    };
    let needed =
        |(rank, shard): (usize, &Shard)| total(&rank_accounts(request, rank, shard, blocks));
    split.shards.iter().enumerate().map(needed).collect()
}

/// Bytes of a rank that holds everything, `blocks` blocks of KV among it.
pub(crate) fn whole_model(request: &Request, blocks: u64) -> Bytes {
    total(&rank_accounts(
        request,
        0,
        &Shard::whole(&request.shape),
        blocks,
    ))
}

fn reason(request: &Request, budgets: &[Budget], needed: &[Bytes]) -> Reason {
    let blocks = fewest_blocks(request);
    let values: Vec<u64> = budgets.iter().map(|budget| budget.bytes.get()).collect();
    if request.kv.size.is_some() {
        let free = Request {
            kv: crate::KvLayout {
                size: None,
                ..request.kv
            },
            ..request.clone()
        };
        if Problem::new(&free, Vec::new()).fits_within(&values, blocks) {
            return Reason::KvCacheTooSmall;
        }
    }
    if request.limits.max_model_len.is_some() {
        let limits = crate::Limits {
            max_model_len: None,
            ..request.limits
        };
        let shorter = Request {
            limits,
            ..request.clone()
        };
        let least = kv_cache::blocks_for(1, request.kv.block_size);
        if Problem::new(&shorter, Vec::new()).fits_within(&values, least) {
            return Reason::ContextTooLong;
        }
    }
    let short = budgets
        .iter()
        .zip(needed)
        .filter(|(budget, needed)| **needed > budget.bytes);
    match short
        .into_iter()
        .any(|(budget, _)| budget.bound == Bound::Quota)
    {
        true => Reason::QuotaTooSmall,
        false => Reason::MemoryTooSmall,
    }
}
