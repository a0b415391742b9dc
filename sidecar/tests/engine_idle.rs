//! Sleep by the engine's own clock, and requests that wake it: who sleeps when, who wakes whom, and
//! that nobody's request is lost. The clock is let run ahead; nothing waits for it.
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]

mod harness;

use std::time::Duration;

use harness::sent::{file, send};
use harness::{Dice, Run, ask_ids, eventually, halves, request, start, tiny, wait_for};
use plimsoll_sidecar::engine::clock::IdlePolicy;
use plimsoll_sidecar::engine::control::{Commands, Woken};
use plimsoll_sidecar::engine::handle::{EngineHandle, EngineState};
use plimsoll_sidecar::engine::request::{FinishReason, Refused};
use plimsoll_sidecar::engine::rest::{Cause, PauseMode, SleepLevel, Tags, Transition};

const PROMPT: [u32; 5] = [3, 4, 5, 6, 7];
const HOUR: Duration = Duration::from_secs(3600);
const AWAKE: Woken = Woken { asleep: false };

fn engine(wake_on_request: bool) -> EngineHandle {
    let model = tiny();
    let run = Run {
        shards: halves(&model),
        block_size: 4,
        max_waiting: 64,
        ..Run::whole(&model.shape)
    };
    let handle = start(&model, &run);
    handle.follow(IdlePolicy {
        after: Some((HOUR, SleepLevel::One)),
        wake_on_request,
    });
    handle
}

fn said(handle: &EngineHandle, tokens: u32) -> Vec<u32> {
    ask_ids(handle, 999, &PROMPT, tokens).wait().ids
}

/// Until it sleeps: the clock may begin anew a moment after whoever asked was answered.
fn doze(handle: &EngineHandle) {
    eventually("a sleep", || {
        handle.skip(HOUR);
        handle.state() == EngineState::Asleep
    });
}

/// How often it went to sleep and woke.
fn moves(handle: &EngineHandle) -> (u64, u64) {
    let stats = handle.stats();
    let done = |kind: Transition| stats.transitions[kind as usize].done;
    (done(Transition::Sleep), done(Transition::Wake))
}

/// Lets the loop go round, with commands that change nothing but the clock.
fn looks(handle: &EngineHandle) {
    assert!(handle.check_weights().wait().is_ok());
}

#[test]
fn it_falls_asleep_after_its_time_without_requests_and_commands_and_not_before() {
    let handle = engine(false);
    let expected = said(&handle, 20);
    handle.skip(HOUR * 3 / 4);
    looks(&handle);
    assert_eq!(handle.state(), EngineState::Serving);
    // That was a command: the clock began anew.
    handle.skip(HOUR * 3 / 4);
    assert_eq!(said(&handle, 20), expected);
    handle.skip(HOUR * 3 / 4);
    looks(&handle);
    assert_eq!(moves(&handle), (0, 0));
    doze(&handle);
    let rest = handle.rest();
    assert_eq!(
        (rest.level, rest.cause, rest.reachable),
        (Some(SleepLevel::One), Some(Cause::Idle), false)
    );
    let causes = handle.stats().transitions[Transition::Sleep as usize].causes;
    assert_eq!(causes[Cause::Idle as usize], 1);
    assert_eq!(
        handle.submit(request(1, &[1], 1).0),
        Err(Refused::Asleep),
        "nothing said that a request may wake it"
    );
    assert_eq!(handle.wake(Tags::ALL).wait(), Ok(AWAKE));
    assert_eq!(said(&handle, 20), expected);
    // Woken by hand it goes by its clock again.
    doze(&handle);
    assert_eq!(moves(&handle), (2, 1));
}

#[test]
fn a_storm_of_requests_makes_one_wake_and_all_are_answered() {
    let handle = engine(true);
    let expected = said(&handle, 12);
    for round in 1..=3 {
        doze(&handle);
        assert!(handle.rest().reachable);
        let storm: Vec<_> = std::thread::scope(|scope| {
            let ask = |id| {
                scope.spawn({
                    let handle = &handle;
                    move || ask_ids(handle, id, &PROMPT, 12)
                })
            };
            let all: Vec<_> = (0..40).map(ask).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        for one in storm {
            assert_eq!(one.wait().ids, expected);
        }
        assert_eq!(moves(&handle), (round, round));
        assert_eq!(handle.rest().weights_verified, Some(true));
        let causes = handle.stats().transitions[Transition::Wake as usize].causes;
        assert_eq!(causes[Cause::Request as usize], round);
    }
}

#[test]
fn who_waits_for_a_wake_counts_against_the_queue() {
    let handle = engine(true);
    doze(&handle);
    let mut refused = 0;
    for id in 0..200 {
        let (request, _events) = request(id, &PROMPT, 1);
        match handle.submit(request) {
            Ok(()) => {}
            Err(Refused::QueueFull { limit: 64, .. }) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    // None of them reads: each ends as one that hung up.
    wait_for(&handle, |state| *state == EngineState::Serving);
    assert!(refused < 200);
    eventually("all are gone", || handle.stats().waiting == 0);
}

#[test]
fn a_long_stream_is_no_idleness_however_late_it_gets() {
    let handle = engine(true);
    let expected = said(&handle, 400);
    let long = ask_ids(&handle, 1, &PROMPT, 400);
    let mut heard = 0;
    while heard < 350 {
        handle.skip(HOUR * 2);
        heard = long.events();
        assert_ne!(handle.state(), EngineState::Asleep);
        std::thread::yield_now();
    }
    assert_eq!(long.wait().ids, expected);
    assert_eq!(moves(&handle), (0, 0));
}

#[test]
fn a_paused_engine_never_falls_asleep_and_is_not_woken_by_requests() {
    let handle = engine(true);
    let expected = said(&handle, 9);
    assert_eq!(handle.pause(PauseMode::Keep, false).wait(), Ok(()));
    let held = ask_ids(&handle, 1, &PROMPT, 9);
    handle.skip(HOUR * 24);
    looks(&handle);
    assert_eq!(
        (handle.state(), moves(&handle)),
        (EngineState::Paused, (0, 0))
    );
    assert_eq!(handle.resume().wait(), Ok(()));
    assert_eq!(held.wait().ids, expected);
    doze(&handle);
    assert_eq!(handle.pause(PauseMode::Keep, false).wait(), Ok(()));
    assert!(!handle.rest().reachable);
    assert_eq!(handle.submit(request(2, &[1], 1).0), Err(Refused::Asleep));
    assert_eq!(handle.resume().wait(), Ok(()));
    assert_eq!(said(&handle, 9), expected);
}

/// Who has the memory keeps it: no request takes it away from a trainer.
#[test]
fn a_sleep_by_hand_is_ended_by_no_request_whoever_else_asked_for_it() {
    let handle = engine(true);
    let expected = said(&handle, 9);
    let (by_hand, keep) = (Cause::Hand, PauseMode::Keep);
    let refused = |handle: &EngineHandle, what: &str| {
        let rest = handle.rest();
        assert_eq!(
            (rest.cause, rest.reachable),
            (Some(by_hand), false),
            "{what}"
        );
        let answer = handle.submit(request(2, &[1], 1).0);
        assert_eq!(answer, Err(Refused::Asleep), "{what}");
    };
    let awake = |handle: &EngineHandle| {
        assert_eq!(handle.wake(Tags::ALL).wait(), Ok(AWAKE));
        assert_eq!(said(handle, 9), expected);
    };
    assert_eq!(handle.sleep(SleepLevel::One, keep).wait(), Ok(()));
    refused(&handle, "awake before");
    let told = handle.sleep_for(Cause::Target, SleepLevel::Two, keep);
    assert_eq!(told.wait(), Ok(()));
    refused(&handle, "told to sleep, too");
    awake(&handle);
    doze(&handle);
    assert_eq!(handle.sleep(SleepLevel::One, keep).wait(), Ok(()));
    refused(&handle, "asleep before by its clock");
    awake(&handle);
    let told = handle.sleep_for(Cause::Target, SleepLevel::Two, keep);
    assert_eq!(told.wait(), Ok(()));
    let weights = Tags {
        weights: true,
        kv_cache: false,
    };
    assert_eq!(handle.wake(weights).wait(), Ok(Woken { asleep: true }));
    refused(&handle, "in the middle of a wake by hand");
    awake(&handle);
    assert_eq!(handle.pause(keep, false).wait(), Ok(()));
    assert_eq!(handle.release_kv_cache().wait(), Ok(()));
    assert_eq!(handle.resume().wait(), Ok(()));
    refused(&handle, "the cache was released by hand");
    awake(&handle);
    // Its own clock goes on after all that.
    doze(&handle);
    assert!(handle.rest().reachable);
}

/// Who pushes weights into a sleeper has its memory until that is over.
#[test]
fn while_weights_are_pushed_it_neither_falls_asleep_nor_wakes_for_a_request() {
    let handle = engine(true);
    let expected = said(&handle, 9);
    let opened = || handle.open_push(false, PauseMode::Keep).wait();
    let ended = || handle.abandon_push("it came to nothing".to_owned()).wait();
    assert_eq!(opened(), Ok(()));
    handle.skip(HOUR * 24);
    looks(&handle);
    assert_eq!(moves(&handle), (0, 0));
    assert!(ended().is_ok());
    doze(&handle);
    assert_eq!(opened(), Ok(()));
    assert!(!handle.rest().reachable);
    assert_eq!(handle.submit(request(2, &[1], 1).0), Err(Refused::Asleep));
    assert!(ended().is_ok());
    assert!(handle.rest().reachable);
    assert_eq!(said(&handle, 9), expected);
}

#[test]
fn its_clock_keeps_weights_that_were_pushed_whatever_its_level() {
    let handle = engine(true);
    handle.follow(IdlePolicy {
        after: Some((HOUR, SleepLevel::Two)),
        wake_on_request: true,
    });
    let expected = said(&handle, 9);
    doze(&handle);
    assert_eq!(handle.rest().level, Some(SleepLevel::Two));
    assert_eq!(said(&handle, 9), expected);
    assert_eq!(handle.open_push(true, PauseMode::Keep).wait(), Ok(()));
    let needed = handle.pushable().needed().iter();
    let pushed = file(&*tiny().tensors, needed.map(String::as_str));
    send(&handle, &pushed, &mut Dice(7)).unwrap();
    assert!(handle.close_push(None).wait().is_ok());
    doze(&handle);
    assert_eq!(handle.rest().level, Some(SleepLevel::One));
    assert_eq!(said(&handle, 9), expected);
}

#[test]
fn a_sleep_that_the_target_asks_for_ends_with_a_request_only_where_it_says_so() {
    for level in [SleepLevel::One, SleepLevel::Two] {
        let handle = engine(true);
        let expected = said(&handle, 9);
        let told = handle.sleep_for(Cause::Target, level, PauseMode::Keep);
        assert_eq!(told.wait(), Ok(()));
        assert_eq!(handle.rest().cause, Some(Cause::Target));
        assert_eq!(said(&handle, 9), expected);
        // And again when it idles.
        doze(&handle);
        assert_eq!(handle.wake(Tags::ALL).wait(), Ok(AWAKE));
        handle.follow(IdlePolicy::default());
        let told = handle.sleep_for(Cause::Target, level, PauseMode::Keep);
        assert_eq!(told.wait(), Ok(()));
        assert_eq!(handle.submit(request(2, &[1], 1).0), Err(Refused::Asleep));
        handle.skip(HOUR * 9);
        assert_eq!(moves(&handle), (3, 2));
    }
}

#[test]
fn a_target_that_sleeps_through_a_request_keeps_its_tokens() {
    let handle = engine(true);
    let expected = said(&handle, 200);
    for id in 0..5 {
        let running = ask_ids(&handle, id, &PROMPT, 200);
        running.wait_for(1 + 7 * usize::try_from(id).unwrap());
        let told = handle.sleep_for(Cause::Target, SleepLevel::One, PauseMode::Keep);
        let racing = ask_ids(&handle, 100 + id, &PROMPT, 200);
        assert_eq!(told.wait(), Ok(()));
        assert_eq!(running.wait().ids, expected);
        assert_eq!(racing.wait().ids, expected);
    }
}

/// The clock strikes while requests come: each is refused, or answered in full.
#[test]
fn no_request_is_lost_in_the_moment_of_falling_asleep() {
    for wakes in [false, true] {
        let handle = engine(wakes);
        let expected = said(&handle, 3);
        let (mut answered, mut refused) = (0, 0);
        for id in 0..150 {
            let answer = std::thread::scope(|scope| {
                scope.spawn(|| handle.skip(HOUR));
                let (request, events) = request(id, &PROMPT, 3);
                handle.submit(request).map(|()| events)
            });
            match answer {
                Ok(mut events) => {
                    let mut count = 0;
                    while events.blocking_recv().is_some() {
                        count += 1;
                    }
                    assert_eq!(count, expected.len() + 1);
                    answered += 1;
                }
                Err(Refused::Asleep) => {
                    refused += 1;
                    assert_eq!(handle.wake(Tags::ALL).wait(), Ok(AWAKE));
                }
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(answered + refused, 150);
        assert!(!wakes || refused == 0, "{refused} of 150 refused");
    }
}

#[test]
fn who_hangs_up_or_drains_while_it_wakes_ends_as_ever() {
    let handle = engine(true);
    doze(&handle);
    let gone = ask_ids(&handle, 1, &PROMPT, 400);
    handle.cancel(1);
    assert_eq!(gone.wait().finished.unwrap().reason, FinishReason::Abort);
    doze(&handle);
    let last = ask_ids(&handle, 2, &PROMPT, 20);
    handle.drain();
    let reason = last.wait().finished.unwrap().reason;
    assert!(
        matches!(reason, FinishReason::Length | FinishReason::Abort),
        "{reason:?}"
    );
    wait_for(&handle, |state| *state == EngineState::Drained);
    assert_eq!(handle.submit(request(3, &[1], 1).0), Err(Refused::Draining));
}

#[test]
fn a_drained_sleeper_is_not_woken_and_an_idle_clock_does_not_hold_it_up() {
    let handle = engine(true);
    doze(&handle);
    handle.drain();
    wait_for(&handle, |state| *state == EngineState::Drained);
    assert_eq!(moves(&handle), (1, 0));
    assert_eq!(handle.submit(request(3, &[1], 1).0), Err(Refused::Draining));
}
