//! Rolling, step by step: a table, and bounds that every step keeps.

use proptest::prelude::*;

use super::PodPhase::{Blocked, Ready, Starting, Unmade, Unready};
use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

fn revision(name: &str, replicas: u32, pods: &[PodPhase]) -> RevisionPods {
    RevisionPods {
        revision: name.to_owned(),
        replicas,
        answered: false,
        pods: pods.to_vec(),
    }
}

fn waiting(seconds: u64) -> PodPhase {
    Blocked {
        for_: Duration::from_secs(seconds),
        cure: Cure::Sure,
    }
}

fn unmade(seconds: u64) -> PodPhase {
    Unmade {
        for_: Duration::from_secs(seconds),
        cure: Cure::Sure,
    }
}

/// Counts for one old revision `a` and the wanted revision `b`.
fn counts(wanted: u32, a: (u32, &[PodPhase]), b: (u32, &[PodPhase]), room: Room) -> (u32, u32) {
    let step = step(
        wanted,
        &[revision("a", a.0, a.1)],
        &revision("b", b.0, b.1),
        room,
        PATIENCE,
    );
    (step.replicas[0].1, step.replicas[1].1)
}

/// A claim, and the replica counts of `a` and `b`: got and wanted.
type Row = (&'static str, (u32, u32), (u32, u32));

#[test]
fn single_steps() {
    let assumed = Room::Assumed;
    let table: &[Row] = &[
        (
            "first pods all at once",
            counts(3, (0, &[]), (0, &[]), assumed),
            (0, 3),
        ),
        (
            "surge one",
            counts(1, (1, &[Ready]), (0, &[]), assumed),
            (1, 1),
        ),
        (
            "wait for it",
            counts(1, (1, &[Ready]), (1, &[Starting]), assumed),
            (1, 1),
        ),
        (
            "then let the old go",
            counts(1, (1, &[Ready]), (1, &[Ready]), assumed),
            (0, 1),
        ),
        (
            "one by one",
            counts(3, (3, &[Ready, Ready, Ready]), (1, &[Ready]), assumed),
            (2, 2),
        ),
        (
            "old pods that never answered go at once",
            { counts(2, (2, &[Starting, Starting]), (0, &[]), assumed) },
            (0, 2),
        ),
        (
            "an old pod that may come back stays",
            { counts(1, (1, &[Unready]), (1, &[Starting]), assumed) },
            (1, 1),
        ),
        (
            "and goes when the new one answers",
            { counts(1, (1, &[Unready]), (1, &[Ready]), assumed) },
            (0, 1),
        ),
        (
            "no room yet",
            counts(1, (1, &[Ready]), (1, &[waiting(59)]), assumed),
            (1, 1),
        ),
        (
            "no room: replace",
            counts(1, (1, &[Ready]), (1, &[waiting(60)]), assumed),
            (0, 1),
        ),
        (
            "no room for two: one makes way",
            { counts(2, (2, &[Ready, Ready]), (1, &[waiting(60)]), assumed) },
            (1, 1),
        ),
        (
            "only one makes way at a time",
            { counts(2, (1, &[Ready]), (1, &[Starting]), Room::Full) },
            (1, 1),
        ),
        (
            "known lack of room: next one makes way at once",
            { counts(3, (2, &[Ready, Ready]), (1, &[Ready]), Room::Full) },
            (1, 2),
        ),
        (
            "scale down mid-way",
            {
                counts(
                    1,
                    (2, &[Ready, Ready]),
                    (3, &[Ready, Ready, Ready]),
                    assumed,
                )
            },
            (0, 1),
        ),
        (
            "scale to zero",
            counts(0, (2, &[Ready, Ready]), (1, &[Ready]), assumed),
            (0, 0),
        ),
        (
            "scale up while rolling: the revision that answers grows",
            { counts(4, (2, &[Ready, Ready]), (1, &[Starting]), assumed) },
            (3, 1),
        ),
        (
            "more wanted than there is room: what answers stays",
            { counts(3, (2, &[Ready, Ready]), (1, &[waiting(60)]), assumed) },
            (2, 1),
        ),
        (
            "the place of the last that made way is not taken: no other does",
            counts(3, (2, &[Ready, Ready]), (1, &[waiting(3600)]), Room::Full),
            (2, 1),
        ),
        (
            "nor while the pod that took it has not answered",
            counts(3, (2, &[Ready, Ready]), (1, &[Starting]), Room::Full),
            (2, 1),
        ),
        (
            "no quota for a pod more: it is asked for again when the old one is gone",
            counts(2, (2, &[Ready, Ready]), (1, &[unmade(60)]), assumed),
            (1, 0),
        ),
        (
            "which is not yet",
            counts(2, (1, &[Ready]), (0, &[PodPhase::Leaving]), Room::Rationed),
            (1, 0),
        ),
        (
            "and then",
            counts(2, (1, &[Ready]), (0, &[]), Room::Rationed),
            (1, 1),
        ),
        (
            "of two old pods the one that does not answer makes way",
            counts(2, (2, &[Ready, Unready]), (1, &[waiting(60)]), assumed),
            (1, 1),
        ),
        (
            "unschedulable without old pods is only waited for",
            { counts(2, (0, &[]), (2, &[Ready, waiting(600)]), assumed) },
            (0, 2),
        ),
    ];
    for (claim, got, want) in table {
        assert_eq!(got, want, "{claim}");
    }
}

#[test]
fn patience_is_a_timer_and_only_while_rolling() {
    let old = [revision("a", 1, &[Ready])];
    let new = revision("b", 1, &[waiting(45)]);
    let next = step(1, &old, &new, Room::Assumed, PATIENCE);
    assert_eq!(next.look_again, Some(Duration::from_secs(15)));
    assert_eq!(next.making_way, None);
    let alone = step(1, &[], &new, Room::Assumed, PATIENCE);
    assert_eq!(alone.look_again, None);
}

#[test]
fn for_a_pod_that_fits_nowhere_nothing_makes_way_and_it_is_stuck() {
    let lacks = |cure| Blocked {
        for_: PATIENCE,
        cure,
    };
    for wanted in [1, 3] {
        let old = [revision("a", wanted, &vec![Ready; wanted as usize])];
        for (cure, kept) in [
            (Cure::Nothing, wanted),
            // The only pod that answers is not given up for a hope.
            (Cure::Perhaps, if wanted == 1 { 1 } else { wanted - 1 }),
            (Cure::Sure, wanted - 1),
        ] {
            let new = revision("b", 1, &[lacks(cure)]);
            let next = step(wanted, &old, &new, Room::Assumed, PATIENCE);
            assert_eq!(next.replicas[0].1, kept, "{cure:?} of {wanted}");
            assert_eq!(next.stuck, kept == wanted, "{cure:?} of {wanted}");
        }
    }
}

#[test]
fn replacements_of_pods_that_answered_are_not_given_up_for_a_revision_that_never_did() {
    let mut old = revision("a", 2, &[Starting, Starting]);
    let new = revision("b", 1, &[Starting]);
    let fresh = step(2, std::slice::from_ref(&old), &new, Room::Assumed, PATIENCE);
    assert_eq!(fresh.replicas[0].1, 0);
    old.answered = true;
    let known = step(2, &[old], &new, Room::Assumed, PATIENCE);
    assert_eq!(known.replicas[0].1, 2);
}

#[test]
fn what_is_suspended_is_scaled_where_it_answers() {
    let sets = |a: (u32, &[PodPhase]), b: (u32, &[PodPhase])| {
        [revision("a", a.0, a.1), revision("b", b.0, b.1)]
    };
    let rolling = sets((2, &[Ready, Ready]), (1, &[Starting]));
    for (wanted, counts) in [(0, [0, 0]), (1, [1, 1]), (2, [2, 1]), (5, [5, 1])] {
        assert_eq!(rescale(wanted, &rolling), counts, "{wanted}");
    }
    let half = sets((2, &[Ready, Unready]), (2, &[Ready, Ready]));
    for (wanted, counts) in [(3, [1, 2]), (1, [0, 1]), (4, [2, 2]), (6, [2, 4])] {
        assert_eq!(rescale(wanted, &half), counts, "{wanted}");
    }
    // Before anything answered the newer stands for the spec.
    let fresh = sets((0, &[]), (1, &[Starting]));
    assert_eq!(rescale(3, &fresh), [0, 3]);
    assert_eq!(rescale(3, &[]), [0_u32; 0]);
}

#[test]
fn of_empty_revisions_the_newest_are_kept() {
    assert!(expired(&["a", "b"]).is_empty());
    assert_eq!(expired(&["a", "b", "c", "d"]), ["a", "b"]);
}

proptest! {
    /// The same arguments give the same answer, counts never pass the wanted surge, and no old
    /// revision grows.
    #[test]
    fn steps_are_bounded(
        wanted in 0u32..8,
        old_ready in 0usize..8, old_starting in 0usize..4,
        new_ready in 0usize..8, new_waiting in 0usize..4, seconds in 0u64..120,
        no_room in any::<bool>(),
    ) {
        let mut old_pods = vec![Ready; old_ready];
        old_pods.extend(vec![Starting; old_starting]);
        let mut new_pods = vec![Ready; new_ready];
        new_pods.extend(vec![waiting(seconds); new_waiting]);
        let size = |pods: &[PodPhase]| u32::try_from(pods.len()).unwrap();
        let old = revision("a", size(&old_pods), &old_pods);
        let new = revision("b", size(&new_pods), &new_pods);
        let room = if no_room { Room::Full } else { Room::Assumed };
        let first = step(wanted, std::slice::from_ref(&old), &new, room, PATIENCE);
        prop_assert_eq!(&first, &step(wanted, std::slice::from_ref(&old), &new, room, PATIENCE));
        let (a, b) = (first.replicas[0].1, first.replicas[1].1);
        prop_assert!(a <= old.replicas.max(wanted));
        prop_assert!(b <= wanted);
        prop_assert!(a + b <= (wanted + 1).max(old.replicas + new.replicas));
    }
}
