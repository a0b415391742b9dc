//! Sleep and wake: what a model says is what it said before, after every kind of sleep, and across it for
//! requests that are kept. `engine_stories.rs` has all of it in random order.
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]
#![allow(clippy::cast_possible_truncation, reason = "fixtures are small")]

mod harness;

use harness::fixture::Fixture;
use harness::{Run, ask_ids, fixtures, score, start, tiny};
use plimsoll_planner::{Account, Shard};
use plimsoll_sidecar::engine::control::{Commands, Woken};
use plimsoll_sidecar::engine::handle::{EngineHandle, EngineState};
use plimsoll_sidecar::engine::rest::PauseMode::{Abort, Keep, Wait};
use plimsoll_sidecar::engine::rest::{SleepLevel, Tags, Transition};

const WEIGHTS: Tags = Tags {
    weights: true,
    kv_cache: false,
};
const KV_CACHE: Tags = Tags {
    weights: false,
    kv_cache: true,
};

/// Bytes that all ranks hold for an account, by the ledger.
fn held(handle: &EngineHandle, account: Account) -> u64 {
    let ranks = handle.memory().ranks;
    let rows = ranks.iter().flat_map(|rank| &rank.accounts);
    rows.filter(|row| row.account == account)
        .map(|row| row.reserved.get())
        .sum()
}

fn check_ids(fixture: &Fixture, handle: &EngineHandle, what: &str) {
    let answers: Vec<_> = (0..)
        .zip(&fixture.prompts)
        .map(|(id, prompt)| ask_ids(handle, id, &prompt.ids, prompt.greedy.len() as u32))
        .collect();
    for ((index, answer), prompt) in answers.into_iter().enumerate().zip(&fixture.prompts) {
        let ids = answer.wait().ids;
        assert_eq!(
            ids, prompt.greedy,
            "{}, {what}, prompt {index}",
            fixture.name
        );
    }
}

/// Puts to sleep and wakes up, tag after tag.
fn sleep_and_wake(handle: &EngineHandle, level: SleepLevel, wakes: &[Tags]) {
    assert_eq!(handle.sleep(level, Abort).wait(), Ok(()));
    assert_eq!(handle.state(), EngineState::Asleep);
    assert_eq!(held(handle, Account::KvCache), 0);
    assert_eq!(held(handle, Account::Activations), 0);
    let weights = held(handle, Account::Weights);
    assert_eq!(weights == 0, level == SleepLevel::Two);
    for (left, tags) in (0..wakes.len()).rev().zip(wakes) {
        let woken = handle.wake(*tags).wait();
        assert_eq!(woken, Ok(Woken { asleep: left > 0 }), "{level:?} {tags:?}");
    }
    assert_eq!(handle.state(), EngineState::Serving);
    assert_eq!(handle.rest().weights_verified, Some(true));
}

#[test]
fn every_architecture_says_the_same_after_every_kind_of_sleep() {
    let folders = std::fs::read_dir(fixtures().join("models")).unwrap();
    let mut folders: Vec<_> = folders.map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    for (index, folder) in folders.iter().enumerate() {
        let fixture = Fixture::open(folder, "");
        let shape = &fixture.model.shape;
        for ranks in [1, 2] {
            let shards = match ranks {
                1 => vec![Shard::whole(shape)],
                _ => harness::split(shape, 2, [0; 3]),
            };
            let run = Run {
                shards,
                prefix_cache: (index + ranks) % 2 == 0,
                ..Run::whole(shape)
            };
            let handle = start(&fixture.model, &run);
            check_ids(&fixture, &handle, "before");
            sleep_and_wake(&handle, SleepLevel::One, &[Tags::ALL]);
            check_ids(&fixture, &handle, "after level 1");
            sleep_and_wake(&handle, SleepLevel::Two, &[Tags::ALL]);
            check_ids(&fixture, &handle, "after level 2");
            sleep_and_wake(&handle, SleepLevel::Two, &[WEIGHTS, KV_CACHE]);
            check_ids(&fixture, &handle, "after weights, then KV");
            sleep_and_wake(&handle, SleepLevel::Two, &[KV_CACHE, WEIGHTS]);
            check_ids(&fixture, &handle, "after KV, then weights");
            assert_eq!(handle.pause(Abort, false).wait(), Ok(()));
            assert_eq!(handle.release_kv_cache().wait(), Ok(()));
            assert_eq!(held(&handle, Account::KvCache), 0);
            assert!(held(&handle, Account::Activations) > 0);
            assert_eq!(handle.wake(KV_CACHE).wait(), Ok(Woken { asleep: false }));
            assert_eq!(handle.state(), EngineState::Paused, "until it is resumed");
            assert_eq!(handle.resume().wait(), Ok(()));
            check_ids(&fixture, &handle, "after the KV cache alone");
        }
    }
}

#[test]
fn scores_and_tokens_of_a_kept_request_come_once_and_are_the_same_across_a_deep_sleep() {
    let model = tiny();
    let handle = start(&model, &Run::on_two_ranks(&model));
    let prompt: Vec<u32> = (3..203).collect();
    let expected = score(&handle, 1, &prompt, 200).wait();
    for (mode, level) in [(Keep, SleepLevel::One), (Keep, SleepLevel::Two)] {
        let answer = score(&handle, 2, &prompt, 200);
        answer.wait_for(3);
        assert_eq!(handle.sleep(level, mode).wait(), Ok(()));
        let said = answer.events();
        assert_eq!(handle.sleep(level, mode).wait(), Ok(()), "twice");
        assert_eq!(answer.events(), said, "it goes on while it sleeps");
        assert_eq!(handle.wake(Tags::ALL).wait(), Ok(Woken { asleep: false }));
        let answer = answer.wait();
        assert_eq!(answer.ids, expected.ids);
        assert_eq!(answer.prompt, expected.prompt);
        assert!(answer.finished.unwrap().preemptions > 0, "{level:?}");
    }
}

#[test]
fn a_sleep_that_waits_finishes_who_was_there_and_keeps_who_came_later() {
    let model = tiny();
    let handle = start(&model, &Run::on_two_ranks(&model));
    let expected =
        [&[3, 4, 5][..], &[6, 7]].map(|prompt| ask_ids(&handle, 9, prompt, 150).wait().ids);
    let first = ask_ids(&handle, 1, &[3, 4, 5], 150);
    first.wait_for(1);
    let sleeping = handle.sleep(SleepLevel::One, Wait);
    harness::eventually("a sleep under way", || {
        handle.state() != EngineState::Serving
    });
    let came_in_time = handle.state() == EngineState::Sleeping;
    let second = came_in_time.then(|| ask_ids(&handle, 2, &[6, 7], 150));
    assert_eq!(first.wait().ids, expected[0]);
    assert_eq!(sleeping.wait(), Ok(()));
    assert_eq!(held(&handle, Account::KvCache), 0);
    assert_eq!(handle.wake(Tags::ALL).wait(), Ok(Woken { asleep: false }));
    if let Some(second) = second {
        assert_eq!(second.wait().ids, expected[1]);
    }
}

#[test]
fn transitions_are_counted_with_the_bytes_that_moved() {
    let model = tiny();
    let handle = start(&model, &Run::on_two_ranks(&model));
    let awake: u64 = Account::ALL
        .iter()
        .map(|account| held(&handle, *account))
        .sum();
    let weights = held(&handle, Account::Weights);
    sleep_and_wake(&handle, SleepLevel::One, &[Tags::ALL]);
    sleep_and_wake(&handle, SleepLevel::Two, &[WEIGHTS, KV_CACHE]);
    let transitions = handle.stats().transitions;
    let sleep = transitions[Transition::Sleep as usize];
    let wake = transitions[Transition::Wake as usize];
    assert_eq!((sleep.done, sleep.failed), (2, 0));
    assert_eq!((wake.done, wake.failed), (3, 0));
    assert_eq!(sleep.given_back_bytes, awake - weights + awake);
    assert_eq!(wake.taken_bytes, sleep.given_back_bytes);
    assert_eq!(wake.times.iter().sum::<u64>(), 3);
    let now: u64 = Account::ALL
        .iter()
        .map(|account| held(&handle, *account))
        .sum();
    assert_eq!(now, awake);
}

/// By the kernel's own figures.
#[test]
fn cycles_leave_no_byte_behind_and_none_is_missing() {
    let model = tiny();
    let handle = start(&model, &Run::on_two_ranks(&model));
    let driver = || -> Vec<u64> {
        let ranks = handle.memory().ranks;
        ranks.iter().map(|rank| rank.driver.get()).collect()
    };
    let awake = driver();
    let expected = ask_ids(&handle, 1, &[3, 4, 5], 40).wait().ids;
    for cycle in 0..30 {
        assert_eq!(handle.sleep(SleepLevel::Two, Abort).wait(), Ok(()));
        assert_eq!(driver(), [0, 0], "cycle {cycle}");
        assert_eq!(handle.wake(Tags::ALL).wait(), Ok(Woken { asleep: false }));
        assert_eq!(driver(), awake, "cycle {cycle}");
        assert_eq!(ask_ids(&handle, 2, &[3, 4, 5], 40).wait().ids, expected);
    }
}
