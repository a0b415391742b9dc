//! Whether a child must be written: it is not there, was made from something else, or somebody
//! changed what is ours in it. Pure, but for how long ago the last write was.

use std::time::Duration;

use crate::build::{HASH_ANNOTATION, Prepared};
use crate::children::ChildKind;
use crate::drift::{self, Lost};
use crate::facts::{ChildFacts, Facts};
use crate::memory::Applied;
use crate::pods::age;

/// What was created this short a time ago may not have come back through the watch.
const RECENT: Duration = Duration::from_secs(5);
/// Pauses before a child that somebody changes again and again is written once more: none for the
/// first, then this long, doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// A Secret that a pod does not accept is written again after this long: a kubelet takes up to two
/// minutes to bring it into the pod.
const REFUSED_PAUSE: Duration = Duration::from_secs(180);
/// A child that was left alone for this long is repaired at once again.
const CALM: Duration = Duration::from_secs(600);

/// What to do about a child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    /// It is as it should be, or what was written has not come back yet and will.
    No,
    /// It is not there, or was made from something else.
    Anew,
    /// Somebody changed it.
    Repair(Lost),
    /// Not yet.
    Later(Duration),
}

/// Decides about `child`, given what exists and what this process wrote last.
pub(crate) fn decide(child: &Prepared, facts: &Facts, applied: Option<&Applied>) -> Write {
    let known = facts.children.get(&(child.kind, child.name.clone()));
    let applied = applied.filter(|applied| applied.hash == child.hash);
    match (known, applied) {
        (Some(known), applied) => compare(child, known, applied),
        (None, None) => Write::Anew,
        (None, Some(applied)) if child.kind == ChildKind::Secret => of_secret(facts, applied),
        (None, Some(applied)) => match RECENT.checked_sub(applied.at.elapsed()) {
            Some(rest) if !rest.is_zero() => Write::Later(rest),
            _ => Write::Anew,
        },
    }
}

fn compare(child: &Prepared, known: &ChildFacts, applied: Option<&Applied>) -> Write {
    // What the watch shows is no newer than what we wrote: nobody has changed it since.
    if applied.is_some_and(|applied| known.resource_version <= applied.resource_version) {
        return Write::No;
    }
    let lost = match (known.hash == child.hash, applied) {
        (true, _) => drift::lost(&known.owned, &child.object),
        (false, None) => return Write::Anew,
        (false, Some(_)) => Some(Lost {
            path: format!("metadata.annotations.{HASH_ANNOTATION}"),
            item: false,
        }),
    };
    let Some(lost) = lost else {
        return Write::No;
    };
    match applied.map_or(Duration::ZERO, pause_left) {
        Duration::ZERO => Write::Repair(lost),
        rest => Write::Later(rest),
    }
}

/// Repairs in a row, the next one included.
pub(crate) fn repairs(applied: Option<&Applied>) -> u32 {
    let lately = applied.filter(|applied| applied.at.elapsed() < CALM);
    lately.map_or(0, |applied| applied.repairs) + 1
}

fn pause_left(applied: &Applied) -> Duration {
    let since = applied.at.elapsed();
    if applied.repairs == 0 || since >= CALM {
        return Duration::ZERO;
    }
    let pause = FIRST_PAUSE.saturating_mul(1 << (applied.repairs - 1).min(16));
    pause.min(LONGEST_PAUSE).saturating_sub(since)
}

/// Secrets are never read back, so one that somebody changed or deleted is not noticed at once. It
/// is written again when it matters: a pod asks for another token than ours, or is about to mount
/// it and is newer than the last write.
fn of_secret(facts: &Facts, applied: &Applied) -> Write {
    if mounted_soon(facts, applied) {
        return Write::Anew;
    }
    match facts.refusing_pod() {
        None => Write::No,
        Some(_) => match REFUSED_PAUSE.saturating_sub(applied.at.elapsed()) {
            Duration::ZERO => Write::Anew,
            rest => Write::Later(rest),
        },
    }
}

/// Pods that come of the last write's own pass aside.
fn mounted_soon(facts: &Facts, applied: &Applied) -> bool {
    let since = applied.at.elapsed();
    facts
        .live_pods()
        .filter(|pod| !pod.engine.started)
        .any(|pod| age(pod.created, facts.now) + RECENT < since)
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::build::{secret, service};
    use crate::drift::Lost;
    use crate::testing::account::account;
    use crate::testing::*;

    fn written(hash: &str, ago: u64, repairs: u32) -> Applied {
        Applied {
            hash: hash.to_owned(),
            replicas: None,
            uid: None,
            resource_version: Some(7),
            at: Instant::now()
                .checked_sub(Duration::from_secs(ago))
                .expect("the machine runs for longer"),
            repairs,
        }
    }

    /// The resource's Service, and facts of a cluster that has it at a resource version, whole or
    /// with another's selector.
    fn with_service(version: u64, whole: bool) -> (Prepared, Facts) {
        let mut facts = inspected(SMOLLM2);
        let child = service(&facts.object, &facts.identity);
        let mut owned = account(&child.object);
        if !whole {
            owned["f:spec"]
                .as_object_mut()
                .unwrap()
                .remove("f:selector");
        }
        let known = ChildFacts {
            uid: None,
            hash: child.hash.clone(),
            resource_version: Some(version),
            owned: owned.to_string(),
        };
        facts
            .children
            .insert((child.kind, child.name.clone()), known);
        (child, facts)
    }

    fn repair() -> Write {
        Write::Repair(Lost {
            path: "spec.selector".to_owned(),
            item: false,
        })
    }

    #[test]
    fn what_nobody_changed_since_it_was_written_is_left_alone() {
        for (version, whole, applied, expected) in [
            (8, true, None, Write::No),
            (8, true, Some(0), Write::No),
            (8, false, None, repair()),
            (8, false, Some(0), repair()),
            // What we wrote has not come back yet, or is what it is.
            (6, false, Some(0), Write::No),
            (7, false, Some(0), Write::No),
        ] {
            let (child, facts) = with_service(version, whole);
            let applied = applied.map(|repairs| written(&child.hash, 0, repairs));
            let decided = decide(&child, &facts, applied.as_ref());
            assert_eq!(decided, expected, "version {version}, whole {whole}");
        }
        let (child, mut facts) = with_service(8, true);
        facts.children.values_mut().for_each(|it| it.hash.clear());
        assert_eq!(decide(&child, &facts, None), Write::Anew);
        assert!(matches!(
            decide(&child, &facts, Some(&written(&child.hash, 0, 0))),
            Write::Repair(lost) if lost.path.ends_with("plimsoll.dev/hash")
        ));
    }

    #[test]
    fn pauses_between_repairs_double_up_to_five_minutes_and_calm_ends_them() {
        let (child, facts) = with_service(8, false);
        let look = |ago, repairs| decide(&child, &facts, Some(&written(&child.hash, ago, repairs)));
        let later = |ago, repairs| match look(ago, repairs) {
            Write::Later(rest) => rest.as_secs_f64().ceil(),
            other => panic!("{other:?}"),
        };
        assert_eq!(later(0, 1), 1.0);
        assert_eq!(later(0, 4), 8.0);
        assert_eq!(later(5, 4), 3.0);
        assert_eq!(later(0, 10), 300.0);
        assert_eq!(later(0, u32::MAX), 300.0);
        assert_eq!(look(9, 4), repair());
        assert_eq!(look(301, 10), repair());
        assert_eq!(repairs(Some(&written("", 301, 10))), 11);
        assert_eq!(repairs(Some(&written("", 601, 10))), 1);
        assert_eq!(repairs(None), 1);
    }

    #[test]
    fn a_child_that_is_not_there_is_made_once_and_looked_for_again() {
        let (child, mut facts) = with_service(8, true);
        facts.children.clear();
        assert_eq!(decide(&child, &facts, None), Write::Anew);
        let just = written(&child.hash, 0, 0);
        assert!(matches!(
            decide(&child, &facts, Some(&just)),
            Write::Later(_)
        ));
        let deleted = written(&child.hash, 6, 0);
        assert_eq!(decide(&child, &facts, Some(&deleted)), Write::Anew);
    }

    #[test]
    fn a_secret_is_written_again_before_a_newer_pod_mounts_it() {
        let mut facts = inspected(SMOLLM2);
        let child = secret(&facts.object, &facts.identity, "token");
        // Pods of these facts were made at second 0.
        facts.now = at(20);
        let starting = || vec![engine("a", "r", unschedulable(0))];
        for (pods, ago, expected) in [
            (Vec::new(), 9_999, Write::No),
            (starting(), 0, Write::No),
            (starting(), 15, Write::No),
            // 20 s old, and the Secret was written 5 s before it or just then.
            (starting(), 24, Write::No),
            (starting(), 26, Write::Anew),
            (vec![engine("a", "r", ready())], 26, Write::No),
        ] {
            facts.pods = pods;
            let applied = written(&child.hash, ago, 0);
            assert_eq!(
                decide(&child, &facts, Some(&applied)),
                expected,
                "{ago} s ago"
            );
        }
        assert_eq!(decide(&child, &facts, None), Write::Anew);
    }

    #[test]
    fn a_secret_whose_token_a_pod_refuses_is_written_again_in_time() {
        let mut facts = inspected(SMOLLM2);
        let child = secret(&facts.object, &facts.identity, "token");
        facts.pods = vec![engine("a", "r", ready())];
        let look = |facts: &Facts, ago| decide(&child, facts, Some(&written(&child.hash, ago, 0)));
        let mut known = heard(report(500));
        facts.reports.insert("a".to_owned(), known.clone());
        assert_eq!(look(&facts, 9_999), Write::No);
        known.refused = true;
        facts.reports.insert("a".to_owned(), known);
        assert_eq!(look(&facts, 9_999), Write::Anew);
        assert!(
            matches!(look(&facts, 60), Write::Later(_)),
            "the kubelet is on its way"
        );
    }
}
