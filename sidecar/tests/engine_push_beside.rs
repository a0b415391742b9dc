//! What comes while weights are sent or read: other sizes and sleeps. Nothing of either is lost, whichever
//! is asked for first.
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]

mod harness;

use std::sync::Arc;

use harness::altered::Altered;
use harness::sent::{file, send};
use harness::{Dice, Run, ask_ids, open, size, start, tiny};
use plimsoll_planner::Account;
use plimsoll_sidecar::engine::control::{Commands, ControlError, Woken};
use plimsoll_sidecar::engine::handle::{EngineHandle, EngineState};
use plimsoll_sidecar::engine::rest::PauseMode::{Abort, Keep};
use plimsoll_sidecar::engine::rest::{SleepLevel, Tags};
use plimsoll_sidecar::engine::weights::Abandoned;
use plimsoll_sidecar::model::Model;

const AWAKE: Result<Woken, ControlError> = Ok(Woken { asleep: false });
const TOKENS: u32 = 120;

/// Little blocks, so that a size is one of requests that run.
fn run(model: &Model) -> Run {
    Run {
        block_size: 4,
        kv_blocks: 100,
        max_model_len: 256,
        ..Run::on_two_ranks(model)
    }
}

fn prompt() -> Vec<u32> {
    (3..23).collect()
}

fn started_on(folder: &Altered, prompt: &[u32], tokens: u32) -> Vec<u32> {
    let model = open(folder.path());
    let handle = start(&model, &run(&model));
    ask_ids(&handle, 1, prompt, tokens).wait().ids
}

/// Two halves of the tensors.
fn halves(handle: &EngineHandle, of: &Model) -> [Vec<u8>; 2] {
    let names = handle.pushable().needed();
    let (first, second) = names.split_at(names.len() / 2);
    [first, second].map(|names| file(&*of.tensors, names.iter().map(String::as_str)))
}

fn resize(handle: &EngineHandle, model: &Model, blocks: u32) {
    let resized = handle.resize(size(model, &run(model), blocks)).wait();
    assert_eq!(resized.unwrap().kv_blocks, blocks + 1);
    let memory = handle.memory();
    assert_eq!(memory.kv.blocks_total, blocks);
    let rows = memory.ranks.iter().flat_map(|rank| &rank.accounts);
    let mut cache = rows.filter(|row| row.account == Account::KvCache);
    let away = handle.rest().out.contains(&Account::KvCache);
    assert!(cache.all(|row| row.reserved.get() == if away { 0 } else { row.planned.get() }));
}

/// Requests are held from the first step of a push to its last: a size that comes in between finds no
/// block to move, is in force at once, and the push goes on as if nothing had been.
#[test]
fn a_size_that_comes_between_start_and_finish_is_in_force_and_both_come_to_their_end() {
    let other = Altered::other();
    let model = tiny();
    let handle = start(&model, &run(&model));
    let old = ask_ids(&handle, 1, &prompt(), TOKENS).wait().ids;
    let [first, second] = halves(&handle, &open(other.path()));
    let kept = ask_ids(&handle, 2, &prompt(), TOKENS);
    kept.wait_for(5);
    assert_eq!(handle.open_push(true, Keep).wait(), Ok(()));
    let held = kept.events();
    assert!(held < TOKENS as usize, "it had ended");
    for (blocks, part) in [(70, &first), (140, &second), (64, &vec![])] {
        resize(&handle, &model, blocks);
        assert_eq!(handle.state(), EngineState::Paused);
        assert!(handle.rest().updating, "the push is open still");
        if !part.is_empty() {
            send(&handle, part, &mut Dice(5)).unwrap();
        }
    }
    assert_eq!(kept.events(), held, "computed with a mixture");
    assert_eq!(handle.close_push(None).wait().unwrap().held, 1);
    let kept = kept.wait().ids;
    assert_eq!(kept[..held], old[..held]);
    let so_far = [&prompt()[..], &old[..held]].concat();
    let rest = TOKENS - u32::try_from(held).unwrap();
    assert_eq!(kept[held..], started_on(&other, &so_far, rest));
    let new = started_on(&other, &prompt(), TOKENS);
    assert_eq!(ask_ids(&handle, 3, &prompt(), TOKENS).wait().ids, new);
}

#[test]
fn a_push_that_is_given_up_after_a_resize_leaves_the_size_and_what_files_say() {
    let other = Altered::other();
    let model = tiny();
    let handle = start(&model, &run(&model));
    let old = ask_ids(&handle, 1, &prompt(), TOKENS).wait().ids;
    let [first, _] = halves(&handle, &open(other.path()));
    // Awake; with the cache away; with all of it away.
    for (blocks, level) in [
        (80, None),
        (120, Some(SleepLevel::One)),
        (90, Some(SleepLevel::Two)),
    ] {
        if let Some(level) = level {
            assert_eq!(handle.sleep(level, Abort).wait(), Ok(()));
        }
        assert_eq!(handle.open_push(true, Keep).wait(), Ok(()));
        send(&handle, &first, &mut Dice(3)).unwrap();
        resize(&handle, &model, blocks);
        let left = handle.abandon_push("never mind".to_owned()).wait();
        let expected = match level {
            Some(SleepLevel::Two) => Abandoned::Away,
            None | Some(SleepLevel::Zero | SleepLevel::One) => Abandoned::OutOfService,
        };
        assert_eq!(left, Ok(expected), "{level:?}");
        let own = Arc::new(handle.open_weights(&handle.weights().path).unwrap());
        handle.update(own, None, Keep).wait().unwrap();
        assert_eq!(handle.wake(Tags::ALL).wait(), AWAKE);
        assert_eq!(handle.memory().kv.blocks_total, blocks);
        assert_eq!(ask_ids(&handle, 2, &prompt(), TOKENS).wait().ids, old);
    }
}

/// Nobody waits for the one before: commands come in the order in which they were asked for.
#[test]
fn updates_sizes_sleeps_and_wakes_that_are_asked_for_at_once_come_one_after_the_other() {
    let (other, same) = (Altered::other(), Altered::copy());
    let model = tiny();
    let handle = start(&model, &run(&model));
    let (old, new) = (
        started_on(&same, &prompt(), TOKENS),
        started_on(&other, &prompt(), TOKENS),
    );
    for (folder, expected) in [(&other, &new), (&same, &old)] {
        let kept = ask_ids(&handle, 1, &prompt(), TOKENS);
        kept.wait_for(1);
        let weights = Arc::new(handle.open_weights(folder.path()).unwrap());
        let updated = handle.update(weights, None, Keep);
        let resized = [64, 130].map(|blocks| handle.resize(size(&model, &run(&model), blocks)));
        let slept = handle.sleep(SleepLevel::Two, Keep);
        let smaller = handle.resize(size(&model, &run(&model), 75));
        let (woken, larger) = (
            handle.wake(Tags::ALL),
            handle.resize(size(&model, &run(&model), 110)),
        );
        assert_eq!(updated.wait().unwrap().held, 1);
        for (resized, blocks) in resized.into_iter().zip([64, 130]) {
            assert_eq!(resized.wait().unwrap().kv_blocks, blocks + 1);
        }
        assert_eq!(slept.wait(), Ok(()));
        assert_eq!(smaller.wait().unwrap().kv_blocks, 76);
        assert_eq!(woken.wait(), AWAKE);
        assert_eq!(larger.wait().unwrap().kv_blocks, 111);
        assert_eq!(kept.wait().ids.len(), TOKENS as usize);
        assert_eq!(ask_ids(&handle, 2, &prompt(), TOKENS).wait().ids, *expected);
        assert_eq!(handle.memory().kv.blocks_total, 110);
    }
}
