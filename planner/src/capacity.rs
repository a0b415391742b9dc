//! The CPU backend's capacities: how a container's memory becomes budgets of ranks, and back.

use crate::bytes::Bytes;
use crate::check::check;
use crate::holdings::{rank_accounts, total, whole_model};
use crate::host::{budgets_within, host_reserve};
use crate::kv_cache::bytes_per_head;
use crate::refusal::{Reason, Refusal};
use crate::request::{RankCapacity, Request};
use crate::split::{Problem, fewest_blocks};

/// KV cache of all ranks together when neither a limit nor quotas nor a size say how much.
pub const KV_WITHOUT_LIMIT: Bytes = Bytes(4 << 30);

/// The capacities of a request's ranks on the CPU backend, whose `ranks` carry the quotas and no
/// totals. `limit`: the container's memory limit, if there is one.
///
/// - A rank with a quota keeps it.
/// - With a limit, ranks without a quota share limit - host reserve (which grows with what they
///   get) - sum of quotas equally;
///   utilization applies to each part.
/// - Without a limit they get what weights and scratch take plus their part of
///   min([`KV_WITHOUT_LIMIT`], KV cache wanted), in the best split of unbounded memory; a written
///   `kvCache.size` that is larger takes the place of the former.
///
/// # Errors
/// A limit that does not hold the quotas and the host reserve, or a request that makes no sense.
pub fn cpu_capacity(
    request: &Request,
    limit: Option<Bytes>,
) -> Result<Vec<RankCapacity>, Box<Refusal>> {
    let without_quota = request
        .ranks
        .iter()
        .filter(|rank| rank.quota.is_none())
        .count() as u64;
    let ranks = match limit {
        Some(limit) => {
            let quotas: Bytes = request.ranks.iter().filter_map(|rank| rank.quota).sum();
            let reserve = host_reserve(request, quotas).total();
            let taken = quotas + reserve;
            if limit < taken || (without_quota > 0 && limit == taken) {
                return Err(Box::new(Refusal {
                    reason: Reason::HostMemoryTooSmall {
                        limit,
                        quotas,
                        reserve,
                    },
                    shards_given: false,
                    ranks: Vec::new(),
                    remedies: Vec::new(),
                }));
            }
            let rest = budgets_within(request, limit).saturating_sub(quotas);
            let part = Bytes(rest.get() / without_quota.max(1));
            with_totals(request, |_| part)
        }
        None if without_quota == 0 => request.ranks.clone(),
        None => {
            let totals = unbounded(request)?;
            with_totals(request, |rank| totals[rank])
        }
    };
    Ok(ranks)
}

/// The memory limit of the engine's container on the CPU backend: all budgets and the host reserve.
/// `None` while a rank has neither quota nor total.
pub fn cpu_memory_limit(request: &Request) -> Option<Bytes> {
    let budgets = (0..request.ranks.len()).map(|rank| Some(request.budget(rank)?.bytes));
    let budgets: Bytes = budgets.collect::<Option<Vec<_>>>()?.into_iter().sum();
    Some(budgets + host_reserve(request, budgets).total())
}

fn with_totals(request: &Request, total: impl Fn(usize) -> Bytes) -> Vec<RankCapacity> {
    let fill = |(rank, capacity): (usize, &RankCapacity)| match capacity.quota {
        Some(quota) => RankCapacity {
            quota: Some(quota),
            total: None,
        },
        None => RankCapacity {
            quota: None,
            total: Some(total(rank)),
        },
    };
    request.ranks.iter().enumerate().map(fill).collect()
}

/// Totals of which `utilization` is just what each rank needs.
fn unbounded(request: &Request) -> Result<Vec<Bytes>, Box<Refusal>> {
    // More than any model takes, and far from the end of the numbers.
    const UNBOUNDED: Bytes = Bytes(1 << 52);
    let fill = |capacity: &RankCapacity| RankCapacity {
        quota: Some(capacity.quota.unwrap_or(UNBOUNDED)),
        total: None,
    };
    let open = Request {
        ranks: request.ranks.iter().map(fill).collect(),
        ..request.clone()
    };
    let budgets = check(&open)?
        .iter()
        .map(|budget| budget.bytes.get())
        .collect();
    let head = bytes_per_head(&open.shape, &open.kv).get();
    // What is asked for is not cut to what is taken where nothing is.
    let asked = request.kv.size.unwrap_or_default();
    let cache = KV_WITHOUT_LIMIT.max(asked.saturating_mul(request.rank_count().into()));
    let blocks_of = |heads: u64| (cache.get() / (head * heads)).saturating_sub(1);
    let most = blocks_of(open.shape.kv_heads.into());
    let split = Problem::new(&open, budgets).solve_up_to(most.max(fewest_blocks(&open)));
    let Some(split) = split else {
        // The quotas of the other ranks, or kvCache.size, are too small: the plan refuses them with
        // all its numbers, for which these ranks may have anything.
        return Ok(vec![
            whole_model(&open, fewest_blocks(&open));
            open.ranks.len()
        ]);
    };
    // KV heads may stand on several ranks.
    let heads = split
        .shards
        .iter()
        .map(|shard| u64::from(shard.kv_head_count()))
        .sum();
    let blocks = split.blocks.min(blocks_of(heads));
    let needed = |(rank, shard)| total(&rank_accounts(&open, rank, shard, blocks));
    Ok(split
        .shards
        .iter()
        .enumerate()
        .map(needed)
        .map(|bytes| request.unshare(bytes))
        .collect())
}
