//! The target in force: what the operator told this engine last, and what became of it.

pub mod wish;

use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plimsoll_crds::v1alpha1::target::{TargetRank, TargetSleep};
use plimsoll_crds::v1alpha1::{Target, TargetOutcome, TargetReport};

use crate::engine::clock::IdlePolicy;
use crate::resizes::Resizes;
use wish::{Wish, policy};

/// What an engine holds to. It begins with the target that its plan was made for. Sleep is kept here,
/// memory by [`Resizes`]; without them memory changes with a restart only.
#[derive(Debug)]
pub struct Held(Mutex<State>, Option<Arc<Resizes>>);

#[derive(Debug)]
struct State {
    in_force: Target,
    newest: TargetReport,
    /// Changes that were begun, and whether the last of them is under way.
    changes: u64,
    under_way: bool,
    /// The last of them did not come about.
    failed: bool,
    /// The newest report says how the last of them failed, and it is tried again.
    repeated: bool,
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
        let state = State {
            in_force,
            newest,
            changes: u64::from(begins),
            under_way: begins,
            failed: false,
            repeated: false,
        };
        Held(Mutex::new(state), None)
    }

    /// With memory that changes while the engine runs.
    pub fn with(self, resizes: Arc<Resizes>) -> Held {
        Held(self.0, Some(resizes))
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
        let newest = self.state().newest.clone();
        match &self.1 {
            Some(resizes) => resizes.complete(newest),
            None => newest,
        }
    }

    /// Begins what a target's memory asks for; why it cannot be followed.
    fn resized(&self, in_force: &Target, told: &Target) -> Result<(), String> {
        let kept = in_force.generation;
        match &self.1 {
            Some(resizes) => resizes
                .tell(told)
                .map_err(|why| format!("{why}; this engine keeps to generation {kept}")),
            None => match difference(in_force, told) {
                None => Ok(()),
                Some(difference) => Err(format!(
                    "{difference}; this engine needs a restart for that, and keeps to generation {kept}"
                )),
            },
        }
    }

    /// A sleep was asked for that no request ends, and the engine is not there yet: no service should
    /// lead to it.
    pub fn falls_asleep(&self) -> bool {
        let state = self.state();
        state.under_way && matches!(Wish::of(&state.in_force), Wish::Asleep(_))
    }

    /// Hands on what the target leaves to the engine itself; nothing newer is told meanwhile.
    pub fn lead<T>(&self, follow: impl FnOnce(IdlePolicy) -> T) -> T {
        follow(policy(&self.state().in_force))
    }

    /// Takes a target. Memory that is not what was asked for last is begun ([`Resizes::due`]), or
    /// refused where this engine cannot follow it: then memory stays as it is, and the rest of the target
    /// is taken all the same. A sleep that is not what was asked for last, or did not come about, is
    /// deferred, and the [`Change`] is the caller's to carry out. What the engine does beside (who has
    /// its admin port may put it to sleep and wake it) is no matter of targets.
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
        let refused = self.resized(&state.in_force, &told).err();
        let same = Wish::of(&state.in_force).holds_for(Wish::of(&told));
        let begins = !same || (!state.under_way && state.failed);
        let (generation, sleep) = (told.generation, told.sleep);
        state.newest = match &refused {
            Some(message) => TargetReport {
                outcome: TargetOutcome::Refused,
                message: message.clone(),
                ..applied(generation)
            },
            None if begins || state.under_way => on_the_way(generation, sleep),
            None => applied(generation),
        };
        state.in_force = match refused {
            None => told,
            Some(_) => Target {
                sleep,
                idle: told.idle,
                wake_on_request: told.wake_on_request,
                ..state.in_force.clone()
            },
        };
        state.repeated = false;
        if !begins {
            return Ok((state.newest.clone(), None));
        }
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

    /// A change did not come about yet, and is tried again.
    pub fn repeats(&self, change: Change, why: &str) {
        let mut state = self.state();
        let ours = state.newest.outcome == TargetOutcome::Deferred || state.repeated;
        if !state.under_way || state.changes != change.number || !ours {
            return;
        }
        state.repeated = true;
        state.newest = TargetReport {
            outcome: TargetOutcome::Refused,
            message: format!("{}; it is tried again", failure(change, why)),
            ..state.newest.clone()
        };
    }

    /// What came of a change; of one whose place was taken, nobody wants to know.
    pub fn settle(&self, change: Change, outcome: Result<(), String>) {
        let mut state = self.state();
        if !state.under_way || state.changes != change.number {
            return;
        }
        (state.under_way, state.failed) = (false, outcome.is_err());
        // Of memory that was refused meanwhile, the refusal stays.
        let repeated = std::mem::take(&mut state.repeated);
        if state.newest.outcome != TargetOutcome::Deferred && !repeated {
            return;
        }
        state.newest = match outcome {
            Ok(()) => applied(state.newest.generation),
            Err(why) => TargetReport {
                outcome: TargetOutcome::Refused,
                message: failure(change, &why),
                ..state.newest.clone()
            },
        };
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failure(change: Change, why: &str) -> String {
    match change.sleep {
        Some(_) => format!("did not go to sleep: {why}"),
        None => format!("did not wake: {why}"),
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
pub(crate) mod tests;
