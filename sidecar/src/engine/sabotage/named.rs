//! What a proof has to find, by the name under which it does: a table that was not made again, and
//! answers from blocks of older weights. `tests/engine_sleepers.rs` has the row that is stale and the
//! shard of another rank.

use std::sync::Arc;

use plimsoll_crds::v1alpha1::adapters::AdapterScale;

use super::tests::{AWAKE, ask, begun_as, comes_to, engine, engine_without_probe, not_woken};
use super::{Fault, Moment};
use crate::engine::control::{Commands, ControlError};
use crate::engine::handle::{EngineHandle, EngineState};
use crate::engine::request::TokenEvent;
use crate::engine::rest::{PauseMode, SleepLevel, Tags};
use crate::engine::weights::Updated;
use crate::http::testing::fixture;
use crate::model::{AdapterPath, ModelFolder};

#[test]
fn a_buffer_that_is_not_restored_is_named() {
    let handle = engine();
    for (level, rank, tensor) in [
        (SleepLevel::One, 0, "rope_cos"),
        (SleepLevel::Two, 1, "rope_sin"),
    ] {
        handle.sabotage().plan(Fault {
            rank,
            moment: Moment::Unfilled,
            tensor: Some(tensor),
        });
        assert_eq!(handle.sleep(level, PauseMode::Keep).wait(), Ok(()));
        let message = not_woken(&handle);
        let named = format!("rank {rank}: {tensor}: not as loaded");
        assert!(message.contains(&named), "{message}");
        let slept = handle.sleep(SleepLevel::Two, PauseMode::Keep).wait();
        assert_eq!(slept, Ok(()));
        assert_eq!(handle.wake(Tags::ALL).wait(), AWAKE, "after {tensor}");
    }
}

/// A slot is what lasts, too; who reads of it reads its adapter's name.
#[test]
fn a_byte_of_a_slot_that_flips_in_a_sleep_is_named_by_its_adapter() {
    let model = ModelFolder::open(&fixture()).unwrap();
    let adapter = model.open_adapter(&AdapterPath {
        name: "sql".to_owned(),
        path: fixture().join("../../adapters/plain"),
        scale: AdapterScale::ONE,
    });
    let adapter = Arc::new(adapter.unwrap());
    let handle = begun_as(model, "--max-adapters 2 --max-rank 2", |config| {
        config.adapters = vec![adapter];
    });
    comes_to(&handle, |state| *state == EngineState::Serving);
    for (level, rank) in [(SleepLevel::One, 0), (SleepLevel::Two, 1)] {
        handle.sabotage().plan(Fault {
            rank,
            moment: Moment::Restored,
            tensor: Some("adapter_slot_0"),
        });
        assert_eq!(handle.sleep(level, PauseMode::Keep).wait(), Ok(()));
        let message = not_woken(&handle);
        let named = format!("rank {rank}: adapter `sql`: not as loaded");
        assert!(message.contains(&named), "{message}");
        assert_eq!(handle.rest().weights_verified, Some(false));
        let slept = handle.sleep(SleepLevel::Two, PauseMode::Keep).wait();
        assert_eq!(slept, Ok(()));
        assert_eq!(handle.wake(Tags::ALL).wait(), AWAKE, "after {level:?}");
    }
}

/// Tokens of a prompt of 40 that came from the cache.
fn cached(handle: &EngineHandle) -> usize {
    let mut events = ask(handle, 1, vec![7; 40]);
    loop {
        match events.blocking_recv().unwrap() {
            TokenEvent::Prompt(_) | TokenEvent::Token { .. } => {}
            TokenEvent::Finished(finished) => return finished.cached_tokens as usize,
        }
    }
}

fn update(handle: &EngineHandle) -> Result<Updated, ControlError> {
    let own = Arc::new(handle.open_weights(&handle.weights().path).unwrap());
    handle.update(own, None, PauseMode::Keep).wait()
}

/// Tests of updates look at how much of an answer was cached: it would be this.
#[test]
fn a_prefix_hit_across_an_update_shows_in_the_cached_tokens() {
    for forgets in [true, false] {
        let handle = engine_without_probe();
        assert_eq!(cached(&handle), 0);
        assert_eq!(cached(&handle), 32);
        if !forgets {
            handle.sabotage().plan(Fault {
                rank: 0,
                moment: Moment::Update,
                tensor: None,
            });
        }
        assert!(update(&handle).is_ok());
        assert_eq!(cached(&handle), if forgets { 0 } else { 32 });
    }
}

/// Where a probe runs, it does not come to that.
#[test]
fn prefixes_that_an_update_leaves_behind_end_the_engine_by_name() {
    let handle = engine();
    assert_eq!(cached(&handle), 0);
    handle.sabotage().plan(Fault {
        rank: 0,
        moment: Moment::Update,
        tensor: None,
    });
    assert!(update(&handle).is_err());
    // Who asked hears of it first.
    let failed = comes_to(&handle, |state| matches!(state, EngineState::Failed { .. }));
    let EngineState::Failed { message } = failed else {
        panic!("{failed:?}");
    };
    assert!(message.contains("would overwrite blocks"), "{message}");
}
