//! Turns: rollouts that no spec asked for (another image of the engine, another operator that makes
//! pods differently) come one after another, each when the one before is Ready. Kept in memory
//! alone: after a restart nobody begins before every resource was looked at, and a rollout that is
//! under way shows in the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Names in a message; the rest is counted.
const NAMED: usize = 3;

/// How a resource stands to its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stand {
    /// It rolls nothing, or only what its spec asked for.
    Idle,
    /// Such a rollout is under way, and the resource is not Ready yet.
    Rolls,
    /// It would begin one.
    Wants,
}

/// Whether a rollout that no spec asked for may begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Yours,
    /// For whom it waits, in words.
    Waits(String),
}

/// The turns of one process.
#[derive(Debug)]
pub(crate) struct Turns {
    most: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Parts of the cluster whose resources are not even listed yet.
    unlisted: usize,
    /// Resources that no pass has looked at yet.
    unknown: BTreeSet<String>,
    stands: BTreeMap<String, Stand>,
}

impl Turns {
    /// At most `most` rollouts at once.
    pub(crate) fn new(most: usize) -> Turns {
        Turns {
            most,
            inner: Mutex::default(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins anew: so many parts of the cluster will be listed.
    pub(crate) fn begin(&self, parts: usize) {
        *self.inner() = Inner {
            unlisted: parts,
            ..Inner::default()
        };
    }

    /// A part of the cluster was listed: these are its resources.
    pub(crate) fn listed(&self, resources: impl Iterator<Item = String>) {
        let mut inner = self.inner();
        let known = std::mem::take(&mut inner.stands);
        inner
            .unknown
            .extend(resources.filter(|name| !known.contains_key(name)));
        inner.stands = known;
        inner.unlisted = inner.unlisted.saturating_sub(1);
    }

    /// Notes how `who` stands, and answers whether it may go on.
    pub(crate) fn stand(&self, who: &str, stand: Stand) -> Turn {
        let mut inner = self.inner();
        inner.unknown.remove(who);
        let stand = match (inner.stands.get(who), stand) {
            // It was told that it may: what it began may not be in the cluster yet.
            (Some(Stand::Rolls), Stand::Wants) => Stand::Rolls,
            (_, stand) => stand,
        };
        inner.stands.insert(who.to_owned(), stand);
        if stand != Stand::Wants {
            return Turn::Yours;
        }
        if inner.unlisted > 0 || !inner.unknown.is_empty() {
            let words = "the operator has just started, and looks at every resource first";
            return Turn::Waits(words.to_owned());
        }
        let standing = |as_: Stand| inner.stands.iter().filter(move |(_, it)| **it == as_);
        let rolling: Vec<&str> = standing(Stand::Rolls)
            .map(|(name, _)| name.as_str())
            .collect();
        let before = standing(Stand::Wants)
            .take_while(|(name, _)| *name != who)
            .count();
        if rolling.len() + before < self.most {
            inner.stands.insert(who.to_owned(), Stand::Rolls);
            return Turn::Yours;
        }
        Turn::Waits(waits(&rolling, before, self.most))
    }

    /// The resource is gone.
    pub(crate) fn forget(&self, who: &str) {
        let mut inner = self.inner();
        inner.unknown.remove(who);
        inner.stands.remove(who);
    }
}

fn waits(rolling: &[&str], before: usize, most: usize) -> String {
    let named = rolling[..rolling.len().min(NAMED)].join(", ");
    let more = match rolling.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} others"),
    };
    let queue = match before {
        0 => String::new(),
        before => format!(", and {before} come before"),
    };
    format!(
        "its pods are replaced when it is its turn: it waits for {named}{more} to be Ready{queue} \
         (at most {most} at once, see --max-concurrent-rollouts)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [&str; 3] = ["t/a", "t/b", "t/c"];

    fn turns(most: usize) -> Turns {
        let turns = Turns::new(most);
        turns.begin(1);
        turns.listed(ALL.into_iter().map(str::to_owned));
        turns
    }

    fn words(turn: Turn) -> String {
        match turn {
            Turn::Yours => panic!("it may begin"),
            Turn::Waits(words) => words,
        }
    }

    #[test]
    fn one_rolls_at_a_time_by_name_and_the_others_say_for_whom_they_wait() {
        let turns = turns(1);
        // Nobody before all are known: one may be in the middle of it.
        for who in ["t/c", "t/b"] {
            let words = words(turns.stand(who, Stand::Wants));
            assert!(words.contains("looks at every resource first"), "{words}");
        }
        // It keeps its turn until it is Ready, whatever its passes come to.
        for stand in [Stand::Wants, Stand::Wants, Stand::Rolls] {
            assert_eq!(turns.stand("t/a", stand), Turn::Yours);
        }
        let told = words(turns.stand("t/c", Stand::Wants));
        assert!(
            told.contains("waits for t/a to be Ready, and 1 come before"),
            "{told}"
        );
        assert_eq!(turns.stand("t/a", Stand::Idle), Turn::Yours);
        words(turns.stand("t/c", Stand::Wants));
        assert_eq!(turns.stand("t/b", Stand::Wants), Turn::Yours);
        turns.forget("t/b");
        assert_eq!(turns.stand("t/c", Stand::Wants), Turn::Yours);
    }

    #[test]
    fn a_restart_finds_the_rollout_that_is_under_way() {
        let turns = turns(1);
        words(turns.stand("t/a", Stand::Wants));
        assert_eq!(turns.stand("t/b", Stand::Idle), Turn::Yours);
        assert_eq!(turns.stand("t/c", Stand::Rolls), Turn::Yours);
        let told = words(turns.stand("t/a", Stand::Wants));
        assert!(told.contains("waits for t/c"), "{told}");
    }

    #[test]
    fn more_at_once_where_the_flag_says_so_and_never_before_every_namespace_is_listed() {
        let turns = Turns::new(2);
        turns.begin(2);
        turns.listed(ALL.into_iter().map(str::to_owned));
        for who in ALL {
            words(turns.stand(who, Stand::Wants));
        }
        // A namespace without resources.
        turns.listed(std::iter::empty());
        let begin = ALL.map(|who| turns.stand(who, Stand::Wants) == Turn::Yours);
        assert_eq!(begin, [true, true, false]);
    }
}
