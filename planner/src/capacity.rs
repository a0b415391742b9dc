//! The CPU backend's capacities: how a container's memory becomes budgets of ranks, and back.

use crate::bytes::Bytes;
use crate::check::check;
use crate::holdings::{rank_accounts, total, whole_model};
use crate::host::{budgets_within, host_reserve};
use crate::kv_cache::bytes_per_head;
use crate::refusal::{Reason, Refusal};
use crate::request::{RankCapacity, Request};
use crate::split::{Problem, fewest_blocks};

/// KV cache of all ranks together when neither a limit nor quotas say how much.
pub const KV_WITHOUT_LIMIT: Bytes = Bytes(4 << 30);

/// The capacities of a request's ranks on the CPU backend, whose `ranks` carry the quotas and no
/// totals. `limit`: the container's memory limit, if there is one.
///
/// - A rank with a quota keeps it.
/// - With a limit, ranks without a quota share limit - host reserve (which grows with what they
///   get) - sum of quotas equally;
///   utilization applies to each part.
/// - Without a limit they get what weights and scratch take plus their part of
///   min([`KV_WITHOUT_LIMIT`], KV cache wanted), in the best split of unbounded memory.
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
    let blocks_of = |heads: u64| (KV_WITHOUT_LIMIT.get() / (head * heads)).saturating_sub(1);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Architecture, Dtype, ModelShape};
    use crate::request::{Backend, KvLayout, Limits, Utilization};
    use crate::{Account, plan};

    fn smollm2(quotas: &[Option<u64>]) -> Request {
        Request {
            shape: ModelShape {
                architecture: Architecture::Llama,
                layers: 30,
                hidden: 576,
                query_heads: 9,
                kv_heads: 3,
                head_dim: 64,
                ffn: 1536,
                vocab: 49_152,
                tied: true,
                qkv_bias: false,
                output_bias: false,
                mlp_bias: false,
                qk_norm: false,
                context: 8192,
            },
            backend: Backend::Cpu,
            dtype: Dtype::BFloat16,
            kv: KvLayout {
                dtype: Dtype::BFloat16,
                block_size: 16,
                size: None,
            },
            limits: Limits {
                max_model_len: None,
                max_num_seqs: 64,
                max_num_batched_tokens: 2048,
            },
            utilization: Utilization(900),
            ranks: quotas
                .iter()
                .map(|quota| RankCapacity {
                    quota: quota.map(Bytes::measured),
                    total: None,
                })
                .collect(),
        }
    }

    const MIB: u64 = 1 << 20;

    #[test]
    fn ranks_without_quota_share_what_limit_reserve_and_quotas_leave() {
        let request = smollm2(&[Some(300 * MIB), None, None]);
        let reserve = host_reserve(&request, Bytes(1300 * MIB)).total().get();
        let ranks = cpu_capacity(&request, Some(Bytes(reserve + 1300 * MIB))).unwrap();
        assert_eq!(ranks[0], request.ranks[0]);
        for rank in &ranks[1..] {
            assert_eq!(rank.total, Some(Bytes(500 * MIB)));
        }
        let request = Request { ranks, ..request };
        assert_eq!(request.budget(1).unwrap().bytes, Bytes(450 * MIB));
    }

    #[test]
    fn a_limit_below_quotas_and_reserve_is_refused_with_the_numbers() {
        let request = smollm2(&[Some(300 * MIB), Some(700 * MIB)]);
        let reserve = host_reserve(&request, Bytes(1000 * MIB)).total().get();
        let refusal = cpu_capacity(&request, Some(Bytes(1000 * MIB))).unwrap_err();
        let message = refusal.message();
        assert!(message.contains("memory limit: 1000.00 MiB"), "{message}");
        assert!(message.contains(&Bytes(reserve).to_string()), "{message}");
        let exact = cpu_capacity(&request, Some(Bytes(1000 * MIB + reserve))).unwrap();
        assert_eq!(exact, request.ranks);
        assert_eq!(
            cpu_memory_limit(&request),
            Some(Bytes(1000 * MIB + reserve))
        );
    }

    /// 64 GiB of ranks need 128 MiB of page tables alone.
    #[test]
    fn the_reserve_grows_with_the_budgets_and_the_context() {
        let request = smollm2(&[None, None]);
        let part = |gib: u64| host_reserve(&request, Bytes(gib << 30));
        assert_eq!(part(64).page_tables, Bytes(128 * MIB));
        assert_eq!(part(1).page_tables, Bytes(2 * MIB));
        // 16 tokens x 30 layers x 3 heads x 64 x 2 x 2 bytes are 360 KiB of every rank's sum.
        assert_eq!(part(64).blocks, Bytes((64 << 30) / (360 << 10) * 128));
        let mut long = request.clone();
        long.shape.context = 131_072;
        let serving = |request: &Request| host_reserve(request, Bytes(64 << 30));
        assert!(serving(&long).work > serving(&request).work);
        // Those that wait and run grow with the context, what is in a step with the cache.
        assert!(serving(&long).sequences.get() >= 7 * serving(&request).sequences.get());
        long.limits.max_model_len = Some(8192);
        assert_eq!(
            serving(&long),
            serving(&request),
            "what is asked for counts"
        );
    }

    /// Whatever the limit, ranks and host have it together, and nobody could have a page more.
    #[test]
    fn budgets_and_their_reserve_fill_the_limit() {
        for mib in (600..40_000).step_by(1_237) {
            let request = smollm2(&[None, None, None]);
            let limit = Bytes(mib * MIB);
            let ranks = cpu_capacity(&request, Some(limit)).unwrap();
            let parts: Bytes = ranks.iter().filter_map(|rank| rank.total).sum();
            let all = parts + host_reserve(&request, parts).total();
            assert!(all <= limit, "{mib} MiB: {all}");
            assert!(limit.saturating_sub(all) < Bytes(4096), "{mib} MiB: {all}");
        }
    }

    #[test]
    fn without_limit_and_quotas_the_kv_cache_takes_at_most_4_gib() {
        for ranks in 1..=4 {
            let request = smollm2(&vec![None; ranks]);
            assert_eq!(cpu_memory_limit(&request), None);
            let ranks = cpu_capacity(&request, None).unwrap();
            let request = Request { ranks, ..request };
            let plan = plan(&request).unwrap();
            let kv: u64 = plan
                .ranks
                .iter()
                .map(|rank| rank.bytes(Account::KvCache).get())
                .sum();
            assert!((4040 * MIB..=4096 * MIB).contains(&kv), "{} MiB", kv / MIB);
            assert_eq!(plan.max_model_len, 8192);
        }
    }

    #[test]
    fn without_limit_and_quotas_the_kv_cache_takes_no_more_than_is_wanted() {
        let mut request = smollm2(&[None, None]);
        request.limits.max_num_seqs = 2;
        request.limits.max_model_len = Some(512);
        request.ranks = cpu_capacity(&request, None).unwrap();
        let plan = plan(&request).unwrap();
        assert_eq!(plan.kv_tokens, 1024);
    }

    #[test]
    fn a_context_that_needs_more_is_refused_with_a_shorter_one() {
        let mut request = smollm2(&[None]);
        request.shape.context = 1 << 20;
        request.limits.max_model_len = Some(1 << 20);
        request.ranks = cpu_capacity(&request, None).unwrap();
        let refusal = plan(&request).unwrap_err();
        assert_eq!(refusal.reason, crate::Reason::ContextTooLong);
        assert!(plan(&refusal.remedies[0].apply(&request)).is_ok());
    }
}
