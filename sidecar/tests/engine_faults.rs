//! Engines whose ranks fail: while loading, with an error or a panic, and in the middle of a step;
//! whose own thread fails; and that are told to end while they load. Every request hears of it,
//! nothing hangs.
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]

mod harness;

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use harness::watched::watched;
use harness::{Run, eventually, halves, request, start, start_unloaded, tiny};
use plimsoll_sidecar::engine::control::{Commands, ControlError};
use plimsoll_sidecar::engine::handle::{EngineHandle, EngineState};
use plimsoll_sidecar::engine::request::{FinishReason, Refused, TokenEvent};
use plimsoll_sidecar::model::{Model, ModelError};

/// Whether a read is one that rank 1 makes and rank 0, of two equal ones, does not.
fn is_rank_1s(tensor: &str, first_row: usize) -> bool {
    tensor == "model.layers.1.mlp.up_proj.weight" && first_row >= 128
}

fn on_two_ranks(model: &Model) -> Run {
    Run {
        shards: halves(model),
        ..Run::whole(&model.shape)
    }
}

fn failure(handle: &EngineHandle) -> String {
    eventually("a failure", || {
        matches!(handle.state(), EngineState::Failed { .. })
    });
    match handle.state() {
        EngineState::Failed { message } => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_rank_that_cannot_load_fails_the_engine_and_says_why() {
    let model = watched(|tensor, row| match is_rank_1s(tensor, row) {
        false => Ok(()),
        true => Err(ModelError::InvalidWeights {
            file: "weights".into(),
            message: format!("tensor `{tensor}`: the disk is gone"),
        }),
    });
    let handle = start_unloaded(&model, &on_two_ranks(&model));
    let message = failure(&handle);
    assert!(
        message.contains("rank 1") && message.contains("the disk is gone"),
        "{message}"
    );
    let refused = handle.submit(request(1, &[1], 1).0).unwrap_err();
    assert_eq!(refused, Refused::Failed { message });
}

#[test]
fn a_rank_that_panics_fails_the_engine_and_hangs_nobody() {
    let model = watched(|tensor, row| {
        assert!(!is_rank_1s(tensor, row), "a bug in a loader");
        Ok(())
    });
    let handle = start_unloaded(&model, &on_two_ranks(&model));
    let message = failure(&handle);
    assert!(
        message.contains("rank 1") && message.contains("a bug in a loader"),
        "{message}"
    );
}

#[test]
fn a_failing_step_ends_every_request_with_the_error() {
    let mut model = Arc::into_inner(tiny()).unwrap();
    // No layer can compute with a window of nothing: an op refuses it in the first step.
    model.params.sliding_window = Some(0);
    let model = Arc::new(model);
    // A probe would fail it while it loads.
    let run = Run {
        probe: false,
        ..on_two_ranks(&model)
    };
    let handle = start(&model, &run);
    let ask = |id| {
        let (asked, events) = request(id, &[1, 2, 3], 5);
        handle.submit(asked).map(|()| events)
    };
    // The first fails it; another may come too late to be taken.
    for asked in [0, 1, 2].map(ask) {
        let message = match asked {
            Err(Refused::Failed { message }) => message,
            Err(refused) => panic!("{refused}"),
            Ok(mut events) => {
                let Some(TokenEvent::Finished(finished)) = events.blocking_recv() else {
                    panic!("no end of a request");
                };
                assert_eq!(finished.reason, FinishReason::Error);
                finished.message.unwrap()
            }
        };
        assert!(message.contains("sliding window"), "{message}");
    }
    failure(&handle);
    assert!(matches!(
        handle.submit(request(9, &[1], 1).0),
        Err(Refused::Failed { .. })
    ));
}

/// Panics on the thread of whoever wakes it: that of the engine, which sends.
struct Bomb;

impl Wake for Bomb {
    fn wake(self: Arc<Self>) {
        panic!("a bug in the loop");
    }
}

#[test]
fn a_panic_on_the_engines_own_thread_is_its_last_word_to_everybody() {
    let model = tiny();
    let handle = start(&model, &Run::whole(&model.shape));
    let (bystander, mut told) = request(1, &[1, 2, 3], 400);
    handle.submit(bystander).unwrap();
    let (armed, mut bomb) = request(2, &[1], 400);
    let waker = Waker::from(Arc::new(Bomb));
    assert!(
        bomb.poll_recv(&mut Context::from_waker(&waker))
            .is_pending()
    );
    handle.submit(armed).unwrap();
    let message = failure(&handle);
    assert!(
        message.contains("engine's own thread") && message.contains("a bug in the loop"),
        "{message}"
    );
    let mut last = None;
    while let Some(event) = told.blocking_recv() {
        last = Some(event);
    }
    let Some(TokenEvent::Finished(finished)) = last else {
        panic!("the request was not answered: {last:?}");
    };
    assert_eq!(finished.reason, FinishReason::Error);
    assert_eq!(finished.message.as_deref(), Some(&*message));
    let refused = handle.submit(request(3, &[1], 1).0).unwrap_err();
    assert_eq!(
        refused,
        Refused::Failed {
            message: message.clone()
        }
    );
    assert_eq!(
        handle.check_weights().wait().unwrap_err(),
        ControlError::Failed { message }
    );
}

#[test]
fn stopping_while_one_rank_has_loaded_and_another_has_not_ends_the_engine() {
    let (reached, at_the_gate) = channel();
    let (open, go) = channel::<()>();
    let gate = Mutex::new((reached, go));
    let model = watched(move |tensor, row| {
        if is_rank_1s(tensor, row) {
            let (reached, go) = &*gate.lock().unwrap();
            reached.send(()).unwrap();
            // A closed channel lets everything through.
            let _ = go.recv();
        }
        Ok(())
    });
    let handle = start_unloaded(&model, &on_two_ranks(&model));
    at_the_gate.recv().unwrap();
    // The other rank has nothing left to read once nothing is added to what is done.
    let mut done = 0;
    while done < handle.progress().done_bytes {
        done = handle.progress().done_bytes;
        std::thread::sleep(Duration::from_millis(100));
    }
    handle.stop();
    drop(open);
    eventually("the end", || handle.state() == EngineState::Drained);
}
