//! Steering: which engines are told their newest target, when it is tried again, and what status says
//! of it. Pure; `sender` does what it says.
//!
//! A pod reads its first target from its ConfigMap, which is written before anybody is told. So
//! steering only has to reach engines that run, and may stop at any point: what a pod reports, or
//! answered a moment ago, is all that the next look goes by. A refusal is an answer and is not
//! repeated; a call that failed is, for ever, after ever longer pauses.

mod call;
mod sender;

use std::time::Duration;

use plimsoll_crds::v1alpha1::{TargetOutcome, TargetReport};
use plimsoll_planner::Bytes;

pub(crate) use sender::{Addressee, Steering};

/// Pauses after a call that failed, doubled from the first up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// What a pod answered counts for this long without its report saying so too: a report comes within
/// two seconds of a change, unless the engine ended and began again with what its files say.
const ANSWER_HOLDS: Duration = Duration::from_secs(10);

/// One engine pod of the revision that the target was planned for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Engine {
    pub(crate) pod: String,
    pub(crate) uid: String,
    pub(crate) hears: Hears,
    /// What its newest report says of its newest target.
    pub(crate) reported: Option<TargetReport>,
    pub(crate) tries: Tries,
}

/// Whether a pod can be told anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Hears {
    Yes,
    /// It reads its target from its ConfigMap, or is reading its weights.
    Loading,
    /// Nothing was heard of it, or not for too long.
    Silent,
    /// It ends: nobody waits for it.
    Ends,
}

/// What became of the calls to one pod so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tries {
    /// A call is on its way; it ends by itself, soon.
    pub(crate) under_way: bool,
    /// Calls in a row that failed, for which generation, how long ago the last ended, and how.
    pub(crate) failed: Option<Failed>,
    /// The last answer, and how long ago it came.
    pub(crate) answer: Option<(TargetReport, Duration)>,
}

/// Calls that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) generation: i64,
    pub(crate) times: u32,
    pub(crate) ago: Duration,
    pub(crate) words: String,
}

/// What to do, and what to say.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Steer {
    /// Pods to tell, by uid.
    pub(crate) tell: Vec<String>,
    pub(crate) look_again: Option<Duration>,
    pub(crate) stand: Stand,
}

/// How the engines stand to the newest target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stand {
    /// There is none to tell.
    Nobody,
    /// In force in all.
    Applied(String),
    /// Not told yet, or not answered.
    Pending(String),
    /// On the way: memory is given back step by step, or an engine goes to sleep or wakes.
    Deferred(String),
    Refused(String),
}

/// How one engine stands.
enum One {
    Gone,
    Applied,
    Deferred(String),
    Refused(String),
    Tell,
    /// Told when something happens, or after a while.
    Waits(String, Option<Duration>),
}

/// Steers the engines of a revision to the target of a generation.
pub(crate) fn steer(generation: i64, engines: &[Engine]) -> Steer {
    let mut steer = Steer {
        tell: Vec::new(),
        look_again: None,
        stand: Stand::Nobody,
    };
    let (mut applied, mut all) = (0, 0);
    let (mut refused, mut pending, mut deferred) = (None, None, None);
    for engine in engines {
        let (one, again) = engine.stands(generation);
        let name = &engine.pod;
        all += u32::from(!matches!(one, One::Gone));
        let mut rest = again;
        match one {
            One::Gone => {}
            One::Applied => applied += 1,
            One::Deferred(words) => {
                deferred.get_or_insert(format!("pod {name} {words}"));
            }
            One::Refused(words) => {
                refused.get_or_insert(format!("pod {name}: {words}"));
            }
            One::Tell => {
                pending.get_or_insert(format!("pod {name} is being told"));
                steer.tell.push(engine.uid.clone());
            }
            One::Waits(words, pause) => {
                pending.get_or_insert(format!("pod {name} {words}"));
                rest = sooner(rest, pause);
            }
        }
        steer.look_again = sooner(steer.look_again, rest);
    }
    let counted = |words: String| {
        format!("generation {generation} is in force in {applied} of {all} engines; {words}")
    };
    steer.stand = match (refused, pending, deferred) {
        (Some(words), ..) => Stand::Refused(counted(words)),
        (_, Some(words), _) => Stand::Pending(counted(words)),
        (_, _, Some(words)) => Stand::Deferred(counted(words)),
        _ if all == 0 => Stand::Nobody,
        _ => Stand::Applied(format!(
            "generation {generation} is in force in all engines ({all})"
        )),
    };
    steer
}

impl Engine {
    /// How it stands, and when to look again because an answer stops to count.
    fn stands(&self, generation: i64) -> (One, Option<Duration>) {
        if self.hears == Hears::Ends {
            return (One::Gone, None);
        }
        let (told, again) = self.told();
        let one = match told {
            Some(told) if told.generation == generation => match told.outcome {
                TargetOutcome::Applied => One::Applied,
                TargetOutcome::Deferred => One::Deferred(match told.overage_bytes {
                    0 => told.message.clone(),
                    bytes => format!("holds {} above it", Bytes::measured(bytes)),
                }),
                TargetOutcome::Refused => One::Refused(told.message.clone()),
            },
            Some(told) if told.generation > generation => One::Waits(
                format!("was told generation {} already", told.generation),
                None,
            ),
            _ => self.to_tell(generation),
        };
        (one, again)
    }

    /// The newest of what it reported and what it answered a moment ago.
    fn told(&self) -> (Option<&TargetReport>, Option<Duration>) {
        let reported = self.reported.as_ref();
        let Some((answer, ago)) = &self.tries.answer else {
            return (reported, None);
        };
        let rest = ANSWER_HOLDS.saturating_sub(*ago);
        if rest.is_zero() || reported.is_some_and(|it| it.generation >= answer.generation) {
            return (reported, None);
        }
        (Some(answer), Some(rest))
    }

    fn to_tell(&self, generation: i64) -> One {
        let waits = |words: &str| One::Waits(words.to_owned(), None);
        match self.hears {
            Hears::Loading => return waits("is loading"),
            Hears::Silent | Hears::Ends => return waits("is not heard"),
            Hears::Yes => {}
        }
        if self.tries.under_way {
            return waits("is being told");
        }
        let failed = self.tries.failed.as_ref();
        let Some(failed) = failed.filter(|failed| failed.generation == generation) else {
            return One::Tell;
        };
        match pause(failed.times).saturating_sub(failed.ago) {
            Duration::ZERO => One::Tell,
            rest => {
                // Without the count: status is not written for every try.
                let words = &failed.words;
                One::Waits(
                    format!("could not be told, and is told again: {words}"),
                    Some(rest),
                )
            }
        }
    }
}

/// How long to wait after so many failures in a row.
fn pause(times: u32) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << times.saturating_sub(1).min(16));
    doubled.min(LONGEST_PAUSE)
}

fn sooner(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
