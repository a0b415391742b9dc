//! Engines whose ranks fail: while loading, with an error or a panic, and in the middle of a step;
//! whose own thread fails; and that are told to end while they load. Every request hears of it,
//! nothing hangs.
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]

mod harness;

use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use harness::{Run, ask_ids, eventually, halves, request, start, start_unloaded, tiny};
use plimsoll_sidecar::engine::handle::{EngineHandle, EngineState};
use plimsoll_sidecar::engine::request::{FinishReason, Refused, TokenEvent};
use plimsoll_sidecar::model::{Model, ModelError};
use plimsoll_sidecar::weights::{TensorInfo, TensorSource};

/// A source that fails, or panics, at one tensor, once `after` reads of it went well.
#[derive(Debug)]
struct Broken {
    inner: Box<dyn TensorSource>,
    tensor: &'static str,
    panics: bool,
    /// Only reads of rows from here on fail.
    from_row: usize,
}

impl TensorSource for Broken {
    fn names(&self) -> Vec<&str> {
        self.inner.names()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.inner.info(name)
    }

    fn read_block(
        &self,
        name: &str,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), ModelError> {
        if name == self.tensor && rows.start >= self.from_row {
            assert!(!self.panics, "a bug in a loader");
            let message = format!("tensor `{name}`: the disk is gone");
            return Err(ModelError::InvalidWeights {
                file: "weights".into(),
                message,
            });
        }
        self.inner.read_block(name, rows, cols, out)
    }
}

/// The tiny model with a source that breaks.
fn broken(panics: bool, from_row: usize) -> Arc<Model> {
    let mut model = Arc::into_inner(tiny()).unwrap();
    let empty: Box<dyn TensorSource> = Box::new(Nothing);
    let inner = std::mem::replace(&mut model.tensors, empty);
    let tensor = "model.layers.1.mlp.up_proj.weight";
    model.tensors = Box::new(Broken {
        inner,
        tensor,
        panics,
        from_row,
    });
    Arc::new(model)
}

#[derive(Debug)]
struct Nothing;

impl TensorSource for Nothing {
    fn names(&self) -> Vec<&str> {
        vec![]
    }

    fn info(&self, _: &str) -> Option<&TensorInfo> {
        None
    }

    fn read_block(
        &self,
        _: &str,
        _: Range<usize>,
        _: Range<usize>,
        _: &mut [f32],
    ) -> Result<(), ModelError> {
        Ok(())
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
    // Row 128 is the first of rank 1: rank 0 loads well.
    let model = broken(false, 128);
    let handle = start_unloaded(
        &model,
        &Run {
            shards: halves(&model),
            ..Run::whole(&model.shape)
        },
    );
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
    let model = broken(true, 128);
    let handle = start_unloaded(
        &model,
        &Run {
            shards: halves(&model),
            ..Run::whole(&model.shape)
        },
    );
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
    let handle = start(
        &model,
        &Run {
            shards: halves(&model),
            ..Run::whole(&model.shape)
        },
    );
    let answers: Vec<_> = (0..3)
        .map(|id| ask_ids(&handle, id, &[1, 2, 3], 5))
        .collect();
    for answer in answers {
        let finished = answer.wait().finished.unwrap();
        assert_eq!(finished.reason, FinishReason::Error);
        assert!(finished.message.unwrap().contains("sliding window"));
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
        handle.check_weights().unwrap_err(),
        Refused::Failed { message }
    );
}

/// A source that waits at one tensor of the second rank until it may go on.
#[derive(Debug)]
struct Gated {
    inner: Box<dyn TensorSource>,
    reached: Mutex<Sender<()>>,
    go: Mutex<Receiver<()>>,
}

impl TensorSource for Gated {
    fn names(&self) -> Vec<&str> {
        self.inner.names()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.inner.info(name)
    }

    fn read_block(
        &self,
        name: &str,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), ModelError> {
        if name == "model.layers.1.mlp.up_proj.weight" && rows.start >= 128 {
            self.reached.lock().unwrap().send(()).unwrap();
            // A closed channel lets everything through.
            let _ = self.go.lock().unwrap().recv();
        }
        self.inner.read_block(name, rows, cols, out)
    }
}

#[test]
fn stopping_while_one_rank_has_loaded_and_another_has_not_ends_the_engine() {
    let (reached, at_the_gate) = channel();
    let (open, go) = channel::<()>();
    let mut model = Arc::into_inner(tiny()).unwrap();
    let empty: Box<dyn TensorSource> = Box::new(Nothing);
    model.tensors = Box::new(Gated {
        inner: std::mem::replace(&mut model.tensors, empty),
        reached: Mutex::new(reached),
        go: Mutex::new(go),
    });
    let model = Arc::new(model);
    let handle = start_unloaded(
        &model,
        &Run {
            shards: halves(&model),
            ..Run::whole(&model.shape)
        },
    );
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
