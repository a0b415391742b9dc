//! What a target comes to, told one after the other.

use std::time::Duration;

use plimsoll_crds::v1alpha1::target::{TargetAccount, TargetIdle, TargetKvCache};

use super::*;
use crate::engine::rest::SleepLevel;

pub(crate) fn target(generation: i64, quota: u64) -> Target {
    Target {
        adapters: Vec::new(),
        generation,
        gpu_memory_utilization: 0.9,
        kv_cache: TargetKvCache {
            size_bytes: None,
            blocks: 9,
            tokens: 128,
        },
        ranks: vec![TargetRank {
            rank: 0,
            quota_bytes: Some(quota),
            total_bytes: None,
            budget_bytes: quota,
            accounts: vec![TargetAccount {
                name: "Weights".to_owned(),
                planned_bytes: 5,
            }],
        }],
        sleep: None,
        idle: None,
        wake_on_request: false,
    }
}

fn applied(generation: i64) -> TargetReport {
    TargetReport {
        generation,
        outcome: TargetOutcome::Applied,
        message: String::new(),
        overage_bytes: 0,
    }
}

pub(crate) fn asleep(generation: i64, level: u32) -> Target {
    Target {
        sleep: Some(TargetSleep { level }),
        ..target(generation, 1000)
    }
}

/// Awake, with a clock of so many seconds.
pub(crate) fn idle(generation: i64, after_seconds: u32, wake_on_request: bool) -> Target {
    Target {
        idle: Some(TargetIdle {
            after_seconds,
            level: 1,
        }),
        wake_on_request,
        ..target(generation, 1000)
    }
}

/// The table of `crds/.../sleep.rs`: what is told when, and what the engine is left to.
#[test]
fn a_clock_is_no_command_and_taking_it_away_is_one() {
    let until_asked = |generation| Target {
        sleep: Some(TargetSleep { level: 1 }),
        ..idle(generation, 300, true)
    };
    let sleeps = Some(Some(TargetSleep { level: 1 }));
    let wakes = Some(None);
    type Of = fn(i64) -> Target;
    let (awake, dozing): (Of, Of) = (|of| target(of, 1000), |of| idle(of, 9, false));
    let (reachable, asleep): (Of, Of) = (|of| idle(of, 9, true), |of| asleep(of, 1));
    for (before, after, change) in [
        (awake, dozing, None),
        (dozing, reachable, None),
        (reachable, dozing, None),
        (dozing, awake, wakes),
        (reachable, awake, wakes),
        (dozing, asleep, sleeps),
        (asleep, dozing, wakes),
        (asleep, until_asked as Of, sleeps),
        (until_asked as Of, asleep, sleeps),
        (until_asked as Of, reachable, wakes),
        (until_asked as Of, awake, wakes),
        (until_asked as Of, until_asked as Of, None),
    ] {
        let held = Held::new(before(3));
        if let Some(first) = held.first() {
            held.settle(first, Ok(()));
        }
        let told = after(4);
        let (_, begun) = held.tell(told.clone()).unwrap();
        assert_eq!(begun.map(|begun| begun.sleep), change, "{told:?}");
        let expected = told.idle.map(|idle| {
            let after = Duration::from_secs(idle.after_seconds.into());
            (after, SleepLevel::One)
        });
        let policy = held.lead(|policy| policy);
        assert_eq!(policy.after, expected);
        assert_eq!(policy.wake_on_request, told.wake_on_request);
        // A service may lead to one that a request wakes, at any time.
        let falls = begun.is_some()
            && Wish::of(&told.sleep_order()) == Wish::Asleep(TargetSleep { level: 1 });
        assert_eq!(held.falls_asleep(), falls, "{told:?}");
    }
}

#[test]
fn a_change_that_is_tried_again_is_refused_meanwhile_and_applied_when_it_comes_about() {
    let held = Held::new(asleep(3, 1));
    held.settle(held.first().unwrap(), Ok(()));
    let wakes = held.tell(target(4, 1000)).unwrap().1.unwrap();
    for _ in 0..2 {
        held.repeats(wakes, "no memory");
        let refused = held.report();
        assert_eq!(refused.outcome, TargetOutcome::Refused);
        assert_eq!(
            refused.message,
            "did not wake: no memory; it is tried again"
        );
    }
    // Nothing is begun beside it, and memory that is refused stays refused.
    assert_eq!(held.tell(target(4, 1000)).unwrap().1, None);
    held.repeats(wakes, "no memory");
    held.tell(target(5, 2000)).unwrap();
    held.repeats(wakes, "no memory");
    assert!(held.report().message.contains("needs a restart"));
    assert_eq!(held.tell(target(6, 1000)).unwrap().1, None);
    held.repeats(wakes, "no memory");
    held.settle(wakes, Ok(()));
    assert_eq!(held.report(), applied(6));
}

#[test]
fn the_same_demand_of_a_newer_generation_is_applied_and_an_older_one_is_not_taken() {
    let held = Held::new(target(3, 1000));
    assert_eq!(held.report(), applied(3));
    for generation in [3, 5, 5] {
        let (report, change) = held.tell(target(generation, 1000)).unwrap();
        assert_eq!((report, change), (applied(generation), None));
    }
    let older = Older { told: 4, newest: 5 };
    assert_eq!(held.tell(target(4, 1000)), Err(older));
    assert_eq!(held.report(), applied(5));
    assert!(older.to_string().contains("4 is older than 5"), "{older}");
}

#[test]
fn another_demand_is_refused_by_name_and_what_was_in_force_stays() {
    let held = Held::new(target(3, 1000));
    let refused = held.tell(target(4, 2000)).unwrap().0;
    assert_eq!(
        (refused.outcome, refused.generation, refused.overage_bytes),
        (TargetOutcome::Refused, 4, 0)
    );
    assert_eq!(
        refused.message,
        "the quota of rank 0 (bytes) is 1000, and 2000 is asked for; this engine needs a restart \
         for that, and keeps to generation 3"
    );
    assert_eq!(held.report(), refused);
    assert_eq!(held.tell(target(4, 2000)), Ok((refused, None)));
    // What is in force may be asked for again.
    assert_eq!(held.tell(target(5, 1000)), Ok((applied(5), None)));

    type Change = fn(&mut Target);
    let changes: [(Change, &str); 7] = [
        (
            |it| it.kv_cache.size_bytes = Some(7),
            "kvCache.size (bytes) is open, and 7",
        ),
        (|it| it.kv_cache.blocks = 8, "KV blocks is 9, and 8"),
        (|it| it.gpu_memory_utilization = 0.5, "is 0.9, and 0.5"),
        (|it| it.ranks[0].quota_bytes = None, "is 1000, and open"),
        (
            |it| it.ranks[0].total_bytes = Some(1),
            "device's memory of rank 0",
        ),
        (|it| it.ranks.clear(), "the number of ranks is 1, and 0"),
        (|it| it.ranks[0].accounts.clear(), "planned bytes"),
    ];
    for (change, part) in changes {
        let mut other = target(6, 1000);
        change(&mut other);
        let answer = held.tell(other).unwrap().0;
        assert_eq!(answer.outcome, TargetOutcome::Refused, "{part}");
        assert!(answer.message.contains(part), "{part}: {}", answer.message);
    }
}

#[test]
fn a_sleep_is_asked_for_once_and_again_only_where_it_did_not_come_about() {
    let held = Held::new(target(3, 1000));
    assert_eq!(held.first(), None);
    let (report, change) = held.tell(asleep(4, 1)).unwrap();
    assert_eq!(report.outcome, TargetOutcome::Deferred);
    assert_eq!(report.message, "is going to sleep at level 1");
    let sleeps = change.unwrap();
    assert!(held.falls_asleep() && held.wants(sleeps));
    // Told again, and by a newer generation, while it is under way.
    assert_eq!(held.tell(asleep(4, 1)), Ok((report, None)));
    let (report, change) = held.tell(asleep(5, 1)).unwrap();
    assert_eq!((report.generation, change), (5, None));
    held.settle(sleeps, Ok(()));
    assert_eq!(held.report(), applied(5));
    assert!(!held.falls_asleep());
    assert_eq!(held.tell(asleep(6, 1)), Ok((applied(6), None)));

    let wakes = held.tell(target(7, 1000)).unwrap().1.unwrap();
    assert_eq!(wakes.sleep, None);
    held.settle(wakes, Err("no memory".to_owned()));
    let refused = held.report();
    assert_eq!(refused.outcome, TargetOutcome::Refused);
    assert_eq!(refused.message, "did not wake: no memory");
    // Telling it again tries it again.
    let again = held.tell(target(7, 1000)).unwrap().1.unwrap();
    // What came of one whose place was taken is nobody's matter.
    held.settle(wakes, Ok(()));
    assert!(held.wants(again));
    held.settle(again, Ok(()));
    assert_eq!(held.report(), applied(7));
}

#[test]
fn an_engine_that_begins_with_a_sleep_has_to_go_there() {
    let held = Held::new(asleep(3, 2));
    let first = held.first().unwrap();
    assert!(held.falls_asleep());
    assert_eq!(held.report().outcome, TargetOutcome::Deferred);
    // Awake is asked for before it got there.
    let wakes = held.tell(target(4, 1000)).unwrap().1.unwrap();
    assert!(!held.falls_asleep() && !held.wants(first) && held.wants(wakes));
    assert_eq!(held.while_wanted(first, || 1), None, "overtaken");
    assert_eq!(held.while_wanted(wakes, || 1), Some(1));
    assert_eq!(held.first(), None);
    // Memory that is refused meanwhile stays refused.
    held.tell(target(5, 2000)).unwrap();
    held.settle(wakes, Ok(()));
    assert_eq!(held.report().outcome, TargetOutcome::Refused);
    assert_eq!(held.tell(target(6, 1000)), Ok((applied(6), None)));
}

#[test]
fn memory_that_is_refused_keeps_nobody_from_waking_or_sleeping() {
    let held = Held::new(asleep(3, 1));
    held.settle(held.first().unwrap(), Ok(()));
    let awake = Target {
        idle: idle(0, 9, true).idle,
        ..target(4, 2000)
    };
    let (refused, wakes) = held.tell(awake.clone()).unwrap();
    let wakes = wakes.unwrap();
    assert_eq!(
        (refused.outcome, wakes.sleep),
        (TargetOutcome::Refused, None)
    );
    assert!(
        refused.message.contains("keeps to generation 3"),
        "{refused:?}"
    );
    assert!(held.lead(|policy| policy.after.is_some()));
    assert!(held.wants(wakes));
    held.repeats(wakes, "no memory");
    held.settle(wakes, Ok(()));
    assert_eq!(held.report(), refused, "the wake is no size");
    // It is asked for once, and the memory in force is what it was.
    assert_eq!(held.tell(awake), Ok((refused, None)));
    let sleeps = held
        .tell(Target {
            generation: 5,
            ..asleep(5, 2)
        })
        .unwrap();
    assert_eq!(sleeps.1.unwrap().sleep, Some(TargetSleep { level: 2 }));
    held.settle(sleeps.1.unwrap(), Ok(()));
    assert_eq!(held.report(), applied(5));
}

/// The memory of a target that is told later, or was refused before, is no matter of a sleep's.
#[test]
fn a_sleep_told_alone_is_followed_whatever_the_target_was_and_leaves_its_memory() {
    for refused in [false, true] {
        let held = Held::new(target(3, 1000));
        let whole = match refused {
            true => held.tell(target(4, 2000)).unwrap().0,
            false => held.tell(target(4, 1000)).unwrap().0,
        };
        let (report, change) = held.tell_sleep(asleep(6, 2).sleep_order()).unwrap();
        let change = change.unwrap();
        assert_eq!(
            (report.generation, report.outcome, report.message.as_str()),
            (6, TargetOutcome::Deferred, "is going to sleep at level 2")
        );
        assert!(held.falls_asleep());
        held.settle(change, Ok(()));
        assert_eq!(held.sleep_report(), applied(6));
        assert_eq!(held.report(), whole, "it is of its own generation still");
        // The same of a newer generation is no command, and its clock is followed.
        let dozes = idle(8, 9, true).sleep_order();
        let order = |generation| SleepOrder {
            generation,
            ..asleep(6, 2).sleep_order()
        };
        assert_eq!(held.tell_sleep(order(7)), Ok((applied(7), None)));
        let wakes = held.tell_sleep(dozes).unwrap().1.unwrap();
        assert_eq!(wakes.sleep, None);
        assert!(held.lead(|policy| policy.after.is_some() && policy.wake_on_request));
        held.settle(wakes, Err("no memory".to_owned()));
        assert_eq!(held.sleep_report().message, "did not wake: no memory");
        // Told again it is tried again; memory that was in force may be asked for with it.
        let (report, again) = held.tell(target(9, 1000)).unwrap();
        assert_eq!(report.outcome, TargetOutcome::Deferred);
        held.settle(again.unwrap(), Ok(()));
        assert_eq!(
            (held.report(), held.sleep_report()),
            (applied(9), applied(9))
        );
    }
}

#[test]
fn of_targets_and_sleeps_that_are_told_in_turns_the_newest_generation_wins() {
    let held = Held::new(target(3, 1000));
    let sleeps = held.tell_sleep(asleep(6, 1).sleep_order()).unwrap().1;
    held.settle(sleeps.unwrap(), Ok(()));
    let older = |told| Older { told, newest: 6 };
    // Whoever tells an older target does not know of the sleep.
    assert_eq!(held.tell(target(5, 1000)), Err(older(5)));
    assert_eq!(
        held.tell_sleep(target(5, 1000).sleep_order()),
        Err(older(5))
    );
    assert_eq!(
        (held.report(), held.sleep_report()),
        (applied(3), applied(6))
    );
    assert_eq!(held.tell(asleep(6, 1)), Ok((applied(6), None)));
    let wakes = held.tell(target(7, 1000)).unwrap().1;
    held.settle(wakes.unwrap(), Ok(()));
    let late = Older { told: 6, newest: 7 };
    assert_eq!(held.tell_sleep(asleep(6, 1).sleep_order()), Err(late));
    assert_eq!(held.sleep_report(), applied(7));
}

/// Its file may say of another sleep than its generation's, as an older revision's does.
#[test]
fn an_engine_that_begins_asleep_and_is_told_so_of_a_newer_generation_is_asked_once() {
    let held = Held::new(asleep(3, 1));
    let first = held.first().unwrap();
    let order = asleep(6, 1).sleep_order();
    let (report, change) = held.tell_sleep(order).unwrap();
    assert_eq!((report.generation, change), (6, None));
    assert!(held.wants(first));
    held.settle(first, Ok(()));
    assert_eq!(
        (held.report(), held.sleep_report()),
        (applied(3), applied(6))
    );
}
