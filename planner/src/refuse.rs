//! The numbers of a request that no split fits, and which kind of refusal it is.

use crate::bytes::Bytes;
use crate::holdings::{rank_accounts, total, whole_model};
use crate::kv_cache;
use crate::refusal::{RankRefusal, Reason, Refusal};
use crate::remedies::remedies;
use crate::request::{Bound, Budget, Request};
use crate::scratch::granule;
use crate::shard::Shard;
use crate::split::{Problem, fewest_blocks, smallest};

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
        shards_given: false,
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
