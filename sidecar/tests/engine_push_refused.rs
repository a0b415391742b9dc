//! Updates that are sent and come to nothing: the old weights, or an engine out of service that says so,
//! and never a mixture that answers.
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]

mod harness;

use std::sync::Arc;

use harness::altered::Altered;
use harness::sent::{file, send};
use harness::{Dice, Run, ask_ids, open, request, start, tiny, wait_for};
use plimsoll_planner::Account;
use plimsoll_sidecar::engine::control::{Commands, ControlError, Woken};
use plimsoll_sidecar::engine::handle::{EngineHandle, EngineState};
use plimsoll_sidecar::engine::request::{FinishReason, Refused};
use plimsoll_sidecar::engine::rest::PauseMode::{Abort, Keep};
use plimsoll_sidecar::engine::rest::{SleepLevel, Tags};
use plimsoll_sidecar::engine::weights::Abandoned;

const AWAKE: Result<Woken, ControlError> = Ok(Woken { asleep: false });

fn engine() -> EngineHandle {
    let model = tiny();
    start(&model, &Run::on_two_ranks(&model))
}

fn said(handle: &EngineHandle) -> Vec<u32> {
    let prompt: Vec<u32> = (3..53).collect();
    ask_ids(handle, 1, &prompt, 30).wait().ids
}

/// Every second tensor of what is needed.
fn half(handle: &EngineHandle, of: &Altered) -> Vec<u8> {
    let needed = handle.pushable().needed().iter().step_by(2);
    file(&*open(of.path()).tensors, needed.map(String::as_str))
}

fn reload(handle: &EngineHandle) {
    let own = Arc::new(handle.open_weights(&handle.weights().path).unwrap());
    handle.update(own, None, Keep).wait().unwrap();
}

fn wrong_state<T: std::fmt::Debug>(answer: Result<T, ControlError>) -> String {
    match answer.unwrap_err() {
        ControlError::WrongState { message } => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn half_of_the_tensors_is_no_update_and_ends_out_of_service_until_all_come_or_the_files_are_read() {
    let other = Altered::other();
    let handle = engine();
    let old = said(&handle);
    for repeats in [false, true] {
        assert_eq!(handle.open_push(true, Keep).wait(), Ok(()));
        let lacks = wrong_state(handle.close_push(None).wait());
        assert!(lacks.contains("no tensor has come"), "{lacks}");
        send(&handle, &half(&handle, &other), &mut Dice(1)).unwrap();
        let lacks = wrong_state(handle.close_push(None).wait());
        assert!(
            lacks.contains("tensors are missing: `") && lacks.contains("more"),
            "{lacks}"
        );
        assert!(handle.rest().updating, "it is open still");
        let left = handle
            .abandon_push("the trainer was killed".to_owned())
            .wait();
        assert_eq!(left, Ok(Abandoned::OutOfService));
        assert_eq!(handle.state(), EngineState::Asleep);
        let rest = handle.rest();
        assert_eq!(rest.weights_verified, Some(false));
        assert!(
            rest.trouble.contains("the trainer was killed"),
            "{}",
            rest.trouble
        );
        assert!(rest.trouble.contains("tensor `model."), "{}", rest.trouble);
        assert_eq!(handle.submit(request(2, &[1], 1).0), Err(Refused::Asleep));
        let woken = handle.wake(Tags::ALL).wait();
        assert!(
            matches!(woken, Err(ControlError::NotWoken { .. })),
            "{woken:?}"
        );
        let partial = wrong_state(handle.open_push(false, Keep).wait());
        assert!(partial.contains("not whole"), "{partial}");
        if repeats {
            assert_eq!(handle.open_push(true, Keep).wait(), Ok(()));
            let needed = handle.pushable().needed().iter();
            let all = file(&*tiny().tensors, needed.map(String::as_str));
            send(&handle, &all, &mut Dice(2)).unwrap();
            assert!(handle.close_push(None).wait().is_ok());
        } else {
            reload(&handle);
        }
        assert_eq!(handle.state(), EngineState::Serving);
        assert_eq!(handle.rest().trouble, "");
        assert_eq!(said(&handle), old);
    }
}

#[test]
fn an_update_of_which_nothing_was_written_leaves_everything_as_it_was() {
    let handle = engine();
    let old = said(&handle);
    let kept = ask_ids(&handle, 2, &[3, 4, 5], 200);
    kept.wait_for(1);
    assert_eq!(handle.open_push(true, Keep).wait(), Ok(()));
    let left = handle.abandon_push("never mind".to_owned()).wait();
    assert_eq!(left, Ok(Abandoned::Unharmed));
    assert_eq!(handle.state(), EngineState::Serving);
    assert_eq!(handle.rest().weights_verified, None);
    assert_eq!(kept.wait().ids.len(), 200);
    assert_eq!(said(&handle), old);
    // With the weights away: their memory is given back again, and a wake reads the files.
    assert_eq!(handle.sleep(SleepLevel::Two, Abort).wait(), Ok(()));
    for writes in [false, true] {
        assert_eq!(handle.open_push(true, Keep).wait(), Ok(()));
        assert!(!handle.rest().out.contains(&Account::Weights));
        if writes {
            send(&handle, &half(&handle, &Altered::other()), &mut Dice(1)).unwrap();
        }
        let left = handle.abandon_push("never mind".to_owned()).wait();
        assert_eq!(left, Ok(Abandoned::Away));
        assert!(handle.rest().out.contains(&Account::Weights));
    }
    assert_eq!(handle.wake(Tags::ALL).wait(), AWAKE);
    assert_eq!(said(&handle), old);
}

#[test]
fn while_an_update_is_open_nothing_else_touches_the_weights_and_a_deep_sleep_ends_it() {
    let other = Altered::other();
    let handle = engine();
    let old = said(&handle);
    assert_eq!(handle.open_push(true, Keep).wait(), Ok(()));
    send(&handle, &half(&handle, &other), &mut Dice(1)).unwrap();
    assert!(wrong_state(handle.open_push(true, Keep).wait()).contains("/finish_weight_update"));
    let folder = Arc::new(handle.open_weights(other.path()).unwrap());
    assert!(wrong_state(handle.update(folder, None, Keep).wait()).contains("is open"));
    // The cache may go meanwhile, and must not come back.
    assert_eq!(handle.sleep(SleepLevel::One, Keep).wait(), Ok(()));
    assert!(wrong_state(handle.wake(Tags::ALL).wait()).contains("is open"));
    assert_eq!(handle.sleep(SleepLevel::Two, Keep).wait(), Ok(()));
    assert!(!handle.rest().updating);
    let late = wrong_state(handle.close_push(None).wait());
    assert!(late.contains("not any more"), "{late}");
    assert_eq!(handle.wake(Tags::ALL).wait(), AWAKE);
    assert_eq!(said(&handle), old);
    // What runs cannot be finished with a mixture.
    let held = ask_ids(&handle, 2, &[3, 4, 5], 200);
    held.wait_for(1);
    assert_eq!(handle.open_push(true, Keep).wait(), Ok(()));
    send(&handle, &half(&handle, &other), &mut Dice(1)).unwrap();
    handle.drain();
    assert_eq!(held.wait().finished.unwrap().reason, FinishReason::Abort);
    wait_for(&handle, |state| *state == EngineState::Drained);
}

#[test]
fn weights_whose_logits_are_no_numbers_are_not_adopted() {
    let huge = Altered::of(3.0e38);
    let handle = engine();
    let old = said(&handle);
    assert_eq!(handle.open_push(false, Keep).wait(), Ok(()));
    let down = "model.layers.1.mlp.down_proj.weight";
    send(
        &handle,
        &file(&*open(huge.path()).tensors, [down]),
        &mut Dice(1),
    )
    .unwrap();
    let ControlError::NotUpdated { message } = handle.close_push(None).wait().unwrap_err() else {
        panic!("it failed otherwise");
    };
    assert!(message.contains("not numbers"), "{message}");
    assert_eq!(handle.state(), EngineState::Asleep);
    assert_eq!(handle.rest().weights_verified, Some(false));
    reload(&handle);
    assert_eq!(said(&handle), old);
}

#[test]
fn whole_tensors_come_in_any_order_and_none_without_an_update() {
    use plimsoll_sidecar::weights::piece::Piece;
    use plimsoll_sidecar::weights::stream::{SafetensorsStream, Step};
    fn pieces(mut file: &[u8]) -> Vec<Arc<Piece>> {
        let mut stream = SafetensorsStream::new(None);
        let mut pieces = Vec::new();
        loop {
            match stream.feed(&mut file).unwrap() {
                Step::Taken => return pieces,
                Step::HeaderBegins(_) | Step::Tensors(_) => {}
                Step::Piece(piece) => pieces.push(Arc::new(piece)),
            }
        }
    }
    let handle = engine();
    let names = handle.pushable().needed();
    let file = pieces(&file(&*tiny().tensors, names.iter().map(String::as_str)));
    let refused = handle.write_push(Arc::clone(&file[0])).wait();
    assert!(wrong_state(refused).contains("no update is open"));
    assert_eq!(handle.open_push(true, Keep).wait(), Ok(()));
    assert_eq!(handle.write_push(Arc::clone(&file[0])).wait(), Ok(()));
    // Whole tensors may come in any order, and again.
    for at in [3, 0, 3] {
        assert_eq!(handle.write_push(Arc::clone(&file[at])).wait(), Ok(()));
    }
}

#[test]
fn weights_that_are_away_and_whose_files_are_gone_come_from_another_folder() {
    let (gone, other) = (Altered::copy(), Altered::other());
    let model = open(gone.path());
    let handle = start(&model, &Run::on_two_ranks(&model));
    let new = {
        let model = open(other.path());
        said(&start(&model, &Run::on_two_ranks(&model)))
    };
    gone.cut(1000);
    assert_eq!(handle.sleep(SleepLevel::Two, Abort).wait(), Ok(()));
    let woken = handle.wake(Tags::ALL).wait();
    assert!(
        matches!(woken, Err(ControlError::NotWoken { .. })),
        "{woken:?}"
    );
    // A folder that turns out unreadable leaves them away.
    let torn = Altered::other();
    let weights = handle.open_weights(torn.path()).unwrap();
    torn.cut(400_000);
    let failed = handle.update(Arc::new(weights), None, Keep).wait();
    assert!(
        matches!(failed, Err(ControlError::NotUpdated { .. })),
        "{failed:?}"
    );
    assert!(handle.rest().out.contains(&Account::Weights));
    let weights = Arc::new(handle.open_weights(other.path()).unwrap());
    assert!(handle.update(weights, None, Keep).wait().is_ok());
    assert_eq!(handle.wake(Tags::ALL).wait(), AWAKE);
    assert_eq!(said(&handle), new);
}
