//! What engines are told, and what became of the calls that told them. Pure.

use std::time::Duration;

use plimsoll_crds::v1alpha1::TargetReport;

/// Pauses after a call that failed, doubled from the first up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What an engine is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum What {
    /// The whole target: an engine of the revision that it was planned for.
    #[default]
    Target,
    /// Its sleep alone: any other.
    Sleep,
}

impl What {
    /// Where an engine's admin port takes it.
    pub(super) fn path(self) -> &'static str {
        match self {
            What::Target => "/target",
            What::Sleep => "/target/sleep",
        }
    }

    pub(super) fn of(self, generation: i64) -> String {
        match self {
            What::Target => format!("generation {generation}"),
            What::Sleep => format!("the sleep of generation {generation}, told alone,"),
        }
    }
}

/// What became of the calls to one pod so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tries {
    /// What the last of them told; the rest but for `under_way` is of such calls alone.
    pub(crate) what: What,
    /// A call is on its way; it ends by itself, soon.
    pub(crate) under_way: bool,
    /// Calls in a row that failed, for which generation, how long ago the last ended, and how.
    pub(crate) failed: Option<Failed>,
    /// The last answer, and how long ago it came.
    pub(crate) answer: Option<(TargetReport, Duration)>,
    /// The generation that it answered last, where its container's limit held that when it was told.
    pub(crate) held: Option<i64>,
}

impl Tries {
    /// What they are to somebody who tells this: of others' calls it matters only that one is on its way.
    pub(crate) fn telling(self, what: What) -> Tries {
        match self.what == what {
            true => self,
            false => Tries {
                what,
                under_way: self.under_way,
                ..Tries::default()
            },
        }
    }
}

/// Calls that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) generation: i64,
    pub(crate) times: u32,
    pub(crate) ago: Duration,
    pub(crate) words: String,
}

/// How long to wait after so many failures in a row.
pub(super) fn pause(times: u32) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << times.saturating_sub(1).min(16));
    doubled.min(LONGEST_PAUSE)
}
