//! Pausing and going on: what becomes of requests, mode by mode; what is kept says what it would have
//! said undisturbed, and nothing is computed meanwhile.
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]

mod harness;

use harness::{Run, ask_ids, eventually, halves, score, start, tiny, wait_for};
use plimsoll_sidecar::engine::control::{Commands, ControlError};
use plimsoll_sidecar::engine::handle::{EngineHandle, EngineState};
use plimsoll_sidecar::engine::request::FinishReason;
use plimsoll_sidecar::engine::rest::PauseMode::{Abort, Keep, Wait};

const PROMPT: [u32; 5] = [3, 4, 5, 6, 7];
const OTHER: [u32; 4] = [9, 8, 7, 6];

fn engine() -> EngineHandle {
    let model = tiny();
    let run = Run {
        shards: halves(&model),
        block_size: 4,
        ..Run::whole(&model.shape)
    };
    start(&model, &run)
}

/// What the prompt is answered undisturbed.
fn alone(handle: &EngineHandle, prompt: &[u32], tokens: u32) -> Vec<u32> {
    ask_ids(handle, 999, prompt, tokens).wait().ids
}

#[test]
fn what_is_kept_goes_on_where_it_was_and_what_comes_meanwhile_is_held() {
    let handle = engine();
    let expected = [alone(&handle, &PROMPT, 300), alone(&handle, &OTHER, 20)];
    for clear_cache in [false, true] {
        let before = handle.stats();
        let first = ask_ids(&handle, 1, &PROMPT, 300);
        first.wait_for(5);
        assert_eq!(handle.pause(Keep, clear_cache).wait(), Ok(()));
        assert_eq!(handle.state(), EngineState::Paused);
        assert!(handle.rest().paused);
        let (steps, said) = (handle.stats().steps, first.events());
        assert!(said < 300, "it was over already");
        let second = ask_ids(&handle, 2, &OTHER, 20);
        // Commands are carried out, and each makes the loop go round once.
        for _ in 0..5 {
            assert_eq!(handle.pause(Keep, false).wait(), Ok(()), "twice is once");
            assert_eq!(handle.check_weights().wait().unwrap().len(), 2);
        }
        let stats = handle.stats();
        assert_eq!(
            (stats.steps, first.events(), second.events()),
            (steps, said, 0)
        );
        let held = if clear_cache { (0, 2) } else { (1, 1) };
        assert_eq!((stats.running, stats.waiting), held);
        let preempted = stats.preemptions - before.preemptions;
        assert_eq!(preempted, u64::from(clear_cache));
        assert_eq!(stats.kv_usage > 0.0, !clear_cache);
        assert_eq!(handle.resume().wait(), Ok(()));
        assert!(!handle.rest().paused);
        let answers = [first.wait(), second.wait()];
        for (answer, expected) in answers.iter().zip(&expected) {
            assert_eq!(&answer.ids, expected, "cleared: {clear_cache}");
        }
        assert_eq!(handle.state(), EngineState::Serving);
        assert_eq!(handle.resume().wait(), Ok(()), "resumed already");
    }
}

#[test]
fn scores_of_a_prompt_come_once_across_a_pause_that_clears_the_cache() {
    let handle = engine();
    let prompt: Vec<u32> = (3..203).collect();
    let expected = score(&handle, 1, &prompt, 100).wait();
    let answer = score(&handle, 2, &prompt, 100);
    answer.wait_for(3);
    assert_eq!(handle.pause(Keep, true).wait(), Ok(()));
    assert_eq!(handle.resume().wait(), Ok(()));
    let answer = answer.wait();
    assert_eq!(answer.ids, expected.ids);
    assert_eq!(answer.prompt, expected.prompt);
    assert!(answer.finished.unwrap().preemptions > 0);
}

#[test]
fn who_was_there_is_finished_first_and_a_second_pause_waits_for_that() {
    let handle = engine();
    let expected = alone(&handle, &PROMPT, 200);
    let other = alone(&handle, &OTHER, 20);
    let first = ask_ids(&handle, 1, &PROMPT, 200);
    first.wait_for(1);
    let waiting = handle.pause(Wait, false);
    let mut aborting = handle.pause(Abort, false);
    let second = ask_ids(&handle, 2, &OTHER, 20);
    if first.events() < 200 {
        assert!(
            aborting.poll().is_none(),
            "it passed one that came before it"
        );
    }
    assert_eq!(first.wait().ids, expected);
    assert_eq!(waiting.wait(), Ok(()));
    assert_eq!(aborting.wait(), Ok(()));
    assert_eq!(handle.state(), EngineState::Paused);
    // It came after both, and neither is about it.
    assert_eq!(second.events(), 0);
    assert_eq!(handle.resume().wait(), Ok(()));
    assert_eq!(second.wait().ids, other);
    assert_eq!(alone(&handle, &PROMPT, 200), expected);
}

#[test]
fn who_comes_while_others_are_finished_is_held() {
    let handle = engine();
    let other = alone(&handle, &OTHER, 20);
    let first = ask_ids(&handle, 1, &PROMPT, 400);
    first.wait_for(1);
    let pause = handle.pause(Wait, false);
    let second = ask_ids(&handle, 2, &OTHER, 20);
    assert_eq!(pause.wait(), Ok(()));
    assert_eq!(first.wait().ids.len(), 400);
    assert_eq!(second.events(), 0, "it ran in the time of the first");
    assert_eq!(handle.resume().wait(), Ok(()));
    assert_eq!(second.wait().ids, other);
}

#[test]
fn a_pause_that_waits_ends_with_what_it_waits_for_when_that_is_aborted() {
    let handle = engine();
    let answer = ask_ids(&handle, 1, &PROMPT, 500);
    answer.wait_for(1);
    let pause = handle.pause(Wait, true);
    assert_eq!(handle.abort(Some(&[1, 77])), 1);
    assert_eq!(handle.abort(None), 0, "once");
    assert_eq!(pause.wait(), Ok(()));
    assert_eq!(answer.wait().finished.unwrap().reason, FinishReason::Abort);
    let stats = handle.stats();
    assert_eq!((stats.running, stats.waiting, stats.kv_usage), (0, 0, 0.0));
}

#[test]
fn aborted_requests_end_at_once_and_leave_no_block() {
    let handle = engine();
    let answers: Vec<_> = (0..20)
        .map(|id| ask_ids(&handle, id, &PROMPT, 500))
        .collect();
    answers[0].wait_for(1);
    assert_eq!(handle.pause(Abort, true).wait(), Ok(()));
    let stats = handle.stats();
    assert_eq!((stats.running, stats.waiting, stats.kv_usage), (0, 0, 0.0));
    for answer in answers {
        assert_eq!(answer.wait().finished.unwrap().reason, FinishReason::Abort);
    }
    assert_eq!(
        handle.memory().kv.blocks_cached,
        0,
        "prefixes are forgotten"
    );
}

#[test]
fn a_held_request_whose_client_leaves_is_freed() {
    let handle = engine();
    let first = ask_ids(&handle, 1, &PROMPT, 500);
    first.wait_for(1);
    assert_eq!(handle.pause(Keep, false).wait(), Ok(()));
    let second = ask_ids(&handle, 2, &OTHER, 500);
    eventually("a held request", || handle.stats().waiting == 1);
    handle.cancel(1);
    handle.cancel(2);
    eventually("no request", || {
        let stats = handle.stats();
        (stats.running, stats.waiting, stats.kv_usage) == (0, 0, 0.0)
    });
    drop((first, second));
    assert_eq!(handle.state(), EngineState::Paused);
}

#[test]
fn a_paused_engine_drains_what_it_holds_and_stops() {
    for drains in [true, false] {
        let handle = engine();
        let expected = alone(&handle, &PROMPT, 300);
        let answer = ask_ids(&handle, 1, &PROMPT, 300);
        answer.wait_for(1);
        assert_eq!(handle.pause(Keep, true).wait(), Ok(()));
        match drains {
            true => handle.drain(),
            false => handle.stop(),
        }
        let answer = answer.wait();
        assert_eq!(answer.ids == expected, drains);
        wait_for(&handle, |state| *state == EngineState::Drained);
        assert_eq!(handle.resume().wait(), Err(ControlError::Ended));
    }
}

#[test]
fn a_pause_that_waits_is_told_of_the_drain() {
    let handle = engine();
    let answer = ask_ids(&handle, 1, &PROMPT, 500);
    answer.wait_for(1);
    let pause = handle.pause(Wait, false);
    let behind = handle.pause(Keep, false);
    handle.drain();
    assert_eq!(pause.wait(), Err(ControlError::Draining));
    let late = behind.wait();
    assert!(
        matches!(late, Err(ControlError::Draining | ControlError::Ended)),
        "{late:?}"
    );
    assert_eq!(answer.wait().ids.len(), 500);
    wait_for(&handle, |state| *state == EngineState::Drained);
}

#[test]
fn prefixes_are_forgotten_on_request_and_running_requests_go_on() {
    let handle = engine();
    let expected = alone(&handle, &PROMPT, 300);
    for running in [false, true] {
        let answer = ask_ids(&handle, 1, &PROMPT, 300);
        answer.wait_for(5);
        assert_eq!(handle.reset_prefix_cache(running).wait(), Ok(()));
        let answer = answer.wait();
        assert_eq!(answer.ids, expected);
        assert_eq!(answer.finished.unwrap().preemptions > 0, running);
        assert_eq!(handle.reset_prefix_cache(running).wait(), Ok(()));
        assert_eq!(handle.memory().kv.blocks_cached, 0);
    }
}
