//! Words for the size of what an engine holds, and for a change of it.

use plimsoll_planner::{Account, Bytes, Plan, RankCapacity, RankPlan};

/// A plan, and what its ranks may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Size {
    pub plan: Plan,
    /// One per rank.
    pub capacities: Vec<RankCapacity>,
}

/// What a resize came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resized {
    /// Blocks of the KV cache now, the null block included.
    pub kv_blocks: u32,
    /// Blocks that were moved, on every rank.
    pub moved: usize,
    /// Requests that are computed again for want of room.
    pub preempted: u64,
}

impl Size {
    /// Why an engine of this size cannot get that one while it runs: only the KV cache is resized.
    pub(super) fn misfit(&self, other: &Size) -> Option<String> {
        let (ranks, asked) = (self.plan.ranks.len(), other.plan.ranks.len());
        if ranks != asked || other.capacities.len() != asked {
            return Some(format!("it has {ranks} ranks, {asked} are asked for"));
        }
        let (len, asked) = (self.plan.max_model_len, other.plan.max_model_len);
        if len != asked || u64::from(len) > other.plan.kv_tokens {
            return Some(format!(
                "its longest sequence has {len} tokens, {asked} are asked for with a KV cache of {}",
                other.plan.kv_tokens
            ));
        }
        let fixed = |rank: &RankPlan| -> Vec<(Account, Bytes)> {
            let of = rank.accounts.iter().copied();
            of.filter(|(account, _)| *account != Account::KvCache)
                .collect()
        };
        let differs = |(ours, theirs): (&RankPlan, &RankPlan)| {
            (ours.shard != theirs.shard || fixed(ours) != fixed(theirs)).then(|| {
                format!(
                    "rank {} holds {:?} and {:?} beside its KV cache, another part or size is asked for",
                    ours.rank,
                    ours.shard,
                    fixed(ours)
                )
            })
        };
        self.plan
            .ranks
            .iter()
            .zip(&other.plan.ranks)
            .find_map(differs)
    }
}
