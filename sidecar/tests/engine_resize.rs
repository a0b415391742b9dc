//! Resizes: the KV cache of an engine that runs gets longer and shorter, and nobody who asks it
//! anything notices, whatever lies between.
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]
#![allow(clippy::cast_possible_truncation, reason = "fixtures are small")]

mod harness;

use std::sync::Arc;

use harness::fixture::Fixture;
use harness::{Answer, Dice, Run, ask_ids, fixtures, halves, request, size, start, tiny, wait_for};
use plimsoll_planner::{Account, Shard};
use plimsoll_sidecar::engine::control::{Commands, ControlError, Woken};
use plimsoll_sidecar::engine::handle::{EngineHandle, EngineState};
use plimsoll_sidecar::engine::request::FinishReason;
use plimsoll_sidecar::engine::rest::PauseMode::{Abort, Keep, Wait};
use plimsoll_sidecar::engine::rest::{SleepLevel, Tags, Transition};
use plimsoll_sidecar::engine::size::Resized;
use plimsoll_sidecar::model::Model;

/// A small world: little tables, so that a few requests fill them.
fn run(model: &Model, shards: Vec<Shard>) -> Run {
    Run {
        shards,
        block_size: 4,
        kv_blocks: 100,
        max_model_len: 128,
        ..Run::whole(&model.shape)
    }
}

/// The least that such an engine can be.
const FLOOR: u32 = 32;

fn resize(handle: &EngineHandle, model: &Model, run: &Run, kv_blocks: u32) -> Resized {
    let resized = handle.resize(size(model, run, kv_blocks)).wait().unwrap();
    assert_eq!(resized.kv_blocks, kv_blocks + 1);
    assert_eq!(handle.memory().kv.blocks_total, kv_blocks);
    resized
}

/// Bytes that all ranks hold for the cache: by the ledger, by its plan.
fn cache(handle: &EngineHandle) -> (u64, u64) {
    let ranks = handle.memory().ranks;
    let rows = ranks.iter().flat_map(|rank| &rank.accounts);
    let cache = rows.filter(|row| row.account == Account::KvCache);
    cache.fold((0, 0), |(held, planned), row| {
        (held + row.reserved.get(), planned + row.planned.get())
    })
}

fn reload(handle: &EngineHandle) {
    let own = Arc::new(handle.open_weights(&handle.weights().path).unwrap());
    match handle.update(own, None, Keep).wait() {
        Ok(_) | Err(ControlError::WrongState { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

/// One random change of an engine, of which every second one is a resize.
fn change(handle: &EngineHandle, model: &Model, run: &Run, dice: &mut Dice) {
    let level = [SleepLevel::Zero, SleepLevel::One, SleepLevel::Two][dice.roll(3)];
    let tags = [(true, true), (true, false), (false, true)][dice.roll(3)];
    let tags = Tags {
        weights: tags.0,
        kv_cache: tags.1,
    };
    match dice.roll(10) {
        0 => handle.sleep(level, Keep).wait().unwrap(),
        1 | 2 => drop(handle.wake(tags).wait().unwrap()),
        3 => handle.resume().wait().unwrap(),
        4 => reload(handle),
        _ => {
            let blocks = run.max_model_len.div_ceil(run.block_size) + dice.roll(60) as u32;
            resize(handle, model, run, blocks);
        }
    }
}

#[test]
fn every_architecture_says_the_same_between_and_across_resizes_and_sleeps() {
    let folders = std::fs::read_dir(fixtures().join("models")).unwrap();
    let mut folders: Vec<_> = folders.map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    let (mut resizes, mut preemptions) = (0, 0);
    for (index, folder) in folders.iter().enumerate() {
        let fixture = Fixture::open(folder, "");
        let (model, shape) = (&fixture.model, &fixture.model.shape);
        for ranks in [1, 2] {
            let shards = match ranks {
                1 => vec![Shard::whole(shape)],
                _ => harness::split(shape, 2, [0; 3]),
            };
            let run = Run {
                prefix_cache: (index + ranks) % 2 == 0,
                max_model_len: shape.context.min(512),
                kv_blocks: 150,
                ..run(model, shards)
            };
            let seed = index * 2 + ranks;
            let (handle, mut dice) = (start(model, &run), Dice(seed as u64));
            let mut answers: Vec<(usize, Answer)> = Vec::new();
            for id in 0..16 {
                if handle.state() == EngineState::Asleep || dice.roll(2) == 0 {
                    change(&handle, model, &run, &mut dice);
                } else {
                    let which = dice.roll(fixture.prompts.len());
                    let prompt = &fixture.prompts[which];
                    let count = prompt.greedy.len() as u32;
                    answers.push((which, ask_ids(&handle, id, &prompt.ids, count)));
                }
            }
            handle.wake(Tags::ALL).wait().unwrap();
            handle.resume().wait().unwrap();
            for (which, answer) in answers {
                let answer = answer.wait();
                let what = format!("{}, seed {seed}, prompt {which}", fixture.name);
                assert_eq!(answer.ids, fixture.prompts[which].greedy, "{what}");
                preemptions += answer.finished.unwrap().preemptions;
            }
            let (held, planned) = cache(&handle);
            assert_eq!(held, planned, "{}, seed {seed}", fixture.name);
            resizes += handle.stats().transitions[Transition::Resize as usize].done;
        }
    }
    assert!(resizes > 20, "only {resizes} resizes");
    assert!(preemptions > 0, "nobody was computed again");
}

#[test]
fn requests_that_run_lose_nothing_when_blocks_move_or_go() {
    let model = tiny();
    let prompts: Vec<Vec<u32>> = (0..8u32)
        .map(|at| (0..6 + at).map(|i| (at * 37 + i * 11) % 500 + 3).collect())
        .collect();
    let (mut moved, mut preempted) = (0, 0);
    for (seed, prefix_cache) in [(1, true), (2, false), (3, true), (4, false)] {
        let mut dice = Dice(seed);
        let run = Run {
            prefix_cache,
            ..run(&model, halves(&model))
        };
        let handle = start(&model, &run);
        let ask = |id: usize| ask_ids(&handle, id as u64, &prompts[id % prompts.len()], 110);
        let expected: Vec<Vec<u32>> = (0..prompts.len()).map(|id| ask(id).wait().ids).collect();
        let answers: Vec<Answer> = (0..16).map(ask).collect();
        // One that ends early would never be done.
        let mut turns = 0..20_000;
        while answers.iter().any(|answer| answer.events() <= 110) && turns.next().is_some() {
            let blocks = FLOOR + dice.roll(120) as u32;
            let resized = resize(&handle, &model, &run, blocks);
            moved += resized.moved;
            preempted += resized.preempted;
            let (held, planned) = cache(&handle);
            assert_eq!(held, planned);
        }
        for (id, answer) in answers.into_iter().enumerate() {
            let answer = answer.wait();
            assert_eq!(answer.ids, expected[id % 8], "seed {seed}, request {id}");
        }
        assert_eq!(handle.state(), EngineState::Serving);
        assert_eq!(handle.stats().kv_usage, 0.0);
    }
    assert!(moved > 20, "only {moved} blocks moved");
    assert!(preempted > 3, "only {preempted} requests gave way");
}

#[test]
fn a_size_that_comes_while_the_cache_is_away_is_what_the_wake_takes() {
    let model = tiny();
    let run = run(&model, halves(&model));
    let handle = start(&model, &run);
    let expected = ask_ids(&handle, 1, &[3, 4, 5], 60).wait().ids;
    let kept = ask_ids(&handle, 2, &[3, 4, 5], 60);
    for (blocks, level) in [(40, SleepLevel::One), (300, SleepLevel::Two)] {
        assert_eq!(handle.sleep(level, Keep).wait(), Ok(()));
        resize(&handle, &model, &run, blocks);
        assert_eq!(handle.state(), EngineState::Asleep);
        let (held, planned) = cache(&handle);
        assert!(held == 0 && planned > 0);
        assert_eq!(handle.wake(Tags::ALL).wait(), Ok(Woken { asleep: false }));
        assert_eq!(cache(&handle), (planned, planned));
    }
    assert_eq!(kept.wait().ids, expected);
    // Of a paused engine, whose cache is there, or is not.
    assert_eq!(handle.pause(Keep, false).wait(), Ok(()));
    resize(&handle, &model, &run, 50);
    assert_eq!(handle.state(), EngineState::Paused);
    assert_eq!(handle.release_kv_cache().wait(), Ok(()));
    resize(&handle, &model, &run, 60);
    assert_eq!(cache(&handle).0, 0);
    assert_eq!(handle.wake(Tags::ALL).wait(), Ok(Woken { asleep: false }));
    assert_eq!(handle.resume().wait(), Ok(()));
    let (held, planned) = cache(&handle);
    assert_eq!(held, planned);
    assert_eq!(ask_ids(&handle, 3, &[3, 4, 5], 60).wait().ids, expected);
}

#[test]
fn what_does_not_fit_an_engine_that_runs_is_refused_and_changes_nothing() {
    let model = tiny();
    let run = run(&model, halves(&model));
    let handle = start(&model, &run);
    let before = handle.memory();
    let whole = vec![Shard::whole(&model.shape)];
    let longer = Run {
        max_model_len: 256,
        ..run.clone()
    };
    let others = [
        (self::run(&model, whole), 100, "2 ranks, 1 are asked for"),
        (longer, 100, "128 tokens, 256 are asked for"),
        (run.clone(), FLOOR - 1, "with a KV cache of 124"),
        (
            Run {
                max_num_seqs: 17,
                ..run.clone()
            },
            100,
            "rank 0 holds",
        ),
    ];
    for (other, blocks, part) in others {
        let refused = handle.resize(size(&model, &other, blocks)).wait();
        let ControlError::WrongState { message } = refused.unwrap_err() else {
            panic!("not refused: {part}");
        };
        assert!(message.contains(part), "{part}: {message}");
    }
    assert_eq!(handle.memory().ranks[0].accounts, before.ranks[0].accounts);
    assert_eq!(handle.memory().kv, before.kv);
    assert_eq!(handle.state(), EngineState::Serving);
}

#[test]
fn resizes_wait_behind_a_pause_and_are_refused_in_a_drain() {
    let model = tiny();
    let run = run(&model, halves(&model));
    let handle = harness::start_unloaded(&model, &run);
    let ask = |blocks| handle.resize(size(&model, &run, blocks));
    wait_for(&handle, |state| *state == EngineState::Serving);
    let running = ask_ids(&handle, 1, &[3, 4, 5], 100);
    running.wait_for(1);
    let (paused, resized) = (handle.pause(Wait, false), ask(40));
    assert_eq!(paused.wait(), Ok(()));
    assert_eq!(resized.wait().unwrap().kv_blocks, 41);
    assert_eq!(running.wait().ids.len(), 100);
    assert_eq!(handle.resume().wait(), Ok(()));

    let (asked, mut events) = request(2, &[3, 4, 5], 100);
    handle.submit(asked).unwrap();
    handle.drain();
    let late = ask(50).wait().unwrap_err();
    assert!(matches!(late, ControlError::Draining | ControlError::Ended));
    let mut last = None;
    while let Some(event) = events.blocking_recv() {
        last = Some(event);
    }
    let text = format!("{last:?}");
    assert!(
        text.contains(&format!("{:?}", FinishReason::Length)),
        "{text}"
    );
    wait_for(&handle, |state| *state == EngineState::Drained);
    assert_eq!(ask(50).wait(), Err(ControlError::Ended));
}

#[test]
fn resizes_are_counted_with_the_bytes_that_moved() {
    let model = tiny();
    let run = run(&model, halves(&model));
    let handle = start(&model, &run);
    let driver = || -> u64 {
        let ranks = handle.memory().ranks;
        ranks.iter().map(|rank| rank.driver.get()).sum()
    };
    let (before, resident) = (cache(&handle).0, driver());
    resize(&handle, &model, &run, 40);
    let (after, left) = (cache(&handle).0, driver());
    assert_eq!(
        resident - left,
        before - after,
        "by the kernel's own figures"
    );
    resize(&handle, &model, &run, 100);
    assert_eq!(driver(), resident);
    resize(&handle, &model, &run, 100);
    let counts = handle.stats().transitions[Transition::Resize as usize];
    assert_eq!((counts.done, counts.failed), (3, 0));
    assert_eq!(counts.given_back_bytes, before - after);
    assert_eq!(counts.taken_bytes, before - after);
    assert_eq!(handle.sleep(SleepLevel::One, Abort).wait(), Ok(()));
}
