//! Other weights while the engine runs: answers are those of an engine that was started on them, and no
//! request, block or rank ever mixes two sets.
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]

mod harness;

use std::sync::Arc;

use harness::altered::Altered;
use harness::{Answered, Run, ask_ids, eventually, open, request, start, start_unloaded, tiny};
use plimsoll_sidecar::engine::control::{Commands, ControlError, Woken};
use plimsoll_sidecar::engine::handle::{EngineHandle, EngineState};
use plimsoll_sidecar::engine::request::FinishReason;
use plimsoll_sidecar::engine::rest::PauseMode::{Abort, Keep, Wait};
use plimsoll_sidecar::engine::rest::{SleepLevel, Tags, Transition};
use plimsoll_sidecar::engine::weights::Updated;

const AWAKE: Result<Woken, ControlError> = Ok(Woken { asleep: false });

fn engine() -> EngineHandle {
    let model = tiny();
    start(&model, &Run::on_two_ranks(&model))
}

fn prompt() -> Vec<u32> {
    (3..53).collect()
}

fn said(handle: &EngineHandle, prompt: &[u32], count: u32) -> Answered {
    ask_ids(handle, 1, prompt, count).wait()
}

/// What an engine says that was started on this folder.
fn started_on(folder: &Altered, prompt: &[u32], count: u32) -> Vec<u32> {
    let model = open(folder.path());
    said(&start(&model, &Run::on_two_ranks(&model)), prompt, count).ids
}

fn update(handle: &EngineHandle, folder: &Altered, version: &str) -> Result<Updated, ControlError> {
    let weights = handle.open_weights(folder.path()).unwrap();
    let version = Some(version.to_owned());
    handle.update(Arc::new(weights), version, Keep).wait()
}

#[test]
fn after_an_update_answers_are_those_of_an_engine_started_on_the_folder_and_back_again() {
    let (other, same) = (Altered::other(), Altered::copy());
    let handle = engine();
    assert_eq!(handle.weights().version, "default");
    let old = said(&handle, &prompt(), 30).ids;
    let new = started_on(&other, &prompt(), 30);
    assert_ne!(old, new, "weights that change no answer prove nothing");
    let cached = |answered: &Answered| answered.finished.as_ref().unwrap().cached_tokens;
    for (folder, version, expected) in
        [(&other, "2", &new), (&same, "3", &old), (&other, "2", &new)]
    {
        assert!(cached(&said(&handle, &prompt(), 1)) > 0, "before {version}");
        let updated = update(&handle, folder, version);
        let version = version.to_owned();
        assert_eq!(
            updated,
            Ok(Updated {
                version: version.clone(),
                held: 0
            })
        );
        assert_eq!(handle.state(), EngineState::Serving);
        assert_eq!(handle.weights().version, version);
        let first = said(&handle, &prompt(), 30);
        assert_eq!(cached(&first), 0, "a block of older weights was used");
        assert_eq!(first.ids, *expected, "version {version}");
        // What a wake reads and proves are the new ones.
        for level in [SleepLevel::One, SleepLevel::Two] {
            assert_eq!(handle.sleep(level, Abort).wait(), Ok(()));
            assert_eq!(handle.wake(Tags::ALL).wait(), AWAKE);
            assert_eq!(said(&handle, &prompt(), 30).ids, *expected, "{level:?}");
        }
    }
    // Their own files again: a name that nobody gave stays.
    let own = handle.open_weights(&handle.weights().path).unwrap();
    assert_eq!(own.path, other.path());
    let reloaded = handle.update(Arc::new(own), None, Keep).wait();
    assert_eq!(reloaded.unwrap().version, "2");
    assert_eq!(said(&handle, &prompt(), 30).ids, new);
    let counts = handle.stats().transitions[Transition::Update as usize];
    assert_eq!((counts.done, counts.failed), (4, 0));
}

#[test]
fn a_kept_request_goes_on_with_the_new_weights_from_the_token_where_it_was_held() {
    let other = Altered::other();
    let handle = engine();
    let old = said(&handle, &prompt(), 200).ids;
    let answer = ask_ids(&handle, 2, &prompt(), 200);
    answer.wait_for(5);
    assert_eq!(handle.pause(Keep, false).wait(), Ok(()));
    let before = answer.events();
    assert!(before < 200, "it had ended");
    let newcomer = ask_ids(&handle, 3, &prompt(), 20);
    let held = 2;
    assert_eq!(update(&handle, &other, "2").unwrap().held, held);
    assert_eq!(handle.state(), EngineState::Paused, "as it was");
    assert_eq!(handle.resume().wait(), Ok(()));
    let answered = answer.wait();
    assert_eq!(answered.ids[..before], old[..before]);
    let so_far = [&prompt()[..], &old[..before]].concat();
    let rest = 200 - u32::try_from(before).unwrap();
    assert_eq!(answered.ids[before..], started_on(&other, &so_far, rest));
    assert_eq!(answered.finished.unwrap().reason, FinishReason::Length);
    assert_eq!(newcomer.wait().ids, started_on(&other, &prompt(), 20));
}

#[test]
fn an_update_waits_for_requests_or_ends_them_as_it_is_told() {
    let (other, same) = (Altered::other(), Altered::copy());
    let handle = engine();
    let old = said(&handle, &prompt(), 150).ids;
    let answer = ask_ids(&handle, 2, &prompt(), 150);
    answer.wait_for(1);
    let weights = Arc::new(handle.open_weights(other.path()).unwrap());
    let waited = handle.update(weights, None, Wait);
    assert_eq!(answer.wait().ids, old);
    assert_eq!(waited.wait().unwrap().held, 0);
    let answer = ask_ids(&handle, 3, &prompt(), 400);
    answer.wait_for(1);
    let weights = Arc::new(handle.open_weights(same.path()).unwrap());
    assert_eq!(handle.update(weights, None, Abort).wait().unwrap().held, 0);
    assert_eq!(answer.wait().finished.unwrap().reason, FinishReason::Abort);
    assert_eq!(said(&handle, &prompt(), 150).ids, old);
}

#[test]
fn updates_at_once_come_one_after_the_other() {
    let (other, same) = (Altered::other(), Altered::copy());
    let handle = engine();
    let answer = ask_ids(&handle, 2, &prompt(), 300);
    let replies: Vec<_> = [(&same, "1"), (&other, "2"), (&same, "3"), (&other, "4")]
        .into_iter()
        .map(|(folder, version)| {
            let weights = Arc::new(handle.open_weights(folder.path()).unwrap());
            handle.update(weights, Some(version.to_owned()), Keep)
        })
        .collect();
    for (version, reply) in (1..).zip(replies) {
        assert_eq!(reply.wait().unwrap().version, version.to_string());
    }
    assert_eq!(answer.wait().ids.len(), 300);
    assert_eq!(
        said(&handle, &prompt(), 30).ids,
        started_on(&other, &prompt(), 30)
    );
    assert_eq!(handle.weights().version, "4");
}

#[test]
fn weights_that_are_away_are_read_from_the_folder_and_without_the_cache_the_wake_probes() {
    let (other, wrong) = (Altered::other(), Altered::of(3.0e38));
    let handle = engine();
    let new = started_on(&other, &prompt(), 30);
    assert_eq!(handle.sleep(SleepLevel::Two, Abort).wait(), Ok(()));
    let weights = Tags {
        weights: true,
        kv_cache: false,
    };
    let kv_cache = Tags {
        weights: false,
        kv_cache: true,
    };
    assert!(update(&handle, &other, "2").is_ok());
    assert_eq!(handle.wake(weights).wait(), Ok(Woken { asleep: true }));
    assert!(update(&handle, &other, "2").is_ok());
    assert_eq!(
        handle.state(),
        EngineState::Asleep,
        "the cache is still away"
    );
    assert_eq!(handle.wake(kv_cache).wait(), AWAKE);
    assert_eq!(said(&handle, &prompt(), 30).ids, new);
    // A level 1 sleep keeps the weights; what cannot answer is found by the wake.
    assert_eq!(handle.sleep(SleepLevel::One, Abort).wait(), Ok(()));
    assert!(update(&handle, &wrong, "3").is_ok());
    for _ in 0..2 {
        let ControlError::NotWoken { message } = handle.wake(Tags::ALL).wait().unwrap_err() else {
            panic!("it failed otherwise");
        };
        assert!(message.contains("not numbers"), "{message}");
        assert_eq!(handle.state(), EngineState::Asleep);
    }
    assert!(update(&handle, &other, "4").is_ok());
    assert_eq!(
        handle.state(),
        EngineState::Serving,
        "the wake has come to its end"
    );
    assert_eq!(handle.rest().trouble, "");
    assert_eq!(said(&handle, &prompt(), 30).ids, new);
}

#[test]
fn an_engine_that_loads_or_drains_is_not_updated() {
    let other = Altered::other();
    let (hold, go) = std::sync::mpsc::channel::<()>();
    let go = std::sync::Mutex::new(go);
    let model = harness::watched::watched(move |_, _| {
        let _ = go.lock().unwrap().recv();
        Ok(())
    });
    let handle = start_unloaded(&model, &Run::on_two_ranks(&model));
    assert_eq!(update(&handle, &other, "2"), Err(ControlError::Loading));
    drop(hold);
    eventually("a load", || handle.state() == EngineState::Serving);
    let (asked, mut events) = request(1, &prompt(), 400);
    handle.submit(asked).unwrap();
    handle.drain();
    eventually("a drain", || handle.state() != EngineState::Serving);
    let updated = update(&handle, &other, "2");
    assert!(
        matches!(updated, Err(ControlError::Draining | ControlError::Ended)),
        "{updated:?}"
    );
    while events.blocking_recv().is_some() {}
    assert_eq!(handle.weights().version, "default");
}
