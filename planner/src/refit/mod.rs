//! New budgets for an engine that runs: its shards and its longest sequence stay, the KV cache
//! takes what the budgets leave. And what a restart with another split would gain.

mod refuse;

use crate::account::Account;
use crate::bytes::Bytes;
use crate::check::{check, invalid};
use crate::holdings::{accounts_at, of, total};
use crate::kv_cache::blocks_for;
use crate::plan::{Plan, RankPlan, plan};
use crate::refusal::Refusal;
use crate::request::{Budget, Request};
use crate::shard::Shard;
use crate::split;

/// Solves `request` for given shards, one per rank. `max_model_len` is the longest sequence, in
/// tokens, that the engine's workspaces were made for: it does not move, and a KV cache that does
/// not hold it is refused.
///
/// Blocks are counted as [`plan`] counts them: where the request leaves the context open, a longer
/// cache would stand for a longer context, whose workspaces are left free. So the shards of a plan,
/// with the request of that plan, give that plan.
///
/// # Errors
/// A [`Refusal`] with each rank's numbers and remedies that hold with these shards; or one that says
/// how shards or context do not belong to the request.
pub fn refit(
    request: &Request,
    shards: &[Shard],
    max_model_len: u32,
) -> Result<Plan, Box<Refusal>> {
    let budgets = check(request)?;
    let given = Given::new(request, shards, max_model_len)?;
    let Some(blocks) = given.most_blocks(&budgets) else {
        return Err(Box::new(refuse::refuse(&given, &budgets)));
    };
    let rank = |(shard, rank): (&Shard, u32)| RankPlan {
        rank,
        shard: shard.clone(),
        budget: budgets[rank as usize].bytes,
        accounts: given.accounts(rank as usize, blocks),
    };
    Ok(Plan {
        ranks: shards.iter().zip(0..).map(rank).collect(),
        kv_blocks: u32::try_from(blocks + 1).unwrap_or(u32::MAX),
        kv_tokens: blocks * u64::from(request.kv.block_size),
        max_model_len,
    })
}

/// What a restart would change: the split is free again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gain {
    /// Tokens that the KV cache holds with the split that stands; zero where that does not fit.
    pub kept_tokens: u64,
    /// Tokens that it would hold after a restart.
    pub free_tokens: u64,
    /// The longest sequence after a restart.
    pub free_max_model_len: u32,
}

impl Gain {
    /// Tokens that a restart adds.
    pub const fn tokens(&self) -> u64 {
        self.free_tokens.saturating_sub(self.kept_tokens)
    }
}

/// The tokens of a free plan for `request` beside those of `kept`, which [`refit`] gave for the same
/// request (`None` where it refused).
///
/// # Errors
/// The [`Refusal`] of the free plan: a restart does not help either.
pub fn restart_gain(request: &Request, kept: Option<&Plan>) -> Result<Gain, Box<Refusal>> {
    let free = plan(request)?;
    Ok(Gain {
        kept_tokens: kept.map_or(0, |kept| kept.kv_tokens),
        free_tokens: free.kv_tokens,
        free_max_model_len: free.max_model_len,
    })
}

/// A request with a split that stands.
#[derive(Clone, Copy, Debug)]
struct Given<'a> {
    request: &'a Request,
    shards: &'a [Shard],
    max_model_len: u32,
}

impl<'a> Given<'a> {
    fn new(
        request: &'a Request,
        shards: &'a [Shard],
        max_model_len: u32,
    ) -> Result<Given<'a>, Box<Refusal>> {
        let wrong = |detail: String| Err(invalid("the running engine's split", detail));
        if shards.len() != request.ranks.len() {
            return wrong(format!(
                "{} shards for {} ranks; the number of ranks changes with a restart only",
                shards.len(),
                request.ranks.len()
            ));
        }
        if let Some(detail) = misfit(request, shards) {
            return wrong(detail);
        }
        let asked = request.limits.max_model_len;
        if asked.is_some_and(|asked| asked != max_model_len)
            || !(1..=request.shape.context).contains(&max_model_len)
        {
            return Err(invalid(
                "spec.limits.maxModelLen",
                format!(
                    "{} is not the {max_model_len} that the engine runs with; it changes with a \
                     restart only",
                    asked.unwrap_or(request.shape.context)
                ),
            ));
        }
        Ok(Given {
            request,
            shards,
            max_model_len,
        })
    }

    /// Blocks of one sequence at its longest, null block not counted.
    fn fewest_blocks(&self) -> u64 {
        blocks_for(self.max_model_len.into(), self.request.kv.block_size)
    }

    /// The most blocks that the budgets leave, null block not counted; `None` where one sequence
    /// does not fit.
    fn most_blocks(&self, budgets: &[Budget]) -> Option<u64> {
        let fits = |blocks: u64| {
            let mut ranks = budgets.iter().enumerate();
            ranks.all(|(rank, budget)| self.holds(rank, blocks, budget.bytes))
        };
        split::largest(self.fewest_blocks()..=split::MOST_BLOCKS - 1, fits)
    }

    fn accounts(&self, rank: usize, blocks: u64) -> Vec<(Account, Bytes)> {
        let shard = (rank, &self.shards[rank]);
        accounts_at(self.request, shard, blocks, self.max_model_len)
    }

    fn holds(&self, rank: usize, blocks: u64, budget: Bytes) -> bool {
        let context = split::max_model_len(self.request, blocks).max(self.max_model_len);
        let accounts = accounts_at(self.request, (rank, &self.shards[rank]), blocks, context);
        let size = self.request.kv.size;
        total(&accounts) <= budget
            && size.is_none_or(|size| of(&accounts, Account::KvCache) <= size)
    }
}

/// What is wrong with shards of this model, if anything: each range goes on where that of the rank
/// before ended, and a rank has the KV heads of its query heads.
fn misfit(request: &Request, shards: &[Shard]) -> Option<String> {
    type RangeOf = fn(&Shard) -> &std::ops::Range<u32>;
    let shape = &request.shape;
    let ranges: [(&str, u32, RangeOf); 3] = [
        ("queryHeads", shape.query_heads, |shard| &shard.query_heads),
        ("mlpColumns", shape.ffn, |shard| &shard.mlp_columns),
        ("vocabRows", shape.vocab, |shard| &shard.vocab_rows),
    ];
    for (name, all, range) in ranges {
        let mut end = 0;
        for (rank, range) in shards.iter().map(range).enumerate() {
            if range.start != end || range.end < range.start || range.end > all {
                return Some(format!(
                    "{name} of rank {rank} are {}..{}, after {end} of {all}",
                    range.start, range.end
                ));
            }
            end = range.end;
        }
        if end != all {
            return Some(format!("{name} end at {end} of {all}"));
        }
    }
    let group = shape.group();
    for (rank, shard) in shards.iter().enumerate() {
        let (queries, kv) = (&shard.query_heads, &shard.kv_heads);
        let of_queries = match queries.is_empty() {
            true => kv.is_empty(),
            false => *kv == (queries.start / group..queries.end.div_ceil(group)),
        };
        let whole = queries.len() as u64 == kv.len() as u64 * u64::from(group);
        if !of_queries || !(whole || kv.len() == 1) {
            return Some(format!(
                "kvHeads {}..{} of rank {rank} are not those of its queryHeads {}..{}",
                kv.start, kv.end, queries.start, queries.end
            ));
        }
    }
    None
}
