//! The control queue: seeded random stories of commands, requests, drains, stops and failures. Every
//! asker is answered exactly once and every request ends, whatever the engine comes to.
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]

mod harness;

use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::{Dice, Run, halves, request, start, start_unloaded, tiny};
use plimsoll_sidecar::engine::control::{COMMANDS_MAX, Commands, ControlError, Reply};
use plimsoll_sidecar::engine::handle::EngineState;
use plimsoll_sidecar::engine::rest::{PauseMode, SleepLevel, Tags};
use plimsoll_sidecar::model::Model;

/// Waits for an answer that must come.
fn answered<T>(mut reply: Reply<T>, what: &str) -> Result<T, ControlError> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(answer) = reply.poll() {
            return answer;
        }
        assert!(Instant::now() < end, "{what} was never answered");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The tiny model, and one that fails in its first step.
fn models() -> [Arc<Model>; 2] {
    let mut broken = Arc::into_inner(tiny()).unwrap();
    broken.params.sliding_window = Some(0);
    [tiny(), Arc::new(broken)]
}

#[test]
fn every_asker_is_answered_once_whatever_the_engine_comes_to() {
    let models = models();
    let (mut done, mut refused) = (0, 0);
    for seed in 0..60 {
        let mut dice = Dice(seed);
        let model = &models[usize::from(dice.roll(3) == 0)];
        let run = Run {
            shards: halves(model),
            // The broken one is to fail while it serves.
            probe: false,
            ..Run::whole(&model.shape)
        };
        let handle = match dice.roll(4) {
            0 => start_unloaded(model, &run),
            _ => start(model, &run),
        };
        let (mut checks, mut replies, mut requests) = (Vec::new(), Vec::new(), Vec::new());
        let mut wakes = Vec::new();
        for id in 0..30 {
            match dice.roll(20) {
                0..5 => checks.push(handle.check_weights()),
                5 => {
                    let levels = [SleepLevel::Zero, SleepLevel::One, SleepLevel::Two];
                    let mode = [PauseMode::Abort, PauseMode::Wait, PauseMode::Keep];
                    let (level, mode) = (dice.roll(3), mode[dice.roll(3)]);
                    replies.push(handle.sleep(levels[level], mode));
                }
                6 => wakes.push(handle.wake(Tags::ALL)),
                7 => replies.push(handle.release_kv_cache()),
                8 | 9 => {
                    let mode = [PauseMode::Abort, PauseMode::Wait, PauseMode::Keep];
                    let clears = dice.roll(2) == 0;
                    replies.push(handle.pause(mode[dice.roll(3)], clears));
                }
                10 => replies.push(handle.resume()),
                11 => replies.push(handle.reset_prefix_cache(dice.roll(2) == 0)),
                12..18 => {
                    let (asked, events) = request(id, &[1, 2, 3], 20);
                    requests.extend(handle.submit(asked).is_ok().then_some(events));
                }
                18 => handle.drain(),
                _ if dice.roll(2) == 0 => handle.stop(),
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        handle.drain();
        for reply in replies {
            match answered(reply, &format!("seed {seed}: a command")) {
                Ok(()) => done += 1,
                Err(_) => refused += 1,
            }
        }
        for wake in wakes {
            match answered(wake, &format!("seed {seed}: a wake")) {
                Ok(woken) => assert!(!woken.asleep),
                Err(_) => refused += 1,
            }
        }
        for check in checks {
            match answered(check, &format!("seed {seed}: a check")) {
                Ok(ranks) => {
                    assert_eq!(ranks.len(), 2);
                    done += 1;
                }
                Err(_) => refused += 1,
            }
        }
        // Each ends with its channel; a closed one is an end, too.
        for mut events in requests {
            while events.blocking_recv().is_some() {}
        }
        let end = Instant::now() + Duration::from_secs(20);
        while !matches!(
            handle.state(),
            EngineState::Drained | EngineState::Failed { .. }
        ) {
            assert!(Instant::now() < end, "seed {seed}: {:?}", handle.state());
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(answered(handle.check_weights(), "a late check").is_err());
    }
    assert!(done > 20 && refused > 20, "{done} made, {refused} refused");
}

#[test]
fn a_full_queue_answers_at_once_with_a_time_to_come_back() {
    let model = tiny();
    let handle = start(&model, &Run::whole(&model.shape));
    // Faster than any engine can check; some of these find the queue full.
    let replies: Vec<_> = (0..2000).map(|_| handle.check_weights()).collect();
    let answers: Vec<_> = replies
        .into_iter()
        .map(|r| answered(r, "a check"))
        .collect();
    let full = answers
        .iter()
        .filter_map(|answer| answer.as_ref().err())
        .inspect(|error| {
            let ControlError::QueueFull { limit, retry_after } = error else {
                panic!("{error}");
            };
            assert_eq!(*limit, COMMANDS_MAX);
            assert!(*retry_after >= Duration::from_secs(1));
        })
        .count();
    assert!(full > 0, "the queue was never full");
    assert!(answers.iter().filter(|answer| answer.is_ok()).count() >= COMMANDS_MAX);
}
