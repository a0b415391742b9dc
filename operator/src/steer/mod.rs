//! Steering: which engines are told their newest target, or its sleep alone, when it is tried again, and
//! what status says of it. Pure; `sender` does what it says.
//!
//! A pod reads its first target from its ConfigMap, which is written before anybody is told. So
//! steering only has to reach engines that run, and may stop at any point: what a pod reports, or
//! answered a moment ago, is all that the next look goes by. A refusal is an answer and is not
//! repeated; a call that failed is, for ever, after ever longer pauses. Where a container's memory
//! limit follows the target, `limit` says what comes first. A limit that does not come keeps no engine
//! from the rest of its target: it is told, takes no memory beyond the limit that it sees itself, and is
//! told once more when the limit is there.

mod call;
mod follow;
mod limit;
mod sender;
mod tries;

use std::time::Duration;

use plimsoll_crds::v1alpha1::{TargetOutcome, TargetReport};
use plimsoll_planner::Bytes;

use limit::Step;
pub(crate) use limit::{Limit, Tried};
pub(crate) use sender::{Addressee, Steering, Told};
use tries::pause;
pub(crate) use tries::{Failed, Tries, What};

/// What a pod answered counts for this long without its report saying so too: a report comes within
/// two seconds of a change, unless the engine ended and began again with what its files say.
const ANSWER_HOLDS: Duration = Duration::from_secs(10);

/// One engine pod that is told the same as the others with it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Engine {
    pub(crate) pod: String,
    pub(crate) uid: String,
    pub(crate) hears: Hears,
    /// What its newest report says of its newest target, or of its newest sleep.
    pub(crate) reported: Option<TargetReport>,
    /// It said so itself, in this life of its container: what was heard of the one before is no reason
    /// to take memory from it.
    pub(crate) confirmed: bool,
    /// It is awake, and stays so: what it does about a target it does about its memory.
    pub(crate) awake: bool,
    /// Its container's memory limit, where that follows the target.
    pub(crate) limit: Option<Limit>,
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

/// What to do, and what to say.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Steer {
    /// Pods to tell, by uid.
    pub(crate) tell: Vec<Tell>,
    /// Memory limits to ask for, in bytes, by uid of the pod.
    pub(crate) limits: Vec<(String, u64)>,
    pub(crate) look_again: Option<Duration>,
    pub(crate) stand: Stand,
    /// The memory of an engine, or its container's limit, is on its way.
    pub(crate) resizing: bool,
    /// A container's limit does not hold the newest target yet: the file that it would begin again with
    /// stays as it is.
    pub(crate) raising: bool,
}

/// A pod to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tell {
    pub(crate) uid: String,
    /// Its container's memory limit holds the target.
    pub(crate) held: bool,
}

/// How the engines stand to the newest target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stand {
    /// There is none to tell.
    #[default]
    Nobody,
    /// In force in all.
    Applied(String),
    /// Not told yet, or not answered.
    Pending(String),
    /// On the way: memory is given back step by step, or an engine goes to sleep or wakes.
    Deferred(String),
    Refused(String),
}

impl Stand {
    /// The higher, the more is left to do.
    pub(crate) fn rank(&self) -> u32 {
        match self {
            Stand::Nobody => 0,
            Stand::Applied(_) => 1,
            Stand::Deferred(_) => 2,
            Stand::Pending(_) => 3,
            Stand::Refused(_) => 4,
        }
    }

    pub(crate) fn words(&self) -> Option<&String> {
        match self {
            Stand::Nobody => None,
            Stand::Applied(words)
            | Stand::Pending(words)
            | Stand::Deferred(words)
            | Stand::Refused(words) => Some(words),
        }
    }
}

/// How one engine stands.
enum One {
    Gone,
    /// In force; with words: although its container's limit stays as it was.
    Applied(Option<String>),
    Deferred(String),
    Refused(String),
    Tell {
        held: bool,
    },
    /// Told when something happens, or after a while.
    Waits(String, Option<Duration>),
}

/// Steers the engines of a revision to the target of a generation.
pub(crate) fn steer(generation: i64, engines: &[Engine]) -> Steer {
    to(What::Target, generation, engines)
}

/// Steers engines to the sleep of a generation alone.
pub(crate) fn steer_sleep(generation: i64, engines: &[Engine]) -> Steer {
    to(What::Sleep, generation, engines)
}

fn to(what: What, generation: i64, engines: &[Engine]) -> Steer {
    let mut steer = Steer {
        tell: Vec::new(),
        limits: Vec::new(),
        look_again: None,
        stand: Stand::Nobody,
        resizing: false,
        raising: false,
    };
    let (mut applied, mut all) = (0, 0);
    let (mut refused, mut pending, mut deferred, mut kept) = (None, None, None, None);
    for engine in engines {
        let Verdict {
            one,
            again,
            ask,
            moves,
        } = engine.stands(generation);
        steer.raising |= engine.raising();
        let name = &engine.pod;
        all += u32::from(!matches!(one, One::Gone));
        steer
            .limits
            .extend(ask.map(|bytes| (engine.uid.clone(), bytes)));
        steer.resizing |= moves;
        let mut rest = again;
        match one {
            One::Gone => {}
            One::Applied(words) => {
                applied += 1;
                kept = kept.or(words.map(|words| format!("; pod {name}: {words}")));
            }
            One::Deferred(words) => {
                deferred.get_or_insert(format!("pod {name} {words}"));
            }
            One::Refused(words) => {
                refused.get_or_insert(format!("pod {name}: {words}"));
            }
            One::Tell { held } => {
                pending.get_or_insert(format!("pod {name} is being told"));
                let uid = engine.uid.clone();
                steer.tell.push(Tell { uid, held });
            }
            One::Waits(words, pause) => {
                pending.get_or_insert(format!("pod {name} {words}"));
                rest = sooner(rest, pause);
            }
        }
        steer.look_again = sooner(steer.look_again, rest);
    }
    let counted = |words: String| {
        let told = what.of(generation);
        format!("{told} is in force in {applied} of {all} engines; {words}")
    };
    steer.stand = match (refused, pending, deferred) {
        (Some(words), ..) => Stand::Refused(counted(words)),
        (_, Some(words), _) => Stand::Pending(counted(words)),
        (_, _, Some(words)) => Stand::Deferred(counted(words)),
        _ if all == 0 => Stand::Nobody,
        _ => Stand::Applied(format!(
            "{} is in force in all engines ({all}){}",
            what.of(generation),
            kept.unwrap_or_default()
        )),
    };
    steer
}

/// What one engine's stand comes to.
struct Verdict {
    one: One,
    /// When to look again because an answer stops to count.
    again: Option<Duration>,
    /// The memory limit to ask for.
    ask: Option<u64>,
    /// Its memory is on its way.
    moves: bool,
}

impl Verdict {
    fn of(one: One) -> Verdict {
        Verdict {
            one,
            again: None,
            ask: None,
            moves: false,
        }
    }
}

impl Engine {
    fn raising(&self) -> bool {
        let limit = self.limit.as_ref().filter(|_| self.hears != Hears::Ends);
        limit.is_some_and(|limit| limit.before() != Step::Free)
    }

    fn stands(&self, generation: i64) -> Verdict {
        if self.hears == Hears::Ends {
            return Verdict::of(One::Gone);
        }
        let (told, again) = self.told();
        let verdict = match told {
            Some(told) if told.generation == generation => match told.outcome {
                TargetOutcome::Applied => self.applied(),
                TargetOutcome::Deferred => Verdict {
                    moves: self.awake,
                    ..Verdict::of(One::Deferred(match told.overage_bytes {
                        0 => told.message.clone(),
                        bytes => format!("holds {} above it", Bytes::measured(bytes)),
                    }))
                },
                TargetOutcome::Refused => self.refused(told),
            },
            Some(told) if told.generation > generation => Verdict::of(One::Waits(
                format!("was told generation {} already", told.generation),
                None,
            )),
            _ => self.not_told(generation),
        };
        Verdict {
            again: sooner(again, verdict.again),
            ..verdict
        }
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

    fn to_tell(&self, generation: i64, held: bool) -> One {
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
            return One::Tell { held };
        };
        match pause(failed.times).saturating_sub(failed.ago) {
            Duration::ZERO => One::Tell { held },
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

fn sooner(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod follow_tests;
#[cfg(test)]
mod limit_model;
#[cfg(test)]
mod model;
#[cfg(test)]
mod sender_tests;
#[cfg(test)]
mod tests;
