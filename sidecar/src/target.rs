//! The target in force: what the operator told this engine last, and what became of it.

use std::fmt::Display;
use std::sync::{Mutex, PoisonError};

use plimsoll_crds::v1alpha1::target::TargetRank;
use plimsoll_crds::v1alpha1::{Target, TargetOutcome, TargetReport};

/// What an engine holds to. It begins with the target that its plan was made for.
#[derive(Debug)]
pub struct Held(Mutex<State>);

#[derive(Debug)]
struct State {
    in_force: Target,
    newest: TargetReport,
}

/// A target that is older than the newest that was told: two who tell do not take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("generation {told} is older than {newest}, which this engine was told already")]
pub struct Older {
    pub told: i64,
    pub newest: i64,
}

impl Held {
    pub fn new(in_force: Target) -> Held {
        let newest = applied(in_force.generation);
        Held(Mutex::new(State { in_force, newest }))
    }

    /// What became of the newest target.
    pub fn report(&self) -> TargetReport {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.newest.clone()
    }

    /// Takes a target: it is applied if it asks for what is in force, and refused otherwise, since
    /// this engine's memory changes with a restart only. Telling one again gives the same answer.
    ///
    /// # Errors
    /// [`Older`]; nothing changes then.
    pub fn tell(&self, told: Target) -> Result<TargetReport, Older> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.generation < state.newest.generation {
            return Err(Older {
                told: told.generation,
                newest: state.newest.generation,
            });
        }
        state.newest = match difference(&state.in_force, &told) {
            None => {
                let newest = applied(told.generation);
                state.in_force = told;
                newest
            }
            Some(difference) => TargetReport {
                generation: told.generation,
                outcome: TargetOutcome::Refused,
                message: format!(
                    "{difference}; this engine needs a restart for that, and keeps to generation {}",
                    state.in_force.generation
                ),
                overage_bytes: 0,
            },
        };
        Ok(state.newest.clone())
    }
}

fn applied(generation: i64) -> TargetReport {
    TargetReport {
        generation,
        outcome: TargetOutcome::Applied,
        message: String::new(),
        overage_bytes: 0,
    }
}

/// The first thing that `told` asks for and that is not in force, with both numbers.
fn difference(in_force: &Target, told: &Target) -> Option<String> {
    if in_force.same_demand(told) {
        return None;
    }
    let differ = |what: &str, before: &dyn Display, after: &dyn Display| {
        (before.to_string() != after.to_string())
            .then(|| format!("{what} is {before}, and {after} is asked for"))
    };
    let bytes = |bytes: Option<u64>| bytes.map_or("open".to_owned(), |bytes| bytes.to_string());
    let (count, asked) = (in_force.ranks.len(), told.ranks.len());
    let rank = |(before, after): (&TargetRank, &TargetRank)| {
        let rank = before.rank;
        let of = |what: &str| format!("the {what} of rank {rank} (bytes)");
        let quotas = (bytes(before.quota_bytes), bytes(after.quota_bytes));
        let totals = (bytes(before.total_bytes), bytes(after.total_bytes));
        differ(&of("quota"), &quotas.0, &quotas.1)
            .or_else(|| differ(&of("budget"), &before.budget_bytes, &after.budget_bytes))
            .or_else(|| differ(&of("device's memory"), &totals.0, &totals.1))
    };
    let sizes = (
        bytes(in_force.kv_cache.size_bytes),
        bytes(told.kv_cache.size_bytes),
    );
    let blocks = (in_force.kv_cache.blocks, told.kv_cache.blocks);
    let shares = (in_force.gpu_memory_utilization, told.gpu_memory_utilization);
    differ("the number of ranks", &count, &asked)
        .or_else(|| in_force.ranks.iter().zip(&told.ranks).find_map(rank))
        .or_else(|| differ("kvCache.size (bytes)", &sizes.0, &sizes.1))
        .or_else(|| differ("gpuMemoryUtilization", &shares.0, &shares.1))
        .or_else(|| differ("the number of KV blocks", &blocks.0, &blocks.1))
        .or_else(|| Some("its planned bytes are not those in force".to_owned()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use plimsoll_crds::v1alpha1::target::{TargetAccount, TargetKvCache};

    pub(crate) fn target(generation: i64, quota: u64) -> Target {
        Target {
            generation,
            gpu_memory_utilization: 0.9,
            kv_cache: TargetKvCache {
                size_bytes: None,
                blocks: 9,
                tokens: 128,
            },
            ranks: vec![TargetRank {
                rank: 0,
                quota_bytes: Some(quota),
                total_bytes: None,
                budget_bytes: quota,
                accounts: vec![TargetAccount {
                    name: "Weights".to_owned(),
                    planned_bytes: 5,
                }],
            }],
        }
    }

    #[test]
    fn the_same_demand_of_a_newer_generation_is_applied_and_an_older_one_is_not_taken() {
        let held = Held::new(target(3, 1000));
        assert_eq!(held.report(), applied(3));
        for generation in [3, 5, 5] {
            assert_eq!(held.tell(target(generation, 1000)), Ok(applied(generation)));
        }
        let older = Older { told: 4, newest: 5 };
        assert_eq!(held.tell(target(4, 1000)), Err(older));
        assert_eq!(held.report(), applied(5));
        assert!(older.to_string().contains("4 is older than 5"), "{older}");
    }

    #[test]
    fn another_demand_is_refused_by_name_and_what_was_in_force_stays() {
        let held = Held::new(target(3, 1000));
        let refused = held.tell(target(4, 2000)).unwrap();
        assert_eq!(
            (refused.outcome, refused.generation, refused.overage_bytes),
            (TargetOutcome::Refused, 4, 0)
        );
        assert_eq!(
            refused.message,
            "the quota of rank 0 (bytes) is 1000, and 2000 is asked for; this engine needs a restart \
             for that, and keeps to generation 3"
        );
        assert_eq!(held.report(), refused);
        assert_eq!(held.tell(target(4, 2000)), Ok(refused));
        // What is in force may be asked for again.
        assert_eq!(held.tell(target(5, 1000)), Ok(applied(5)));

        type Change = fn(&mut Target);
        let changes: [(Change, &str); 7] = [
            (
                |it| it.kv_cache.size_bytes = Some(7),
                "kvCache.size (bytes) is open, and 7",
            ),
            (|it| it.kv_cache.blocks = 8, "KV blocks is 9, and 8"),
            (|it| it.gpu_memory_utilization = 0.5, "is 0.9, and 0.5"),
            (|it| it.ranks[0].quota_bytes = None, "is 1000, and open"),
            (
                |it| it.ranks[0].total_bytes = Some(1),
                "device's memory of rank 0",
            ),
            (|it| it.ranks.clear(), "the number of ranks is 1, and 0"),
            (|it| it.ranks[0].accounts.clear(), "planned bytes"),
        ];
        for (change, part) in changes {
            let mut other = target(6, 1000);
            change(&mut other);
            let answer = held.tell(other).unwrap();
            assert_eq!(answer.outcome, TargetOutcome::Refused, "{part}");
            assert!(answer.message.contains(part), "{part}: {}", answer.message);
        }
    }
}
