//! Sleeps that meet something else: loads, drains, ends, repeats, what cannot be, sources that fail or
//! changed.
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]

mod harness;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use harness::altered::Altered;
use harness::watched::{Block, alterable, misread, watched};
use harness::{Run, ask_ids, eventually, open, request, start, start_unloaded, tiny, wait_for};
use plimsoll_planner::Account;
use plimsoll_sidecar::engine::control::{Commands, ControlError, Woken};
use plimsoll_sidecar::engine::handle::{EngineHandle, EngineState};
use plimsoll_sidecar::engine::request::{FinishReason, Refused};
use plimsoll_sidecar::engine::rest::PauseMode::{Abort, Keep};
use plimsoll_sidecar::engine::rest::{SleepLevel, Tags, Transition};
use plimsoll_sidecar::model::ModelError;
use plimsoll_sidecar::weights::TensorSource;

const AWAKE: Result<Woken, ControlError> = Ok(Woken { asleep: false });

fn engine() -> EngineHandle {
    let model = tiny();
    start(&model, &Run::on_two_ranks(&model))
}

fn weights_held(handle: &EngineHandle) -> Vec<u64> {
    let ranks = handle.memory().ranks;
    let weights = |rank: &plimsoll_sidecar::memory::snapshot::RankLedger| {
        let rows = rank.accounts.iter();
        rows.filter(|row| row.account == Account::Weights)
            .map(|row| row.reserved.get())
            .sum()
    };
    ranks.iter().map(weights).collect()
}

#[test]
fn an_engine_that_loads_sleeps_later() {
    let (open, go) = std::sync::mpsc::channel::<()>();
    let go = std::sync::Mutex::new(go);
    let model = watched(move |_, _| {
        let _ = go.lock().unwrap().recv();
        Ok(())
    });
    let handle = start_unloaded(&model, &Run::on_two_ranks(&model));
    let sleep = || handle.sleep(SleepLevel::One, Abort).wait();
    assert_eq!(sleep(), Err(ControlError::Loading));
    assert_eq!(handle.wake(Tags::ALL).wait(), Err(ControlError::Loading));
    assert_eq!(handle.release_kv_cache().wait(), Err(ControlError::Loading));
    drop(open);
    wait_for(&handle, |state| *state == EngineState::Serving);
    assert_eq!(sleep(), Ok(()));
}

#[test]
fn waking_who_is_awake_and_checking_who_sleeps() {
    let handle = engine();
    assert_eq!(handle.wake(Tags::ALL).wait(), AWAKE);
    let refused = handle.release_kv_cache().wait().unwrap_err();
    assert!(matches!(&refused, ControlError::WrongState { message } if message.contains("/pause")));
    assert_eq!(handle.sleep(SleepLevel::Two, Abort).wait(), Ok(()));
    let unchecked = handle.check_weights().wait().unwrap_err();
    assert!(
        matches!(unchecked, ControlError::WrongState { .. }),
        "{unchecked}"
    );
    assert_eq!(handle.submit(request(1, &[1], 1).0), Err(Refused::Asleep));
    assert_eq!(handle.pause(Keep, false).wait(), Ok(()));
    let refused = handle.release_kv_cache().wait().unwrap_err();
    assert!(
        matches!(&refused, ControlError::WrongState { message } if message.contains("/wake_up"))
    );
    // A lower level takes nothing back.
    assert_eq!(handle.sleep(SleepLevel::Zero, Abort).wait(), Ok(()));
    assert_eq!(weights_held(&handle), [0, 0]);
    assert_eq!(handle.rest().level, Some(SleepLevel::Two));
    assert_eq!(handle.wake(Tags::ALL).wait(), AWAKE);
    assert_eq!(handle.state(), EngineState::Paused, "the pause is not over");
    assert_eq!(handle.resume().wait(), Ok(()));
    assert_eq!(handle.check_weights().wait().unwrap().len(), 2);
}

#[test]
fn level_zero_only_stops_computing() {
    let handle = engine();
    let answer = ask_ids(&handle, 1, &[3, 4, 5], 300);
    answer.wait_for(1);
    assert_eq!(handle.sleep(SleepLevel::Zero, Keep).wait(), Ok(()));
    assert_eq!(handle.state(), EngineState::Paused);
    assert!(handle.rest().is_sleeping() && !handle.rest().is_out());
    let held = ask_ids(&handle, 2, &[3, 4, 5], 300);
    eventually("a held request", || handle.stats().waiting == 1);
    assert_eq!(handle.wake(Tags::ALL).wait(), AWAKE);
    let (answer, held) = (answer.wait(), held.wait());
    assert_eq!(answer.ids, held.ids);
    assert_eq!(answer.finished.unwrap().preemptions, 0);
}

#[test]
fn a_sleeping_engine_drains_and_stops_and_tells_whom_it_holds() {
    for drains in [true, false] {
        let handle = engine();
        let answer = ask_ids(&handle, 1, &[3, 4, 5], 300);
        answer.wait_for(1);
        assert_eq!(handle.sleep(SleepLevel::Two, Keep).wait(), Ok(()));
        match drains {
            true => handle.drain(),
            false => handle.stop(),
        }
        assert_eq!(answer.wait().finished.unwrap().reason, FinishReason::Abort);
        wait_for(&handle, |state| *state == EngineState::Drained);
        let late = handle.wake(Tags::ALL).wait();
        assert_eq!(late, Err(ControlError::Ended));
    }
}

#[test]
fn a_draining_engine_does_not_go_to_sleep() {
    let handle = engine();
    let answer = ask_ids(&handle, 1, &[3, 4, 5], 400);
    answer.wait_for(1);
    handle.drain();
    let refused = handle.sleep(SleepLevel::One, Abort).wait().unwrap_err();
    assert!(
        matches!(refused, ControlError::Draining | ControlError::Ended),
        "{refused}"
    );
    assert_eq!(answer.wait().ids.len(), 400);
}

#[test]
fn weights_that_stayed_are_not_read_again() {
    let reads = Arc::new(AtomicUsize::new(0));
    let model = watched({
        let reads = Arc::clone(&reads);
        move |_, _| {
            reads.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    });
    let handle = start(&model, &Run::on_two_ranks(&model));
    let loaded = reads.load(Ordering::Relaxed);
    for (level, expected) in [(SleepLevel::One, loaded), (SleepLevel::Two, 2 * loaded)] {
        assert_eq!(handle.sleep(level, Abort).wait(), Ok(()));
        assert_eq!(handle.wake(Tags::ALL).wait(), AWAKE);
        assert_eq!(reads.load(Ordering::Relaxed), expected, "{level:?}");
    }
}

#[test]
fn a_source_that_is_gone_leaves_the_engine_asleep_and_a_wake_can_be_repeated() {
    let gone = Arc::new(AtomicBool::new(false));
    let model = watched({
        let gone = Arc::clone(&gone);
        // Of rank 1 alone: rank 0 has read all of its own and gives it back.
        move |tensor, row| match gone.load(Ordering::Relaxed)
            && tensor.contains("up_proj")
            && row >= 128
        {
            false => Ok(()),
            true => Err(ModelError::InvalidWeights {
                file: "weights".into(),
                message: "the disk is gone".into(),
            }),
        }
    });
    let handle = start(&model, &Run::on_two_ranks(&model));
    let expected = ask_ids(&handle, 1, &[3, 4, 5], 60).wait().ids;
    let kept = ask_ids(&handle, 2, &[3, 4, 5], 60);
    assert_eq!(handle.sleep(SleepLevel::Two, Keep).wait(), Ok(()));
    gone.store(true, Ordering::Relaxed);
    for _ in 0..2 {
        let refused = handle.wake(Tags::ALL).wait().unwrap_err();
        let ControlError::NotWoken { message } = refused else {
            panic!("{refused}");
        };
        assert!(
            message.contains("rank 1") && message.contains("the disk is gone"),
            "{message}"
        );
        assert_eq!(handle.state(), EngineState::Asleep);
        assert_eq!(handle.rest().trouble, message);
        assert_eq!(
            weights_held(&handle),
            [0, 0],
            "what was taken is given back"
        );
    }
    gone.store(false, Ordering::Relaxed);
    assert_eq!(handle.wake(Tags::ALL).wait(), AWAKE);
    assert_eq!(handle.rest().trouble, "");
    assert_eq!(kept.wait().ids, expected);
    let wake = handle.stats().transitions[Transition::Wake as usize];
    assert_eq!((wake.done, wake.failed), (1, 2));
}

#[test]
fn a_weight_that_comes_back_different_keeps_the_engine_out_of_service_by_name() {
    let altered = Arc::new(AtomicBool::new(false));
    let model = alterable("model.layers.1.mlp.down_proj.weight", &altered);
    let handle = start(&model, &Run::on_two_ranks(&model));
    let expected = ask_ids(&handle, 1, &[3, 4, 5], 60).wait().ids;
    assert_eq!(handle.sleep(SleepLevel::Two, Abort).wait(), Ok(()));
    altered.store(true, Ordering::Relaxed);
    let ControlError::NotWoken { message } = handle.wake(Tags::ALL).wait().unwrap_err() else {
        panic!("it woke");
    };
    assert!(
        message.contains("rank 0") && message.contains("own"),
        "{message}"
    );
    assert_eq!(handle.state(), EngineState::Asleep);
    assert_eq!(handle.rest().weights_verified, Some(false));
    assert_eq!(handle.submit(request(2, &[1], 1).0), Err(Refused::Asleep));
    // Another wake reads and proves it again, and nothing has changed.
    assert!(handle.wake(Tags::ALL).wait().is_err());
    altered.store(false, Ordering::Relaxed);
    assert_eq!(handle.wake(Tags::ALL).wait(), AWAKE);
    assert_eq!(handle.rest().weights_verified, Some(true));
    assert_eq!(ask_ids(&handle, 3, &[3, 4, 5], 60).wait().ids, expected);
    let counts = handle.stats().transitions;
    let (sleep, wake) = (Transition::Sleep as usize, Transition::Wake as usize);
    let given_back = counts[sleep].given_back_bytes + counts[wake].given_back_bytes;
    assert_eq!(given_back, counts[wake].taken_bytes);
}

/// Every tensor is read again by a wake of level 2: what one rank gets wrong of one of them is enough.
#[test]
fn a_row_that_is_stale_and_the_shard_of_another_rank_are_named() {
    const DOWN: &str = "model.layers.1.mlp.down_proj.weight";
    const UP: &str = "model.layers.0.mlp.up_proj.weight";
    const STALE: usize = 21;
    let before = open(Altered::other().path());
    let stale = move |now: &dyn TensorSource, name: &str, [rows, cols]: Block, out: &mut [f32]| {
        now.read_block(name, rows.clone(), cols.clone(), out)?;
        if name != DOWN || !rows.contains(&STALE) {
            return Ok(());
        }
        let (from, count) = ((STALE - rows.start) * cols.len(), cols.len());
        let out = &mut out[from..from + count];
        before.tensors.read_block(name, STALE..STALE + 1, cols, out)
    };
    // Rank 1 has the columns from 128 on, and rank 0 as many before it.
    let shard = |now: &dyn TensorSource, name: &str, [rows, cols]: Block, out: &mut [f32]| {
        let rows = match name == UP && rows.start >= 128 {
            true => rows.start - 128..rows.end - 128,
            false => rows,
        };
        now.read_block(name, rows, cols, out)
    };
    let wrong = Arc::new(AtomicBool::new(false));
    let cases = [
        (misread(&wrong, stale), "Down { layer: 1 }"),
        (misread(&wrong, shard), "GateUp { layer: 0 }"),
    ];
    for (model, named) in cases {
        let handle = start(&model, &Run::on_two_ranks(&model));
        assert_eq!(handle.sleep(SleepLevel::Two, Abort).wait(), Ok(()));
        wrong.store(true, Ordering::Relaxed);
        let ControlError::NotWoken { message } = handle.wake(Tags::ALL).wait().unwrap_err() else {
            panic!("{named}: it failed otherwise");
        };
        let rank = format!("rank 1: {named}: not as loaded");
        assert!(message.contains(&rank), "{message}");
        // What was read is let go of, so that the next wake reads anew: wrong again, and right at last.
        let again = handle.wake(Tags::ALL).wait();
        assert!(
            matches!(again, Err(ControlError::NotWoken { .. })),
            "{named}"
        );
        wrong.store(false, Ordering::Relaxed);
        assert_eq!(handle.wake(Tags::ALL).wait(), AWAKE, "{named}");
    }
}
