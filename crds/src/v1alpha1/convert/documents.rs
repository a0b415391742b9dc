//! `boot.json` and `target.json` from a plan, and what the planner is asked for them.

use plimsoll_planner::request::Utilization;
use plimsoll_planner::{
    Account, AdapterSlots, Bytes, KvLayout, Limits, ModelShape, Plan, RankCapacity, RankPlan,
    Request, Shard,
};

use super::{ConvertError, utilization};
use crate::v1alpha1::boot::{Boot, BootAdapterSlots, BootSplit, RankSplit, SplitBudgets};
use crate::v1alpha1::target::{Target, TargetAccount, TargetKvCache, TargetRank};

/// The split of a plan, and the budgets of the request that it was made for.
pub fn boot_split(request: &Request, plan: &Plan) -> BootSplit {
    let row = |plan: &RankPlan| {
        let Shard {
            kv_heads,
            query_heads,
            mlp_columns,
            vocab_rows,
        } = &plan.shard;
        let ends = |range: &std::ops::Range<u32>| [range.start, range.end];
        RankSplit {
            rank: plan.rank,
            kv_heads: ends(kv_heads),
            query_heads: ends(query_heads),
            mlp_columns: ends(mlp_columns),
            vocab_rows: ends(vocab_rows),
        }
    };
    BootSplit {
        made_for: SplitBudgets {
            budget_bytes: plan.ranks.iter().map(|rank| rank.budget.get()).collect(),
            kv_cache_size_bytes: request.kv.size.map(Bytes::get),
        },
        max_model_len: plan.max_model_len,
        ranks: plan.ranks.iter().map(row).collect(),
    }
}

/// The shards of a document, in order of rank; whether they are the model's, the planner checks.
///
/// # Errors
/// Rows out of order, or a range that ends before it starts.
pub fn shards(split: &BootSplit) -> Result<Vec<Shard>, ConvertError> {
    let shard = |(row, expected): (&RankSplit, u32)| {
        let RankSplit {
            rank,
            kv_heads,
            query_heads,
            mlp_columns,
            vocab_rows,
        } = row;
        in_order("split.ranks", *rank, expected)?;
        let range = |name: &str, [start, end]: [u32; 2]| match start <= end {
            true => Ok(start..end),
            false => Err(ConvertError::Plan(format!(
                "split.ranks[{rank}].{name} ends at {end} before it starts at {start}"
            ))),
        };
        Ok(Shard {
            kv_heads: range("kvHeads", *kv_heads)?,
            query_heads: range("queryHeads", *query_heads)?,
            mlp_columns: range("mlpColumns", *mlp_columns)?,
            vocab_rows: range("vocabRows", *vocab_rows)?,
        })
    };
    split.ranks.iter().zip(0..).map(shard).collect()
}

/// The request that a document's split answers, provided that `shape` is the shape of the model in
/// front of the engine.
pub fn split_request(boot: &Boot, shape: ModelShape) -> Request {
    let SplitBudgets {
        budget_bytes,
        kv_cache_size_bytes,
    } = &boot.split.made_for;
    let row = |bytes: &u64| RankCapacity {
        quota: Some(Bytes::measured(*bytes)),
        total: None,
    };
    // Budgets are what a split depends on, whatever they came from.
    let whole = Utilization(1000);
    let ranks = budget_bytes.iter().map(row).collect();
    request(boot, shape, (whole, ranks, *kv_cache_size_bytes))
}

/// The request that a target's plan answers, for the split of `boot`.
///
/// # Errors
/// Ranks that are not 0, 1, 2 and so on, or a share out of its range.
pub fn target_request(
    boot: &Boot,
    target: &Target,
    shape: ModelShape,
) -> Result<Request, ConvertError> {
    let whole = (Utilization(1000), Vec::new(), None);
    retarget(&request(boot, shape, whole), target)
}

/// The request that a target's plan answers, of an engine that was started with `request`.
///
/// # Errors
/// As [`target_request`].
pub fn retarget(request: &Request, target: &Target) -> Result<Request, ConvertError> {
    let row = |(row, expected): (&TargetRank, u32)| {
        in_order("ranks", row.rank, expected)?;
        Ok(RankCapacity {
            quota: row.quota_bytes.map(Bytes::measured),
            total: row.total_bytes.map(Bytes::measured),
        })
    };
    let ranks = target.ranks.iter().zip(0..).map(row);
    Ok(Request {
        utilization: utilization(target.gpu_memory_utilization)?,
        ranks: ranks.collect::<Result<_, ConvertError>>()?,
        kv: KvLayout {
            size: target.kv_cache.size_bytes.map(Bytes::measured),
            ..request.kv
        },
        ..request.clone()
    })
}

fn request(
    boot: &Boot,
    shape: ModelShape,
    (utilization, ranks, size): (Utilization, Vec<RankCapacity>, Option<u64>),
) -> Request {
    Request {
        shape,
        backend: boot.backend.into(),
        dtype: boot.dtype.into(),
        quantization: boot.quantization.into(),
        compute: boot.compute_dtype.into(),
        kv: KvLayout {
            dtype: boot.kv_cache.dtype.into(),
            block_size: boot.kv_cache.block_size,
            size: size.map(Bytes::measured),
        },
        cpu_offload: boot.cpu_offload_bytes.map(Bytes::measured),
        adapters: boot.adapter_slots.map_or(AdapterSlots::NONE, |room| {
            let BootAdapterSlots { slots, rank } = room;
            AdapterSlots { slots, rank }
        }),
        limits: Limits {
            max_model_len: boot.limits.max_model_len,
            max_num_seqs: boot.limits.max_num_seqs,
            max_num_batched_tokens: boot.limits.max_num_batched_tokens,
        },
        utilization,
        ranks,
    }
}

/// What an engine is told for a plan of `request`. `share` is the utilization as it was written.
pub fn target(request: &Request, plan: &Plan, (generation, share): (i64, f64)) -> Target {
    let account = |(account, bytes): &(Account, Bytes)| TargetAccount {
        name: account.name().to_owned(),
        planned_bytes: bytes.get(),
    };
    let row = |(plan, capacity): (&RankPlan, &RankCapacity)| TargetRank {
        rank: plan.rank,
        quota_bytes: capacity.quota.map(Bytes::get),
        total_bytes: capacity.total.map(Bytes::get),
        budget_bytes: plan.budget.get(),
        accounts: plan.accounts.iter().map(account).collect(),
    };
    Target {
        adapters: Vec::new(),
        generation,
        gpu_memory_utilization: share,
        kv_cache: TargetKvCache {
            size_bytes: request.kv.size.map(Bytes::get),
            blocks: plan.kv_blocks,
            tokens: plan.kv_tokens,
        },
        ranks: plan.ranks.iter().zip(&request.ranks).map(row).collect(),
        sleep: None,
        idle: None,
        wake_on_request: false,
    }
}

fn in_order(rows: &str, rank: u32, expected: u32) -> Result<(), ConvertError> {
    match rank == expected {
        true => Ok(()),
        false => Err(ConvertError::Plan(format!(
            "{rows}: row {expected} is of rank {rank}; rows are in order of rank"
        ))),
    }
}
