//! Engines whose ranks fail: while loading, with an error or a panic, and in the middle of a step.
//! Every request hears of it, nothing hangs.
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]

mod harness;

use std::ops::Range;
use std::sync::Arc;

use harness::{Run, ask_ids, eventually, halves, request, start, start_unloaded, tiny};
use plimsoll_sidecar::engine::handle::{EngineHandle, EngineState};
use plimsoll_sidecar::engine::request::{FinishReason, Refused};
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
