//! Adapters that leave: who they answer is answered to the end, and then nothing of them is held.
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]

mod harness;

use harness::adapted::{Copied, ask_as, dynamic, opened, slots, start_with};
use harness::{Run, eventually, tiny};
use plimsoll_sidecar::engine::control::{Commands, ControlError, Woken};
use plimsoll_sidecar::engine::handle::EngineHandle;
use plimsoll_sidecar::engine::request::FinishReason;
use plimsoll_sidecar::engine::rest::PauseMode::Keep;
use plimsoll_sidecar::engine::rest::{SleepLevel, Tags};
use plimsoll_sidecar::model::Model;

const AWAKE: Result<Woken, ControlError> = Ok(Woken { asleep: false });

fn run(model: &Model, count: u32) -> Run {
    Run {
        adapters: slots(count, 2),
        ..Run::on_two_ranks(model)
    }
}

fn prompt() -> Vec<u32> {
    (3..40).collect()
}

/// Those that a sleep keeps are answered to the end, too, on one condition: nobody lets go of the adapter
/// while its memory is away.
#[test]
fn who_is_answered_when_an_adapter_goes_is_answered_to_the_end_through_a_sleep_too() {
    let model = tiny();
    for (level, let_go) in [
        (SleepLevel::One, false),
        (SleepLevel::Two, false),
        (SleepLevel::Two, true),
    ] {
        let handle = start_with(&model, &run(&model, 1), &[dynamic(&model, "plain")]);
        let whole = ask_as(&handle, 7, &prompt(), 400, Some("plain")).wait().ids;
        let held = ask_as(&handle, 7, &prompt(), 400, Some("plain"));
        held.wait_for(3);
        assert_eq!(handle.pause(Keep, false).wait(), Ok(()));
        assert_eq!(handle.unload_adapter("plain".to_owned()).wait(), Ok(()));
        assert_eq!(handle.resume().wait(), Ok(()));
        assert_eq!(handle.sleep(level, Keep).wait(), Ok(()));
        assert_eq!(handle.dynamic().adapters.len(), 1, "{level:?}");
        if let_go {
            assert_eq!(handle.unload_adapter("plain".to_owned()).wait(), Ok(()));
            let ended = held.wait().finished.unwrap().reason;
            assert_eq!(ended, FinishReason::NoAdapter);
            assert_eq!(handle.wake(Tags::ALL).wait(), AWAKE);
            assert!(handle.dynamic().adapters.is_empty());
            continue;
        }
        assert_eq!(handle.wake(Tags::ALL).wait(), AWAKE);
        assert_eq!(held.wait().ids, whole, "{level:?}");
        eventually("a free slot", || handle.dynamic().adapters.is_empty());
    }
}

/// Files of this process under a folder.
fn open_files(folder: &std::path::Path) -> usize {
    let all = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let files = all.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    files.filter(|file| file.starts_with(folder)).count()
}

#[test]
fn files_are_closed_when_their_adapter_is_replaced_or_its_last_request_ends() {
    let model = tiny();
    let (one, two) = (Copied::of("plain"), Copied::of("plain"));
    let load = |of: &Copied, scale: f64, handle: &EngineHandle| {
        let adapter = opened(&model, "mine", &of.0, scale);
        assert_eq!(handle.load_adapter(adapter, true).wait(), Ok(()));
    };
    let first = opened(&model, "mine", &one.0, 1.0);
    let handle = start_with(&model, &run(&model, 1), &[first]);
    assert_eq!(open_files(&one.0), 1);
    load(&two, 4.0, &handle);
    eventually("the first's file is closed", || open_files(&one.0) == 0);
    let held = ask_as(&handle, 7, &prompt(), 400, Some("mine"));
    held.wait_for(3);
    assert_eq!(handle.unload_adapter("mine".to_owned()).wait(), Ok(()));
    assert_eq!(held.wait().ids.len(), 400);
    eventually("the second's file is closed", || open_files(&two.0) == 0);
}
