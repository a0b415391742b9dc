//! The memory limit of an engine's container beside its budgets: raised before the engine is told of
//! more, lowered after it gave the rest back. So at no moment is the limit below what the engine may
//! hold, whoever stops where: each step is told from the pod as it is. Pure.

use std::time::Duration;

use plimsoll_planner::Bytes;

use crate::pods::limit::{MemoryLimit, Resize};

/// What was asked for comes back through the watch within this; then it is asked for again.
const COMES_BACK: Duration = Duration::from_secs(30);
/// What the API server refused is asked for again after this long: quotas of a namespace change.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);

/// One container's limit, as it is and as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    /// What the newest target leads to.
    pub(crate) wanted: u64,
    pub(crate) is: MemoryLimit,
    /// The pod has no node: nobody holds anything in it.
    pub(crate) unplaced: bool,
    pub(crate) tried: Option<Tried>,
}

/// What became of the last request for a pod's limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tried {
    pub(crate) bytes: u64,
    pub(crate) ago: Duration,
    /// The API server's words, if it refused.
    pub(crate) refused: Option<String>,
}

/// What is to be done about a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing stands in the way.
    Free,
    /// It is to be asked for.
    Ask(u64),
    /// It is on its way.
    Waits(String, Option<Duration>),
    /// It will not come: the node or the API server says no.
    No(String, Option<Duration>),
}

impl Limit {
    /// What comes before the engine is told of the newest target.
    pub(super) fn before(&self) -> Step {
        let Some(asked) = self.is.asked else {
            // Nothing bounds it.
            return Step::Free;
        };
        if asked < self.wanted || (self.unplaced && asked != self.wanted) {
            return self.ask(asked);
        }
        match self.is.in_force {
            // No container runs; what is asked for is what it will get.
            None => Step::Free,
            // More was asked for, and is not there: this much may be had.
            Some(bytes) if bytes < self.wanted && asked != self.wanted => self.ask(asked),
            Some(bytes) if bytes < self.wanted => self.on_its_way(bytes),
            // The node may be about to lower it, as it was told before.
            Some(_) if self.is.unseen => Step::Waits(
                "waits for its node to look at its container's memory limit".to_owned(),
                None,
            ),
            Some(_) => Step::Free,
        }
    }

    /// Whether that step may last: who says so has looked, and nothing else is on its way. An engine that
    /// is told then sees what the node has in force, and takes no more.
    pub(super) fn stuck(&self, step: &Step) -> bool {
        let lasts = match step {
            Step::Free | Step::Ask(_) => false,
            Step::No(..) => true,
            Step::Waits(..) => match &self.is.resize {
                Resize::Pending { .. } => true,
                Resize::UnderWay(words) => !words.is_empty(),
                Resize::Nothing => false,
            },
        };
        let short = self.is.in_force.is_some_and(|bytes| bytes < self.wanted);
        lasts && short && !self.is.unseen
    }

    /// What follows once the engine has the newest target in force.
    pub(super) fn after(&self) -> Step {
        match (self.is.asked, self.is.in_force) {
            (Some(asked), _) if asked > self.wanted => self.ask(asked),
            (Some(_), Some(bytes)) if bytes > self.wanted => self.on_its_way(bytes),
            _ => Step::Free,
        }
    }

    fn ask(&self, from: u64) -> Step {
        let tried = self.tried.as_ref();
        let Some(tried) = tried.filter(|tried| tried.bytes == self.wanted) else {
            return Step::Ask(self.wanted);
        };
        let change = self.change(from);
        match &tried.refused {
            Some(words) => match REFUSED_PAUSE.saturating_sub(tried.ago) {
                Duration::ZERO => Step::Ask(self.wanted),
                rest => Step::No(
                    format!("{change}: the API server says no: {words}"),
                    Some(rest),
                ),
            },
            None => match COMES_BACK.saturating_sub(tried.ago) {
                Duration::ZERO => Step::Ask(self.wanted),
                rest => Step::Waits(change, Some(rest)),
            },
        }
    }

    fn on_its_way(&self, from: u64) -> Step {
        let change = self.change(from);
        match &self.is.resize {
            Resize::Pending { never: true, words } => {
                Step::No(format!("{change}: the node says {words}"), None)
            }
            Resize::Pending {
                never: false,
                words,
            } => Step::Waits(format!("{change}: the node says {words}"), None),
            Resize::UnderWay(words) if !words.is_empty() => {
                Step::Waits(format!("{change}: the node says {words}"), None)
            }
            Resize::UnderWay(_) | Resize::Nothing => Step::Waits(change, None),
        }
    }

    /// The change in words, with both numbers.
    pub(super) fn change(&self, from: u64) -> String {
        let (from, to) = (Bytes::measured(from), Bytes::measured(self.wanted));
        let verb = if to > from { "raised" } else { "lowered" };
        format!("its container's memory limit is being {verb} from {from} to {to}")
    }
}
