//! Weights that are sent: answers are those of an engine that was started on them, on every
//! architecture, whole or in part, with the engine awake, half awake, or with no weights at all.
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]

mod harness;

use std::sync::Arc;

use harness::altered::Altered;
use harness::fixture::Fixture;
use harness::sent::{file, send};
use harness::{Answered, Dice, Run, ask_ids, fixtures, open, split, start, tiny};
use plimsoll_sidecar::engine::control::{Commands, ControlError, Woken};
use plimsoll_sidecar::engine::handle::{EngineHandle, EngineState};
use plimsoll_sidecar::engine::rest::PauseMode::{Abort, Keep, Wait};
use plimsoll_sidecar::engine::rest::{SleepLevel, Tags, Transition};
use plimsoll_sidecar::model::Model;

const AWAKE: Result<Woken, ControlError> = Ok(Woken { asleep: false });
const ASLEEP: Result<Woken, ControlError> = Ok(Woken { asleep: true });
const WEIGHTS: Tags = Tags {
    weights: true,
    kv_cache: false,
};
const KV_CACHE: Tags = Tags {
    weights: false,
    kv_cache: true,
};

fn engine() -> EngineHandle {
    let model = tiny();
    start(&model, &Run::on_two_ranks(&model))
}

fn prompt() -> Vec<u32> {
    (3..53).collect()
}

fn said(handle: &EngineHandle) -> Vec<u32> {
    let Answered { ids, finished, .. } = ask_ids(handle, 1, &prompt(), 30).wait();
    assert!(finished.is_some());
    ids
}

fn started_on(folder: &Altered) -> Vec<u32> {
    let model = open(folder.path());
    said(&start(&model, &Run::on_two_ranks(&model)))
}

/// All that a model needs, from these files.
fn whole(handle: &EngineHandle, of: &Model) -> Vec<u8> {
    let needed = handle.pushable().needed().iter();
    file(&*of.tensors, needed.map(String::as_str))
}

fn close(handle: &EngineHandle, version: &str) -> Result<String, ControlError> {
    let closed = handle.close_push(Some(version.to_owned())).wait();
    closed.map(|updated| updated.version)
}

fn push(handle: &EngineHandle, folder: &Altered, version: &str) -> Result<String, ControlError> {
    handle.open_push(true, Keep).wait()?;
    let file = whole(handle, &open(folder.path()));
    send(handle, &file, &mut Dice(7))?;
    close(handle, version)
}

/// The checksums of the load are the measure: memory that comes blank and is written by pieces, in any
/// order of tensors, is to the bit what the load made of the same files.
#[test]
fn what_is_sent_lies_where_a_load_puts_it_on_every_architecture_and_split() {
    let folders = std::fs::read_dir(fixtures().join("models")).unwrap();
    let mut folders: Vec<_> = folders.map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| {
        folder.join("expected.json").exists() && folder.join("config.json").exists()
    });
    folders.sort();
    assert!(folders.len() >= 4, "{folders:?}");
    let mut dice = Dice(11);
    for folder in folders {
        let fixture = Fixture::open(&folder, "");
        let shape = &fixture.model.shape;
        let mut runs = vec![Run::whole(shape)];
        if shape.kv_heads > 1 {
            let shards = split(shape, 2, [0, 1, 1]);
            runs.push(Run {
                shards,
                threads: 2,
                ..Run::whole(shape)
            });
        }
        for run in runs {
            let what = format!("{}, {} ranks", fixture.name, run.shards.len());
            let handle = start(&fixture.model, &run);
            let sums = |handle: &EngineHandle| handle.check_weights().wait().unwrap();
            let before = sums(&handle);
            assert_eq!(handle.sleep(SleepLevel::Two, Abort).wait(), Ok(()));
            assert_eq!(handle.open_push(true, Keep).wait(), Ok(()), "{what}");
            let mut names = handle.pushable().needed().to_vec();
            while !names.is_empty() {
                let body: Vec<String> = (0..1 + dice.roll(4).min(names.len() - 1))
                    .map(|_| names.swap_remove(dice.roll(names.len())))
                    .collect();
                let body = file(&*fixture.model.tensors, body.iter().map(String::as_str));
                assert_eq!(send(&handle, &body, &mut dice), Ok(()), "{what}");
            }
            assert_eq!(close(&handle, "2"), Ok("2".to_owned()), "{what}");
            assert_eq!(handle.state(), EngineState::Asleep, "{what}");
            assert_eq!(handle.wake(Tags::ALL).wait(), AWAKE, "{what}");
            assert_eq!(sums(&handle), before, "{what}");
            fixture.check_alone(&handle, &what);
        }
    }
}

#[test]
fn pushed_weights_answer_as_a_folder_of_them_does_and_no_old_block_is_used() {
    let (other, same) = (Altered::other(), Altered::copy());
    let (old, new) = (started_on(&same), started_on(&other));
    assert_ne!(old, new, "weights that change no answer prove nothing");
    let handle = engine();
    for (folder, version, expected) in [(&other, "2", &new), (&same, "3", &old)] {
        said(&handle);
        assert_eq!(push(&handle, folder, version), Ok(version.to_owned()));
        assert_eq!(handle.state(), EngineState::Serving);
        assert_eq!(handle.weights().version, version);
        let answered = ask_ids(&handle, 1, &prompt(), 30).wait();
        assert_eq!(answered.ids, *expected, "{version}");
        assert_eq!(answered.finished.unwrap().cached_tokens, 0, "an old block");
        // A wake of level 1 proves them.
        assert_eq!(handle.sleep(SleepLevel::One, Abort).wait(), Ok(()));
        assert_eq!(handle.wake(Tags::ALL).wait(), AWAKE);
        assert_eq!(said(&handle), *expected, "{version}");
    }
    let counts = handle.stats().transitions[Transition::Update as usize];
    assert_eq!((counts.done, counts.failed), (2, 0));
}

#[test]
fn a_part_of_a_fused_place_is_replaced_alone_and_the_rest_stays() {
    const Q: &str = "model.layers.1.self_attn.q_proj.weight";
    const UP: &str = "model.layers.0.mlp.up_proj.weight";
    let changed = Altered::copy().with_numbers(|name, at, was| match name {
        Q | UP if at % 3 == 0 => -2.0 * was,
        _ => was,
    });
    let handle = engine();
    let (old, new) = (said(&handle), started_on(&changed));
    assert_ne!(old, new);
    let model = open(changed.path());
    assert_eq!(handle.open_push(false, Keep).wait(), Ok(()));
    for name in [Q, UP] {
        send(&handle, &file(&*model.tensors, [name]), &mut Dice(3)).unwrap();
    }
    assert_eq!(close(&handle, "q"), Ok("q".to_owned()));
    assert_eq!(said(&handle), new);
    // Where the rest is not there, a part is not enough.
    assert_eq!(handle.sleep(SleepLevel::Two, Abort).wait(), Ok(()));
    let refused = handle.open_push(false, Keep).wait().unwrap_err();
    assert!(refused.to_string().contains("given back"), "{refused}");
    assert_eq!(handle.wake(WEIGHTS).wait(), ASLEEP);
    let refused = handle.open_push(false, Keep).wait().unwrap_err();
    assert!(refused.to_string().contains("not whole"), "{refused}");
}

#[test]
fn trainers_sleep_at_level_two_wake_the_weights_push_and_wake_the_cache() {
    let (other, same) = (Altered::other(), Altered::copy());
    let (old, new) = (started_on(&same), started_on(&other));
    let handle = engine();
    // The first round reads the files; the others find that no file has what was pushed.
    for (folder, expected) in [(&other, &new), (&same, &old), (&other, &new)] {
        assert_eq!(handle.sleep(SleepLevel::Two, Abort).wait(), Ok(()));
        assert_eq!(handle.wake(WEIGHTS).wait(), ASLEEP);
        assert_eq!(push(&handle, folder, "n"), Ok("n".to_owned()));
        assert_eq!(handle.state(), EngineState::Asleep, "the cache is away");
        assert_eq!(handle.wake(KV_CACHE).wait(), AWAKE);
        assert_eq!(said(&handle), *expected);
    }
    // Without waking the weights first, and with everything woken at once.
    assert_eq!(handle.sleep(SleepLevel::Two, Abort).wait(), Ok(()));
    assert_eq!(push(&handle, &same, "m"), Ok("m".to_owned()));
    assert_eq!(handle.wake(Tags::ALL).wait(), AWAKE);
    assert_eq!(said(&handle), old);
    assert_eq!(handle.sleep(SleepLevel::Two, Abort).wait(), Ok(()));
    for _ in 0..2 {
        let ControlError::NotWoken { message } = handle.wake(Tags::ALL).wait().unwrap_err() else {
            panic!("it failed otherwise");
        };
        assert!(
            message.contains("were pushed") && message.contains("reload_weights"),
            "{message}"
        );
        assert_eq!(handle.state(), EngineState::Asleep);
        assert_eq!(handle.rest().weights_verified, Some(false));
    }
    assert_eq!(push(&handle, &other, "o"), Ok("o".to_owned()));
    assert_eq!(handle.state(), EngineState::Serving);
    assert_eq!(said(&handle), new);
}

#[test]
fn after_a_push_a_reload_brings_the_files_back_under_their_own_name() {
    let other = Altered::other();
    let handle = engine();
    let old = said(&handle);
    assert_eq!(push(&handle, &other, "2"), Ok("2".to_owned()));
    for sleeps in [false, true] {
        if sleeps {
            assert_eq!(push(&handle, &other, "2"), Ok("2".to_owned()));
            assert_eq!(handle.sleep(SleepLevel::Two, Abort).wait(), Ok(()));
        }
        let weights = handle.weights();
        assert_eq!(
            (&*weights.version, &*weights.source_version),
            ("2", "default")
        );
        let own = Arc::new(handle.open_weights(&weights.path).unwrap());
        let updated = handle
            .update(own, Some(weights.source_version), Keep)
            .wait();
        assert_eq!(updated.unwrap().version, "default");
        assert_eq!(handle.wake(Tags::ALL).wait(), AWAKE);
        assert_eq!(said(&handle), old);
    }
}

#[test]
fn requests_are_held_or_waited_for_or_ended_while_weights_come() {
    let other = Altered::other();
    let handle = engine();
    let (old, new) = (said(&handle), started_on(&other));
    let file = whole(&handle, &open(other.path()));
    let kept = ask_ids(&handle, 2, &prompt(), 200);
    kept.wait_for(5);
    assert_eq!(handle.open_push(true, Keep).wait(), Ok(()));
    let before = kept.events();
    assert!(before < 200, "it had ended");
    assert_eq!(handle.state(), EngineState::Paused);
    let newcomer = ask_ids(&handle, 3, &prompt(), 30);
    send(&handle, &file, &mut Dice(5)).unwrap();
    assert_eq!(kept.events(), before, "computed with a mixture");
    // Nobody goes on because of a pause that ends.
    assert_eq!(handle.resume().wait(), Ok(()));
    assert_eq!(handle.state(), EngineState::Paused);
    assert_eq!(handle.close_push(None).wait().unwrap().held, 2);
    assert_eq!(newcomer.wait().ids, new);
    let kept = kept.wait();
    assert_eq!((kept.ids.len(), &kept.ids[..5]), (200, &old[..5]));

    let waited = ask_ids(&handle, 4, &prompt(), 100);
    waited.wait_for(1);
    assert_eq!(handle.open_push(true, Wait).wait(), Ok(()));
    assert_eq!(waited.events(), 101, "all tokens and the end are there");
    assert!(handle.abandon_push("no more".to_owned()).wait().is_ok());
    assert_eq!(handle.state(), EngineState::Serving);
    let ended = ask_ids(&handle, 5, &prompt(), 400);
    ended.wait_for(1);
    assert_eq!(handle.open_push(true, Abort).wait(), Ok(()));
    assert!(ended.wait().ids.len() < 400);
}
