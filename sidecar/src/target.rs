//! The target in force: what the operator told this engine last, and what became of it.

use std::fmt::Display;
use std::sync::{Mutex, MutexGuard, PoisonError};

use plimsoll_crds::v1alpha1::target::{TargetRank, TargetSleep};
use plimsoll_crds::v1alpha1::{Target, TargetOutcome, TargetReport};

/// What an engine holds to. It begins with the target that its plan was made for.
#[derive(Debug)]
pub struct Held(Mutex<State>);

#[derive(Debug)]
struct State {
    in_force: Target,
    newest: TargetReport,
    /// Changes that were begun, and whether the last of them is under way.
    changes: u64,
    under_way: bool,
    /// The last of them did not come about.
    failed: bool,
}

/// A sleep or a wake that a target asks for: who gets one carries it out and says what came of it.
/// A newer one takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    number: u64,
    /// None: awake.
    pub sleep: Option<TargetSleep>,
}

/// A target that is older than the newest that was told: two who tell do not take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("generation {told} is older than {newest}, which this engine was told already")]
pub struct Older {
    pub told: i64,
    pub newest: i64,
}

impl Held {
    /// A target that asks for a sleep is applied once the engine, which comes up awake, is asleep: see
    /// [`Held::first`].
    pub fn new(in_force: Target) -> Held {
        let begins = in_force.sleep.is_some();
        let newest = match in_force.sleep {
            None => applied(in_force.generation),
            sleep => on_the_way(in_force.generation, sleep),
        };
        Held(Mutex::new(State {
            in_force,
            newest,
            changes: u64::from(begins),
            under_way: begins,
            failed: false,
        }))
    }

    /// What the first target asks for beside its memory, to be carried out once the engine serves.
    pub fn first(&self) -> Option<Change> {
        let state = self.state();
        let first = state.under_way && state.changes == 1;
        first.then_some(Change {
            number: 1,
            sleep: state.in_force.sleep,
        })
    }

    /// What became of the newest target.
    pub fn report(&self) -> TargetReport {
        self.state().newest.clone()
    }

    /// A sleep was asked for, and the engine is not there yet: no service should lead to it.
    pub fn falls_asleep(&self) -> bool {
        let state = self.state();
        state.under_way && state.in_force.sleep.is_some()
    }

    /// Takes a target. Memory that is not what is in force is refused, since this engine's memory
    /// changes with a restart only. A sleep that is not what was asked for last, or did not come
    /// about, is deferred, and the [`Change`] is the caller's to carry out. What the engine does
    /// beside (who has its admin port may put it to sleep and wake it) is no matter of targets.
    ///
    /// # Errors
    /// [`Older`]; nothing changes then.
    pub fn tell(&self, told: Target) -> Result<(TargetReport, Option<Change>), Older> {
        let mut state = self.state();
        if told.generation < state.newest.generation {
            return Err(Older {
                told: told.generation,
                newest: state.newest.generation,
            });
        }
        if let Some(difference) = difference(&state.in_force, &told) {
            state.newest = TargetReport {
                generation: told.generation,
                outcome: TargetOutcome::Refused,
                message: format!(
                    "{difference}; this engine needs a restart for that, and keeps to generation {}",
                    state.in_force.generation
                ),
                overage_bytes: 0,
            };
            return Ok((state.newest.clone(), None));
        }
        let same = state.in_force.sleep == told.sleep;
        let (generation, sleep) = (told.generation, told.sleep);
        state.in_force = told;
        if same && (state.under_way || !state.failed) {
            state.newest = match state.under_way {
                true => on_the_way(generation, sleep),
                false => applied(generation),
            };
            return Ok((state.newest.clone(), None));
        }
        state.newest = on_the_way(generation, sleep);
        state.changes += 1;
        (state.under_way, state.failed) = (true, false);
        let change = Change {
            number: state.changes,
            sleep,
        };
        Ok((state.newest.clone(), Some(change)))
    }

    /// Whether nothing newer took the place of a change.
    pub fn wants(&self, change: Change) -> bool {
        let state = self.state();
        state.under_way && state.changes == change.number
    }

    /// Asks for a change, unless something newer took its place; nothing newer is told meanwhile.
    pub fn while_wanted<T>(&self, change: Change, ask: impl FnOnce() -> T) -> Option<T> {
        let state = self.state();
        (state.under_way && state.changes == change.number).then(ask)
    }

    /// What came of a change; of one whose place was taken, nobody wants to know.
    pub fn settle(&self, change: Change, outcome: Result<(), String>) {
        let mut state = self.state();
        if !state.under_way || state.changes != change.number {
            return;
        }
        (state.under_way, state.failed) = (false, outcome.is_err());
        // Of memory that was refused meanwhile, the refusal stays.
        if state.newest.outcome != TargetOutcome::Deferred {
            return;
        }
        state.newest = match outcome {
            Ok(()) => applied(state.newest.generation),
            Err(why) => TargetReport {
                outcome: TargetOutcome::Refused,
                message: match change.sleep {
                    Some(_) => format!("did not go to sleep: {why}"),
                    None => format!("did not wake: {why}"),
                },
                ..state.newest.clone()
            },
        };
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn on_the_way(generation: i64, sleep: Option<TargetSleep>) -> TargetReport {
    TargetReport {
        outcome: TargetOutcome::Deferred,
        message: match sleep {
            Some(TargetSleep { level }) => format!("is going to sleep at level {level}"),
            None => "is waking up".to_owned(),
        },
        ..applied(generation)
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
            sleep: None,
        }
    }

    pub(crate) fn asleep(generation: i64, level: u32) -> Target {
        Target {
            sleep: Some(TargetSleep { level }),
            ..target(generation, 1000)
        }
    }

    #[test]
    fn the_same_demand_of_a_newer_generation_is_applied_and_an_older_one_is_not_taken() {
        let held = Held::new(target(3, 1000));
        assert_eq!(held.report(), applied(3));
        for generation in [3, 5, 5] {
            let (report, change) = held.tell(target(generation, 1000)).unwrap();
            assert_eq!((report, change), (applied(generation), None));
        }
        let older = Older { told: 4, newest: 5 };
        assert_eq!(held.tell(target(4, 1000)), Err(older));
        assert_eq!(held.report(), applied(5));
        assert!(older.to_string().contains("4 is older than 5"), "{older}");
    }

    #[test]
    fn another_demand_is_refused_by_name_and_what_was_in_force_stays() {
        let held = Held::new(target(3, 1000));
        let refused = held.tell(target(4, 2000)).unwrap().0;
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
        assert_eq!(held.tell(target(4, 2000)), Ok((refused, None)));
        // What is in force may be asked for again.
        assert_eq!(held.tell(target(5, 1000)), Ok((applied(5), None)));

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
            let answer = held.tell(other).unwrap().0;
            assert_eq!(answer.outcome, TargetOutcome::Refused, "{part}");
            assert!(answer.message.contains(part), "{part}: {}", answer.message);
        }
    }

    #[test]
    fn a_sleep_is_asked_for_once_and_again_only_where_it_did_not_come_about() {
        let held = Held::new(target(3, 1000));
        assert_eq!(held.first(), None);
        let (report, change) = held.tell(asleep(4, 1)).unwrap();
        assert_eq!(report.outcome, TargetOutcome::Deferred);
        assert_eq!(report.message, "is going to sleep at level 1");
        let sleeps = change.unwrap();
        assert!(held.falls_asleep() && held.wants(sleeps));
        // Told again, and by a newer generation, while it is under way.
        assert_eq!(held.tell(asleep(4, 1)), Ok((report, None)));
        let (report, change) = held.tell(asleep(5, 1)).unwrap();
        assert_eq!((report.generation, change), (5, None));
        held.settle(sleeps, Ok(()));
        assert_eq!(held.report(), applied(5));
        assert!(!held.falls_asleep());
        assert_eq!(held.tell(asleep(6, 1)), Ok((applied(6), None)));

        let wakes = held.tell(target(7, 1000)).unwrap().1.unwrap();
        assert_eq!(wakes.sleep, None);
        held.settle(wakes, Err("no memory".to_owned()));
        let refused = held.report();
        assert_eq!(refused.outcome, TargetOutcome::Refused);
        assert_eq!(refused.message, "did not wake: no memory");
        // Telling it again tries it again.
        let again = held.tell(target(7, 1000)).unwrap().1.unwrap();
        // What came of one whose place was taken is nobody's matter.
        held.settle(wakes, Ok(()));
        assert!(held.wants(again));
        held.settle(again, Ok(()));
        assert_eq!(held.report(), applied(7));
    }

    #[test]
    fn an_engine_that_begins_with_a_sleep_has_to_go_there() {
        let held = Held::new(asleep(3, 2));
        let first = held.first().unwrap();
        assert!(held.falls_asleep());
        assert_eq!(held.report().outcome, TargetOutcome::Deferred);
        // Awake is asked for before it got there.
        let wakes = held.tell(target(4, 1000)).unwrap().1.unwrap();
        assert!(!held.falls_asleep() && !held.wants(first) && held.wants(wakes));
        assert_eq!(held.while_wanted(first, || 1), None, "overtaken");
        assert_eq!(held.while_wanted(wakes, || 1), Some(1));
        assert_eq!(held.first(), None);
        // Memory that is refused meanwhile stays refused.
        held.tell(target(5, 2000)).unwrap();
        held.settle(wakes, Ok(()));
        assert_eq!(held.report().outcome, TargetOutcome::Refused);
        assert_eq!(held.tell(target(6, 1000)), Ok((applied(6), None)));
    }
}
