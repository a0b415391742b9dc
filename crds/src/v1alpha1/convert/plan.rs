//! A plan as status shows it, and back.

use plimsoll_planner::{Account, Bytes, Plan, RankPlan, Shard};

use super::ConvertError;
use crate::v1alpha1::engine::{PlanStatus, PlannedAccount, RankPlanStatus, Span};

/// A plan as rows of JSON.
pub fn plan_status(plan: &Plan) -> PlanStatus {
    let Plan {
        ranks,
        kv_blocks,
        kv_tokens,
        max_model_len,
    } = plan;
    PlanStatus {
        kv_blocks: *kv_blocks,
        kv_tokens: *kv_tokens,
        max_model_len: *max_model_len,
        ranks: ranks.iter().map(rank_plan_status).collect(),
    }
}

fn rank_plan_status(plan: &RankPlan) -> RankPlanStatus {
    let RankPlan {
        rank,
        shard,
        budget,
        accounts,
    } = plan;
    let Shard {
        kv_heads,
        query_heads,
        mlp_columns,
        vocab_rows,
    } = shard;
    let span = |range: &std::ops::Range<u32>| Span {
        start: range.start,
        end: range.end,
    };
    RankPlanStatus {
        rank: *rank,
        budget_bytes: budget.get(),
        kv_heads: span(kv_heads),
        query_heads: span(query_heads),
        mlp_columns: span(mlp_columns),
        vocab_rows: span(vocab_rows),
        accounts: accounts
            .iter()
            .map(|(account, bytes)| PlannedAccount {
                name: account.name().to_owned(),
                planned_bytes: bytes.get(),
            })
            .collect(),
    }
}

/// The plan that rows of JSON stand for.
///
/// # Errors
/// An account that does not exist, a range that ends before it starts, or rows out of order.
pub fn plan(status: &PlanStatus) -> Result<Plan, ConvertError> {
    let PlanStatus {
        kv_blocks,
        kv_tokens,
        max_model_len,
        ranks,
    } = status;
    let ranks = ranks
        .iter()
        .zip(0u32..)
        .map(|(row, rank)| rank_plan(row, rank));
    Ok(Plan {
        ranks: ranks.collect::<Result<_, _>>()?,
        kv_blocks: *kv_blocks,
        kv_tokens: *kv_tokens,
        max_model_len: *max_model_len,
    })
}

fn rank_plan(row: &RankPlanStatus, expected: u32) -> Result<RankPlan, ConvertError> {
    let RankPlanStatus {
        rank,
        budget_bytes,
        kv_heads,
        query_heads,
        mlp_columns,
        vocab_rows,
        accounts,
    } = row;
    if *rank != expected {
        return Err(ConvertError::Plan(format!(
            "row {expected} is of rank {rank}"
        )));
    }
    let range = |name: &str, span: &Span| match span.start <= span.end {
        true => Ok(span.start..span.end),
        false => Err(ConvertError::Plan(format!(
            "rank {rank}: {name} ends at {} before it starts at {}",
            span.end, span.start
        ))),
    };
    let accounts = accounts.iter().map(|row| {
        let account = Account::ALL
            .into_iter()
            .find(|account| account.name() == row.name);
        let account = account.ok_or_else(|| {
            ConvertError::Plan(format!("rank {rank}: there is no account {:?}", row.name))
        })?;
        Ok((account, Bytes::measured(row.planned_bytes)))
    });
    Ok(RankPlan {
        rank: *rank,
        shard: Shard {
            kv_heads: range("kvHeads", kv_heads)?,
            query_heads: range("queryHeads", query_heads)?,
            mlp_columns: range("mlpColumns", mlp_columns)?,
            vocab_rows: range("vocabRows", vocab_rows)?,
        },
        budget: Bytes::measured(*budget_bytes),
        accounts: accounts.collect::<Result<_, ConvertError>>()?,
    })
}
