//! The target in force: what the operator told this engine last, and what became of it. Its sleep may
//! be told alone, of a newer generation than the rest.

pub mod adapters;
pub mod wish;

use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use plimsoll_crds::v1alpha1::target::{SleepOrder, TargetRank, TargetSleep};
use plimsoll_crds::v1alpha1::{Target, TargetOutcome, TargetReport};
use tokio::sync::{Notify, watch};

use crate::engine::clock::IdlePolicy;
use crate::resizes::Resizes;
use adapters::{Moves, Wanted};
use wish::{Wish, policy};

/// What an engine holds to. It begins with the target that its plan was made for. Sleep is kept here,
/// memory by [`Resizes`]; without them memory changes with a restart only.
#[derive(Debug)]
pub struct Held {
    state: Mutex<State>,
    resizes: Option<Arc<Resizes>>,
    /// A target was told.
    told: Notify,
    /// How far its adapters are.
    moves: watch::Sender<Moves>,
}

#[derive(Debug)]
struct State {
    /// The last target whose memory was taken.
    in_force: Target,
    /// Generation of the newest target, and why its memory cannot be followed.
    generation: i64,
    refused: Option<String>,
    /// The newest sleep: that target's, or one that was told alone since.
    order: SleepOrder,
    /// Changes that were begun, and whether the last of them is under way.
    changes: u64,
    under_way: bool,
    /// How the last of them failed; under way, it is tried again.
    trouble: Option<String>,
    /// What the newest target names, whatever became of the rest of it.
    adapters: Wanted,
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

impl State {
    /// Has a sleep carried out, unless it is what was asked for last and came about, or is about to.
    fn follow(&mut self, order: SleepOrder) -> Option<Change> {
        let same = Wish::of(&self.order).holds_for(Wish::of(&order));
        let begins = !same || (!self.under_way && self.trouble.is_some());
        self.order = order;
        if begins || self.under_way {
            self.trouble = None;
        }
        begins.then(|| {
            self.changes += 1;
            self.under_way = true;
            Change {
                number: self.changes,
                sleep: order.sleep,
            }
        })
    }

    /// What became of the newest sleep.
    fn sleep(&self) -> TargetReport {
        let sleep = self.order.sleep;
        let (outcome, message) = match (&self.trouble, self.under_way) {
            (Some(why), true) => (TargetOutcome::Refused, format!("{why}; it is tried again")),
            (Some(why), false) => (TargetOutcome::Refused, why.clone()),
            (None, true) => (TargetOutcome::Deferred, on_the_way(sleep)),
            (None, false) => (TargetOutcome::Applied, String::new()),
        };
        TargetReport {
            generation: self.order.generation,
            outcome,
            message,
            overage_bytes: 0,
        }
    }

    /// What became of the newest target, but for memory that is on its way.
    fn whole(&self) -> TargetReport {
        let sleep = self.sleep();
        let generation = self.generation;
        match &self.refused {
            None => TargetReport {
                generation,
                ..sleep
            },
            Some(message) => TargetReport {
                generation,
                outcome: TargetOutcome::Refused,
                message: message.clone(),
                ..sleep
            },
        }
    }

    fn wants(&self, change: Change) -> bool {
        self.under_way && self.changes == change.number
    }
}

impl Held {
    /// A target that asks for a sleep is applied once the engine, which comes up awake, is asleep: see
    /// [`Held::first`].
    pub fn new(in_force: Target) -> Held {
        let begins = in_force.sleep.is_some();
        let mut adapters = Wanted::default();
        adapters.tell(&in_force.adapters, Instant::now());
        let state = State {
            generation: in_force.generation,
            refused: None,
            order: in_force.sleep_order(),
            adapters,
            in_force,
            changes: u64::from(begins),
            under_way: begins,
            trouble: None,
        };
        Held {
            moves: watch::Sender::new(state.adapters.moves()),
            state: Mutex::new(state),
            resizes: None,
            told: Notify::new(),
        }
    }

    /// With memory that changes while the engine runs.
    pub fn with(self, resizes: Arc<Resizes>) -> Held {
        Held {
            resizes: Some(resizes),
            ..self
        }
    }

    /// What the first target asks for beside its memory, to be carried out once the engine serves.
    pub fn first(&self) -> Option<Change> {
        let state = self.state();
        let first = state.under_way && state.changes == 1;
        first.then_some(Change {
            number: 1,
            sleep: state.order.sleep,
        })
    }

    /// What became of the newest target.
    pub fn report(&self) -> TargetReport {
        let newest = self.state().whole();
        match &self.resizes {
            Some(resizes) => resizes.complete(newest),
            None => newest,
        }
    }

    /// What became of the newest sleep, whatever became of the memory that was told with it.
    pub fn sleep_report(&self) -> TargetReport {
        self.state().sleep()
    }

    /// Begins what a target's memory asks for; why it cannot be followed.
    fn resized(&self, in_force: &Target, told: &Target) -> Result<(), String> {
        let kept = in_force.generation;
        match &self.resizes {
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
        state.under_way && matches!(Wish::of(&state.order), Wish::Asleep(_))
    }

    /// Looks at the adapters that the newest target names, or says what became of one.
    pub fn adapters<T>(&self, look: impl FnOnce(&mut Wanted) -> T) -> T {
        let mut state = self.state();
        let found = look(&mut state.adapters);
        self.show_moves(&state);
        found
    }

    fn show_moves(&self, state: &State) {
        let moves = state.adapters.moves();
        self.moves
            .send_if_modified(|before| std::mem::replace(before, moves) != moves);
    }

    /// Once all adapters of the first target were tried.
    pub async fn adapters_begun(&self) {
        let mut moves = self.adapters_move();
        // The sender is here as long as this waits.
        let _closed = moves.wait_for(|moves| moves.begun).await;
    }

    /// Changes whenever a target was told, or something came of an adapter.
    pub fn adapters_move(&self) -> watch::Receiver<Moves> {
        self.moves.subscribe()
    }

    /// Somebody waits for an adapter: what was put off for the engine's state is looked at anew.
    pub fn hurry(&self, name: &str) {
        self.adapters(|wanted| wanted.hurry(name, Instant::now()));
        self.told.notify_one();
    }

    /// Once a target was told since the last time that this was waited for.
    pub async fn told(&self) {
        self.told.notified().await;
    }

    /// Hands on what the target leaves to the engine itself; nothing newer is told meanwhile.
    pub fn lead<T>(&self, follow: impl FnOnce(IdlePolicy) -> T) -> T {
        follow(policy(&self.state().order))
    }

    /// Takes a target. Memory that is not what was asked for last is begun ([`Resizes::due`]), or
    /// refused where this engine cannot follow it: then memory stays as it is, and the rest of the target
    /// is taken all the same. A sleep that is not what was asked for last, or did not come about, is
    /// deferred, and the [`Change`] is the caller's to carry out. What the engine does beside (who has
    /// its admin port may put it to sleep and wake it) is no matter of targets.
    ///
    /// # Errors
    /// [`Older`] than the newest target, or than a sleep that was told alone; nothing changes then.
    pub fn tell(&self, told: Target) -> Result<(TargetReport, Option<Change>), Older> {
        let mut state = self.state();
        newer(
            told.generation,
            state.generation.max(state.order.generation),
        )?;
        state.refused = self.resized(&state.in_force, &told).err();
        state.generation = told.generation;
        state.adapters.tell(&told.adapters, Instant::now());
        self.show_moves(&state);
        let change = state.follow(told.sleep_order());
        if state.refused.is_none() {
            state.in_force = told;
        }
        self.told.notify_one();
        Ok((state.whole(), change))
    }

    /// Takes a sleep alone, as [`Held::tell`] takes a target's.
    ///
    /// # Errors
    /// [`Older`] than the newest that was told, alone or with a target; nothing changes then.
    pub fn tell_sleep(&self, told: SleepOrder) -> Result<(TargetReport, Option<Change>), Older> {
        let mut state = self.state();
        newer(told.generation, state.order.generation)?;
        let change = state.follow(told);
        Ok((state.sleep(), change))
    }

    /// Whether nothing newer took the place of a change.
    pub fn wants(&self, change: Change) -> bool {
        self.state().wants(change)
    }

    /// Asks for a change, unless something newer took its place; nothing newer is told meanwhile.
    pub fn while_wanted<T>(&self, change: Change, ask: impl FnOnce() -> T) -> Option<T> {
        let state = self.state();
        state.wants(change).then(ask)
    }

    /// A change did not come about yet, and is tried again.
    pub fn repeats(&self, change: Change, why: &str) {
        let mut state = self.state();
        if state.wants(change) {
            state.trouble = Some(failure(change, why));
        }
    }

    /// What came of a change; of one whose place was taken, nobody wants to know.
    pub fn settle(&self, change: Change, outcome: Result<(), String>) {
        let mut state = self.state();
        if state.wants(change) {
            state.under_way = false;
            state.trouble = outcome.err().map(|why| failure(change, &why));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failure(change: Change, why: &str) -> String {
    match change.sleep {
        Some(_) => format!("did not go to sleep: {why}"),
        None => format!("did not wake: {why}"),
    }
}

fn on_the_way(sleep: Option<TargetSleep>) -> String {
    match sleep {
        Some(TargetSleep { level }) => format!("is going to sleep at level {level}"),
        None => "is waking up".to_owned(),
    }
}

fn newer(told: i64, newest: i64) -> Result<(), Older> {
    match told < newest {
        true => Err(Older { told, newest }),
        false => Ok(()),
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
