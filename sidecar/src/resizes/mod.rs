//! Which size of the KV cache is asked for, by whom, and what became of it: the operator's target, or
//! whoever has the admin port. Who speaks last is heard; one change is under way at a time.

#[cfg(test)]
pub(crate) mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plimsoll_crds::v1alpha1::{Target, TargetOutcome, TargetReport};
use plimsoll_planner::{Bytes, RankCapacity, Request};

use crate::config::{Planned, Standing};
use crate::engine::size::Size;
use crate::error::OverLimit;

/// How much memory the container (or machine) has now; None: nobody knows.
pub type Limit = fn() -> Option<Bytes>;

/// What becomes of a change whose place another one took.
pub const OVERTAKEN: &str = "something newer was asked for";

/// Changes of the size, and the size in force.
#[derive(Debug)]
pub struct Resizes {
    standing: Standing,
    limit: Limit,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    in_force: Arc<Planned>,
    /// The number of the change that brought it about.
    reached: u64,
    /// As the newest change has it; where none is under way, as in force.
    wanted: Arc<Planned>,
    /// Changes that were begun, and whether the last of them is under way.
    changes: u64,
    under_way: bool,
    /// The last of them, until somebody carries it out.
    due: Option<Resize>,
    /// What the operator asked for last and could be planned, and what became of that.
    asked: Option<Target>,
    of_target: Track,
    by_hand: Track,
    revision: Option<u64>,
}

/// The change that somebody asked for.
#[derive(Clone, Debug, Default)]
struct Track {
    number: u64,
    fate: Fate,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Fate {
    #[default]
    Done,
    UnderWay,
    Failed(String),
}

/// A change that somebody has to carry out. A newer one takes its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Resize {
    number: u64,
    planned: Arc<Planned>,
}

impl Resize {
    pub fn size(&self) -> Arc<Size> {
        Arc::new(self.planned.size())
    }
}

/// What whoever has the admin port asks for; what is left out stays as it was wanted last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ByHand {
    /// Of whoever asks: an older one than the newest is not heard.
    pub revision: Option<u64>,
    /// One quota per rank.
    pub quotas: Option<Vec<Bytes>>,
    /// The most bytes of the KV cache on each rank.
    pub kv_cache: Option<Bytes>,
}

/// What became of a change by hand.
#[derive(Clone, Debug, PartialEq)]
pub struct HandReport {
    pub revision: Option<u64>,
    pub outcome: TargetOutcome,
    pub message: String,
    pub overage: Bytes,
    /// What is in force, or will be.
    pub planned: Arc<Planned>,
}

/// Why a change by hand was not begun.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotBegun {
    #[error("revision {told} is older than {newest}, which this engine was told already")]
    Older { told: u64, newest: u64 },
    #[error("{0}")]
    Refused(String),
}

impl Resizes {
    pub fn new(planned: Planned, asked: Option<Target>, limit: Limit) -> Resizes {
        let in_force = Arc::new(planned.clone());
        Resizes {
            standing: Standing::new(planned),
            limit,
            state: Mutex::new(State {
                wanted: Arc::clone(&in_force),
                in_force,
                reached: 0,
                changes: 0,
                under_way: false,
                due: None,
                asked,
                of_target: Track::default(),
                by_hand: Track::default(),
                revision: None,
            }),
        }
    }

    /// Takes the memory of a target. What is asked for as before is not a new demand, unless it came
    /// to nothing: a change by hand since stays in force.
    ///
    /// # Errors
    /// Why this engine cannot follow it; nothing changes then.
    pub fn tell(&self, told: &Target) -> Result<(), String> {
        let mut state = self.state();
        let same = |asked: &Target| asked.same_demand(told);
        let stands = !matches!(state.of_target.fate, Fate::Failed(_));
        if stands && state.asked.as_ref().is_some_and(same) {
            return Ok(());
        }
        let planned = self.standing.told(told)?;
        planned
            .within((self.limit)())
            .map_err(|it| it.to_string())?;
        state.asked = Some(told.clone());
        state.of_target = state.begin(planned);
        Ok(())
    }

    /// Begins a change by hand.
    ///
    /// # Errors
    /// [`NotBegun`]; nothing changes then.
    pub fn ask(&self, asked: &ByHand) -> Result<(), NotBegun> {
        let mut state = self.state();
        if let (Some(told), Some(newest)) = (asked.revision, state.revision)
            && told < newest
        {
            return Err(NotBegun::Older { told, newest });
        }
        let request = changed(&state.wanted.request, asked);
        let planned = self.standing.refit(request);
        let planned =
            planned.map_err(|refusal| NotBegun::Refused(in_body(&refusal.to_string())))?;
        let within = planned.within((self.limit)());
        within.map_err(|over| NotBegun::Refused(over.to_string()))?;
        state.revision = asked.revision.or(state.revision);
        state.by_hand = state.begin(planned);
        Ok(())
    }

    /// What became of the last change by hand.
    pub fn by_hand(&self) -> HandReport {
        let state = self.state();
        let (outcome, message) = match &state.by_hand.fate {
            Fate::Done => (TargetOutcome::Applied, String::new()),
            Fate::UnderWay => (TargetOutcome::Deferred, state.on_the_way()),
            Fate::Failed(why) => (TargetOutcome::Refused, why.clone()),
        };
        HandReport {
            revision: state.revision,
            outcome,
            message,
            overage: state.overage(),
            planned: Arc::clone(&state.wanted),
        }
    }

    /// What became of the newest target, given what became of the rest of it.
    pub fn complete(&self, rest: TargetReport) -> TargetReport {
        let state = self.state();
        match (&state.of_target.fate, rest.outcome) {
            (_, TargetOutcome::Refused) | (Fate::Done, _) => rest,
            (Fate::UnderWay, _) => TargetReport {
                outcome: TargetOutcome::Deferred,
                message: match rest.message.is_empty() {
                    true => state.on_the_way(),
                    false => format!("{}; {}", state.on_the_way(), rest.message),
                },
                overage_bytes: state.overage().get(),
                ..rest
            },
            (Fate::Failed(_), TargetOutcome::Deferred) => rest,
            (Fate::Failed(why), TargetOutcome::Applied) => TargetReport {
                outcome: TargetOutcome::Refused,
                message: why.clone(),
                ..rest
            },
        }
    }

    /// The change that was begun last, once.
    pub fn due(&self) -> Option<Resize> {
        self.state().due.take()
    }

    /// The plan that an engine should be started with: what is wanted now is in force then.
    pub fn start(&self) -> Planned {
        let mut state = self.state();
        state.in_force = Arc::clone(&state.wanted);
        (*state.in_force).clone()
    }

    /// Whether the container holds what is wanted now.
    ///
    /// # Errors
    /// Both numbers.
    pub fn held(&self) -> Result<(), OverLimit> {
        let wanted = Arc::clone(&self.state().wanted);
        wanted.within((self.limit)())
    }

    /// Whether nothing newer took the place of a change.
    pub fn wants(&self, resize: &Resize) -> bool {
        let state = self.state();
        state.under_way && state.changes == resize.number
    }

    /// Asks for a change, unless something newer took its place; nothing newer is begun meanwhile.
    pub fn while_wanted<T>(&self, resize: &Resize, ask: impl FnOnce() -> T) -> Option<T> {
        let state = self.state();
        (state.under_way && state.changes == resize.number).then(ask)
    }

    /// What came of a change.
    pub fn settle(&self, resize: &Resize, outcome: Result<(), String>) {
        let mut state = self.state();
        let number = resize.number;
        // One that was overtaken may have come about before the newer one did.
        if outcome.is_ok() && number > state.reached {
            state.reached = number;
            state.in_force = Arc::clone(&resize.planned);
        }
        let fate = match outcome {
            Ok(()) => Fate::Done,
            Err(why) => Fate::Failed(format!("the KV cache keeps its size: {why}")),
        };
        let State {
            of_target, by_hand, ..
        } = &mut *state;
        let tracks = [of_target, by_hand].into_iter();
        let waits = |track: &&mut Track| track.number == number && track.fate == Fate::UnderWay;
        tracks
            .filter(waits)
            .for_each(|track| track.fate = fate.clone());
        if state.changes == number {
            state.under_way = false;
        }
        if !state.under_way {
            state.wanted = Arc::clone(&state.in_force);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Nothing is to be done where the size is in force already.
    fn begin(&mut self, planned: Planned) -> Track {
        for track in [&mut self.of_target, &mut self.by_hand] {
            if track.fate == Fate::UnderWay {
                track.fate = Fate::Failed(OVERTAKEN.to_owned());
            }
        }
        self.changes += 1;
        let number = self.changes;
        if !self.under_way && *self.in_force == planned {
            let fate = Fate::Done;
            return Track { number, fate };
        }
        let planned = Arc::new(planned);
        self.under_way = true;
        self.wanted = Arc::clone(&planned);
        self.due = Some(Resize { number, planned });
        let fate = Fate::UnderWay;
        Track { number, fate }
    }

    /// Bytes that ranks hold above what is wanted.
    fn overage(&self) -> Bytes {
        let now = self.in_force.plan.ranks.iter();
        let wanted = self.wanted.plan.ranks.iter();
        now.zip(wanted)
            .map(|(now, wanted)| now.total().saturating_sub(wanted.total()))
            .sum()
    }

    fn on_the_way(&self) -> String {
        let blocks = |planned: &Planned| planned.plan.kv_blocks;
        format!(
            "the KV cache goes from {} to {} blocks",
            blocks(&self.in_force),
            blocks(&self.wanted)
        )
    }
}

/// Fields as a body by hand has them, not the resource: there may be none.
fn in_body(text: &str) -> String {
    text.replace("spec.memory.gpuQuotas limits", "ranks' limits")
        .replace("spec.memory.gpuQuotas[", "ranks[")
        .replace("spec.memory.kvCache.size", "kvCache.size")
}

/// The request with what is asked for by hand.
fn changed(request: &Request, asked: &ByHand) -> Request {
    let mut request = request.clone();
    if let Some(quotas) = &asked.quotas {
        for (rank, quota) in request.ranks.iter_mut().zip(quotas) {
            let total = match request.backend {
                // A part of a container that may have another size by now; its limit is looked at.
                plimsoll_planner::Backend::Cpu => None,
                plimsoll_planner::Backend::Cuda => rank.total,
            };
            *rank = RankCapacity {
                quota: Some(*quota),
                total,
            };
        }
    }
    request.kv.size = asked.kv_cache.or(request.kv.size);
    request
}
