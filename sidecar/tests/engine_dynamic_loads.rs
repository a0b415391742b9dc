//! Adapters that come and go while an engine serves, and what is left of them after sleeps, updates and
//! resizes.
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]

mod harness;

use std::sync::Arc;

use harness::adapted::{Copied, ask_as, dynamic, folder, opened, slots, start_with};
use harness::{Run, ask_ids, eventually, halves, size, tiny};
use plimsoll_planner::Account;
use plimsoll_sidecar::adapters::Dynamic;
use plimsoll_sidecar::engine::control::{Commands, ControlError, Woken};
use plimsoll_sidecar::engine::dynamic::AdapterRefused;
use plimsoll_sidecar::engine::handle::EngineHandle;
use plimsoll_sidecar::engine::request::FinishReason;
use plimsoll_sidecar::engine::rest::PauseMode::{Abort, Keep};
use plimsoll_sidecar::engine::rest::{SleepLevel, Tags};
use plimsoll_sidecar::model::Model;
use serde_json::json;

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

fn said(handle: &EngineHandle, adapter: Option<&str>) -> Vec<u32> {
    let answered = ask_as(handle, 1, &prompt(), 16, adapter).wait();
    assert_eq!(answered.finished.unwrap().reason, FinishReason::Length);
    answered.ids
}

/// What an engine that has this adapter alone says.
fn expected(model: &Arc<Model>, adapter: &Arc<Dynamic>) -> Vec<u32> {
    let handle = start_with(model, &run(model, 1), std::slice::from_ref(adapter));
    said(&handle, Some(&adapter.at.name))
}

fn refused(handle: &EngineHandle, adapter: &Arc<Dynamic>, in_place: bool) -> AdapterRefused {
    match handle.load_adapter(Arc::clone(adapter), in_place).wait() {
        Err(ControlError::Adapter(refused)) => refused,
        other => panic!("{other:?}"),
    }
}

#[test]
fn adapters_come_and_go_within_their_slots_and_others_go_on_as_they_were() {
    let model = tiny();
    let (plain, fan) = (dynamic(&model, "plain"), dynamic(&model, "fan-in"));
    let loud = opened(&model, "loud", &folder("plain"), 4.0);
    let handle = start_with(&model, &run(&model, 2), &[]);
    let base = said(&handle, None);
    for adapter in [&plain, &fan] {
        assert_eq!(
            handle.load_adapter(Arc::clone(adapter), false).wait(),
            Ok(())
        );
        assert_eq!(
            said(&handle, Some(&adapter.at.name)),
            expected(&model, adapter)
        );
    }
    assert_ne!(said(&handle, Some("plain")), base);
    let name = "plain".to_owned();
    assert_eq!(
        refused(&handle, &plain, false),
        AdapterRefused::Loaded { name }
    );
    let full = AdapterRefused::NoSlot {
        slots: 2,
        leaving: 0,
    };
    assert_eq!(refused(&handle, &loud, false), full);
    assert_eq!(handle.unload_adapter("plain".to_owned()).wait(), Ok(()));
    let name = "plain".to_owned();
    let unknown = Err(ControlError::Adapter(AdapterRefused::Unknown { name }));
    assert_eq!(handle.unload_adapter("plain".to_owned()).wait(), unknown);
    assert!(!handle.dynamic().serves("plain"));
    assert_eq!(handle.load_adapter(Arc::clone(&loud), false).wait(), Ok(()));
    assert_eq!(said(&handle, Some("loud")), expected(&model, &loud));
    assert_eq!(said(&handle, Some("fan-in")), expected(&model, &fan));
    assert_eq!(said(&handle, None), base);
    let checks = handle.check_weights().wait().unwrap();
    assert!(
        checks.iter().all(|check| check.changed.is_empty()),
        "{checks:?}"
    );
}

#[test]
fn an_adapter_of_too_large_a_rank_or_on_an_engine_without_slots_is_refused_with_the_flag() {
    let model = tiny();
    let plain = dynamic(&model, "plain");
    let narrow = Run {
        adapters: slots(1, 1),
        ..run(&model, 1)
    };
    for (run, says) in [
        (
            narrow,
            "has rank 2, and a slot has room for 1: start with --max-rank 2",
        ),
        (
            Run {
                adapters: slots(0, 0),
                ..run(&model, 1)
            },
            "start it with --max-adapters",
        ),
    ] {
        let handle = start_with(&model, &run, &[]);
        let told = refused(&handle, &plain, false).to_string();
        assert!(told.contains(says), "{told}");
    }
}

/// Requests that an adapter answers when it is unloaded are finished with it; new ones are refused.
#[test]
fn who_is_answered_when_an_adapter_goes_is_answered_to_the_end_and_then_the_slot_is_free() {
    let model = tiny();
    let (plain, fan) = (dynamic(&model, "plain"), dynamic(&model, "fan-in"));
    let handle = start_with(&model, &run(&model, 1), &[Arc::clone(&plain)]);
    let whole = ask_as(&handle, 7, &prompt(), 400, Some("plain")).wait().ids;
    let held = ask_as(&handle, 7, &prompt(), 400, Some("plain"));
    held.wait_for(3);
    assert_eq!(handle.pause(Keep, false).wait(), Ok(()));
    assert_eq!(handle.unload_adapter("plain".to_owned()).wait(), Ok(()));
    let leaving = AdapterRefused::NoSlot {
        slots: 1,
        leaving: 1,
    };
    assert_eq!(refused(&handle, &fan, false), leaving);
    let (mut late, _) = harness::request(8, &prompt(), 4);
    late.adapter = Some("plain".into());
    assert!(handle.submit(late).is_err());
    assert_eq!(handle.resume().wait(), Ok(()));
    assert_eq!(held.wait().ids, whole);
    eventually("a free slot", || handle.dynamic().adapters.is_empty());
    assert_eq!(handle.load_adapter(Arc::clone(&fan), false).wait(), Ok(()));
    assert_eq!(said(&handle, Some("fan-in")), expected(&model, &fan));
}

/// As after an update of the weights: what was said stays said, the rest is the new one's.
#[test]
fn an_adapter_that_is_replaced_in_place_answers_who_waits_from_then_on() {
    let model = tiny();
    let loud = opened(&model, "plain", &folder("plain"), 4.0);
    let handle = start_with(&model, &run(&model, 1), &[dynamic(&model, "plain")]);
    let held = ask_as(&handle, 7, &prompt(), 60, Some("plain"));
    held.wait_for(3);
    assert_eq!(handle.pause(Keep, false).wait(), Ok(()));
    let waiting = ask_as(&handle, 8, &prompt(), 16, Some("plain"));
    assert_eq!(handle.load_adapter(Arc::clone(&loud), true).wait(), Ok(()));
    assert_eq!(handle.resume().wait(), Ok(()));
    assert_eq!(held.wait().ids.len(), 60);
    let new = expected(&model, &loud);
    assert_eq!(waiting.wait().ids, new);
    assert_eq!(said(&handle, Some("plain")), new);
    assert_eq!(handle.dynamic().adapters[0].load, 2);
}

#[test]
fn an_adapter_that_changes_nothing_or_gives_no_numbers_leaves_what_was_there() {
    let model = tiny();
    let plain = dynamic(&model, "plain");
    let handle = start_with(&model, &run(&model, 2), &[Arc::clone(&plain)]);
    let before = (said(&handle, None), said(&handle, Some("plain")));
    let faint = Copied::of("plain").with("lora_alpha", json!(1e-40));
    let huge = Copied::of("plain").with("lora_alpha", json!(1e38));
    for (folder, says) in [
        (&faint, "is answered as without, bit for bit"),
        (&huge, "has logits that are not numbers"),
    ] {
        for (name, in_place) in [("plain", true), ("new", false)] {
            let bad = opened(&model, name, &folder.0, 1.0);
            let told = refused(&handle, &bad, in_place).to_string();
            assert!(
                told.contains(&format!("adapter `{name}`: a probe of fixed tokens")),
                "{told}"
            );
            assert!(told.contains(says), "{told}");
            assert_eq!((said(&handle, None), said(&handle, Some("plain"))), before);
            assert!(!handle.dynamic().serves("new"));
        }
    }
    let checks = handle.check_weights().wait().unwrap();
    assert!(
        checks.iter().all(|check| check.changed.is_empty()),
        "{checks:?}"
    );
}

/// It is read once more to be put back: other numbers are not served under its name.
#[test]
fn what_was_there_goes_where_its_files_are_others_when_it_is_put_back() {
    let model = tiny();
    let copy = Copied::of("plain");
    let mine = opened(&model, "mine", &copy.0, 1.0);
    let handle = start_with(&model, &run(&model, 2), &[mine, dynamic(&model, "fan-in")]);
    let before = (said(&handle, None), said(&handle, Some("fan-in")));
    let mut bytes = std::fs::read(copy.weights()).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(copy.weights(), &bytes).unwrap();
    let faint = Copied::of("plain").with("lora_alpha", json!(1e-40));
    let told = refused(&handle, &opened(&model, "mine", &faint.0, 1.0), true).to_string();
    assert!(told.contains("a probe of fixed tokens"), "{told}");
    assert!(!handle.dynamic().serves("mine"));
    assert_eq!((said(&handle, None), said(&handle, Some("fan-in"))), before);
    let checks = handle.check_weights().wait().unwrap();
    let clean = checks.iter().all(|check| check.changed.is_empty());
    assert!(clean, "{checks:?}");
}

/// Where upstream woke without the adapter, and without a word.
#[test]
fn adapters_survive_every_sleep_and_are_proved_as_weights_are() {
    let model = tiny();
    let plain = dynamic(&model, "plain");
    let handle = start_with(
        &model,
        &run(&model, 2),
        &[Arc::clone(&plain), dynamic(&model, "fan-in")],
    );
    let names = [None, Some("plain"), Some("fan-in")];
    let all = || names.map(|name| said(&handle, name));
    let before = all();
    let held = || -> u64 {
        let ranks = handle.memory().ranks;
        let rows = ranks.iter().flat_map(|rank| &rank.accounts);
        let adapters = rows.filter(|row| row.account == Account::Adapters);
        adapters.map(|row| row.reserved.get()).sum()
    };
    let full = held();
    assert!(full > 0);
    let weights = Tags {
        weights: true,
        kv_cache: false,
    };
    let cache = Tags {
        weights: false,
        kv_cache: true,
    };
    for (level, wakes) in [
        (SleepLevel::One, vec![Tags::ALL]),
        (SleepLevel::Two, vec![Tags::ALL]),
        (SleepLevel::Two, vec![weights, cache]),
        (SleepLevel::Two, vec![cache, weights]),
    ] {
        let kept = ask_as(&handle, 9, &prompt(), 200, Some("plain"));
        kept.wait_for(2);
        assert_eq!(handle.sleep(level, Keep).wait(), Ok(()));
        let away = if level == SleepLevel::One { full } else { 0 };
        assert_eq!(held(), away, "{level:?}");
        for tags in wakes {
            assert!(handle.wake(tags).wait().is_ok());
        }
        assert_eq!(handle.rest().weights_verified, Some(true), "{level:?}");
        assert_eq!(held(), full);
        assert_eq!(kept.wait().ids.len(), 200);
        assert_eq!(all(), before, "{level:?}");
    }
    // One that goes while all are away is not missed.
    assert_eq!(handle.sleep(SleepLevel::Two, Abort).wait(), Ok(()));
    assert_eq!(handle.unload_adapter("fan-in".to_owned()).wait(), Ok(()));
    let loud = opened(&model, "loud", &folder("plain"), 4.0);
    let asleep = handle.load_adapter(Arc::clone(&loud), false).wait();
    assert!(
        matches!(asleep, Err(ControlError::WrongState { .. })),
        "{asleep:?}"
    );
    assert_eq!(handle.wake(Tags::ALL).wait(), AWAKE);
    assert_eq!(said(&handle, Some("plain")), before[1]);
    assert_eq!(handle.load_adapter(Arc::clone(&loud), false).wait(), Ok(()));
}

/// Files stay open, as a model's do; ones that are written over are found by their checksums.
#[test]
fn a_deleted_folder_is_still_read_and_other_files_are_named_by_a_wake_that_can_be_repeated() {
    let model = tiny();
    let copy = Copied::of("plain");
    let adapter = opened(&model, "mine", &copy.0, 1.0);
    let handle = start_with(&model, &run(&model, 1), &[adapter]);
    let before = said(&handle, Some("mine"));
    let sleep = || assert_eq!(handle.sleep(SleepLevel::Two, Abort).wait(), Ok(()));
    let whole = std::fs::read(copy.weights()).unwrap();
    for broken in ["short", "other"] {
        sleep();
        let mut bytes = whole.clone();
        match broken {
            "short" => bytes.truncate(whole.len() / 2),
            _ => *bytes.last_mut().unwrap() ^= 1,
        }
        std::fs::write(copy.weights(), &bytes).unwrap();
        for _ in 0..2 {
            let Err(ControlError::NotWoken { message }) = handle.wake(Tags::ALL).wait() else {
                panic!("woken with a {broken} file");
            };
            assert!(message.contains("adapter `mine`"), "{message}");
        }
        std::fs::write(copy.weights(), &whole).unwrap();
        assert_eq!(handle.wake(Tags::ALL).wait(), AWAKE, "{broken}");
        assert_eq!(said(&handle, Some("mine")), before);
    }
    sleep();
    std::fs::remove_dir_all(&copy.0).unwrap();
    assert_eq!(said_after_wake(&handle), before);
    // And where it cannot be read, the way out is to let go of it.
    sleep();
    assert_eq!(handle.unload_adapter("mine".to_owned()).wait(), Ok(()));
    assert_eq!(handle.wake(Tags::ALL).wait(), AWAKE);
    assert!(handle.dynamic().adapters.is_empty());
}

fn said_after_wake(handle: &EngineHandle) -> Vec<u32> {
    assert_eq!(handle.wake(Tags::ALL).wait(), AWAKE);
    said(handle, Some("mine"))
}

#[test]
fn updates_of_the_weights_and_resizes_leave_adapters_where_they_are() {
    let model = tiny();
    let run = run(&model, 1);
    let handle = start_with(&model, &run, &[dynamic(&model, "plain")]);
    let before = said(&handle, Some("plain"));
    let own = Arc::new(handle.open_weights(&handle.weights().path).unwrap());
    handle.update(own, None, Keep).wait().unwrap();
    assert_eq!(said(&handle, Some("plain")), before);
    for blocks in [60, 200] {
        handle.resize(size(&model, &run, blocks)).wait().unwrap();
        assert_eq!(said(&handle, Some("plain")), before);
    }
    let other = harness::altered::Altered::other();
    let other = Arc::new(handle.open_weights(other.path()).unwrap());
    handle.update(other, None, Keep).wait().unwrap();
    assert!(handle.dynamic().serves("plain"));
    assert_ne!(
        said(&handle, Some("plain")),
        before,
        "it is over other weights now"
    );
}

/// Loads and unloads beside requests that never stop: nobody is answered by somebody else's adapter.
#[test]
fn requests_under_way_are_not_touched_by_loads_and_unloads_of_others() {
    let model = tiny();
    let (plain, fan) = (dynamic(&model, "plain"), dynamic(&model, "fan-in"));
    let run = Run {
        shards: halves(&model),
        ..run(&model, 2)
    };
    let handle = start_with(&model, &run, &[Arc::clone(&plain)]);
    let ids = |adapter| ask_as(&handle, 3, &prompt(), 300, adapter).wait().ids;
    let (base, with) = (ids(None), ids(Some("plain")));
    let under_way = [
        ask_ids(&handle, 11, &prompt(), 300),
        ask_as(&handle, 12, &prompt(), 300, Some("plain")),
    ];
    for _ in 0..10 {
        assert_eq!(handle.load_adapter(Arc::clone(&fan), false).wait(), Ok(()));
        let answered = ask_as(&handle, 13, &prompt(), 4, Some("fan-in"));
        assert_eq!(handle.unload_adapter("fan-in".to_owned()).wait(), Ok(()));
        assert_eq!(answered.wait().ids.len(), 4);
        eventually("a free slot", || handle.dynamic().adapters.len() == 1);
    }
    let [one, other] = under_way.map(harness::Answer::wait);
    assert_eq!(one.ids, base);
    assert_eq!(other.ids, with);
}
