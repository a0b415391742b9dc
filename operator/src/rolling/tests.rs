//! Rolling, step by step: a table, and bounds that every step keeps.

use proptest::prelude::*;

use super::PodPhase::{Ready, Starting, Unready, Unschedulable};
use super::*;

const PATIENCE: Duration = Duration::from_secs(60);
const LONG_AGO: Room = Room::None {
    since_last: Duration::from_secs(3600),
};

fn revision(name: &str, replicas: u32, pods: &[PodPhase]) -> RevisionPods {
    RevisionPods {
        revision: name.to_owned(),
        replicas,
        pods: pods.to_vec(),
    }
}

fn waiting(seconds: u64) -> PodPhase {
    Unschedulable {
        for_: Duration::from_secs(seconds),
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
            { counts(2, (1, &[Ready]), (1, &[Starting]), LONG_AGO) },
            (1, 1),
        ),
        (
            "known lack of room: next one makes way at once",
            { counts(3, (2, &[Ready, Ready]), (1, &[Ready]), LONG_AGO) },
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
            "scale up while rolling",
            { counts(4, (2, &[Ready, Ready]), (1, &[Starting]), assumed) },
            (2, 3),
        ),
        (
            "more wanted than there is room: one makes way",
            {
                counts(
                    3,
                    (2, &[Ready, Ready]),
                    (2, &[waiting(60), waiting(60)]),
                    assumed,
                )
            },
            (1, 2),
        ),
        (
            "and no other before its place is taken",
            {
                let just_now = Room::None {
                    since_last: Duration::from_secs(1),
                };
                counts(3, (1, &[Ready]), (2, &[waiting(60), waiting(60)]), just_now)
            },
            (1, 2),
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
    assert!(!next.replacing);
    let alone = step(1, &[], &new, Room::Assumed, PATIENCE);
    assert_eq!(alone.look_again, None);
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
        let room = if no_room { LONG_AGO } else { Room::Assumed };
        let first = step(wanted, std::slice::from_ref(&old), &new, room, PATIENCE);
        prop_assert_eq!(&first, &step(wanted, std::slice::from_ref(&old), &new, room, PATIENCE));
        let (a, b) = (first.replicas[0].1, first.replicas[1].1);
        prop_assert!(a <= old.replicas);
        prop_assert!(b <= wanted);
        prop_assert!(a + b <= (wanted + 1).max(old.replicas + new.replicas));
    }
}
