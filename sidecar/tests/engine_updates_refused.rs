//! Updates that must not be: what does not fit is refused before a byte is written, and what ends half
//! way is never served.
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]

mod harness;

use std::path::Path;
use std::sync::Arc;

use harness::altered::{Altered, rename, set};
use harness::watched::guarded;
use harness::{Run, ask_ids, eventually, open, request, start, start_unloaded, tiny};
use plimsoll_sidecar::engine::control::{Commands, ControlError, Woken};
use plimsoll_sidecar::engine::handle::{EngineHandle, EngineState};
use plimsoll_sidecar::engine::request::Refused;
use plimsoll_sidecar::engine::rest::PauseMode::{Abort, Keep};
use plimsoll_sidecar::engine::rest::{SleepLevel, Tags};
use plimsoll_sidecar::model::{ModelError, Replacement};
use serde_json::json;

const DOWN: &str = "model.layers.1.mlp.down_proj.weight";

fn said(handle: &EngineHandle) -> Vec<u32> {
    let prompt: Vec<u32> = (3..53).collect();
    ask_ids(handle, 1, &prompt, 30).wait().ids
}

fn started_on(folder: &Altered) -> Vec<u32> {
    let model = open(folder.path());
    said(&start(&model, &Run::on_two_ranks(&model)))
}

#[test]
fn what_does_not_fit_is_refused_by_name_before_a_byte_is_written() {
    let model = tiny();
    let handle = start(&model, &Run::on_two_ranks(&model));
    let old = said(&handle);
    let down = |change: fn(&mut serde_json::Map<String, serde_json::Value>)| {
        Altered::other().with_header(change)
    };
    let cut = Altered::other();
    cut.cut(1000);
    let cases = [
        (
            down(|header| rename(header, DOWN, "model.layers.1.mlp.dawn_proj.weight")),
            DOWN,
        ),
        (
            down(|header| set(header, DOWN, "shape", &[352, 64])),
            "[352, 64]",
        ),
        (
            down(|header| {
                header[DOWN]["dtype"] = json!("BF16");
                header[DOWN]["shape"] = json!([64, 704]);
            }),
            DOWN,
        ),
        // As many bytes to a number, and another type.
        (down(|header| header[DOWN]["dtype"] = json!("I32")), "I32"),
        (Altered::other().without_tensor(DOWN), DOWN),
        (
            Altered::other().with_tensor("model.layers.1.self_attn.rotary_emb.inv_freq"),
            "inv_freq",
        ),
        (cut, "model.safetensors"),
        (
            Altered::other().with_config("rms_norm_eps", json!(0.0625)),
            "rms_eps: 0.0625",
        ),
        (
            Altered::other().with_config("num_hidden_layers", json!(1)),
            "layers: 1",
        ),
        (
            Altered::other().with_config("vocab_size", json!(514)),
            "vocab: 514",
        ),
        (Altered::other().without("config.json"), "config.json"),
        (
            Altered::other().without("model.safetensors"),
            "model.safetensors",
        ),
    ];
    for (at, (folder, named)) in cases.into_iter().enumerate() {
        let refused = handle.open_weights(folder.path());
        let message = refused.map(|_| ()).unwrap_err().to_string();
        assert!(message.contains(named), "case {at}: {message}");
    }
    assert!(handle.open_weights(Path::new("/nowhere")).is_err());
    // A trainer saves no tokenizer.
    let bare = Altered::other()
        .without("tokenizer.json")
        .without("generation_config.json");
    assert!(handle.open_weights(bare.path()).is_ok());
    assert_eq!(said(&handle), old);
    assert_eq!(handle.weights().writes, 0);
}

/// Out of service, and a wake does not change that.
fn check_out(handle: &EngineHandle, updated: Result<(), ControlError>, why: &str) {
    let Err(ControlError::NotUpdated { message }) = updated else {
        panic!("{updated:?}");
    };
    assert!(message.contains(why), "{message}");
    assert_eq!(handle.state(), EngineState::Asleep);
    assert_eq!(handle.rest().weights_verified, Some(false));
    assert_eq!(handle.rest().trouble, message);
    assert_eq!(handle.submit(request(2, &[1], 1).0), Err(Refused::Asleep));
    let woken = handle.wake(Tags::ALL).wait();
    assert!(
        matches!(woken, Err(ControlError::NotWoken { .. })),
        "{woken:?}"
    );
    assert_eq!(handle.weights().version, "default");
    let checks = handle.check_weights().wait().unwrap();
    assert!(
        checks.iter().any(|check| !check.changed.is_empty()),
        "{checks:?}"
    );
}

/// The weights before it are read again.
fn go_back(handle: &EngineHandle) {
    assert_eq!(handle.sleep(SleepLevel::Two, Abort).wait(), Ok(()));
    assert_eq!(handle.wake(Tags::ALL).wait(), Ok(Woken { asleep: false }));
    assert_eq!(handle.state(), EngineState::Serving);
}

fn update(handle: &EngineHandle, weights: Replacement) -> Result<(), ControlError> {
    let updated = handle.update(Arc::new(weights), Some("2".to_owned()), Keep);
    updated.wait().map(|_| ())
}

#[test]
fn an_update_that_ends_half_way_is_out_of_service_until_it_is_repeated_or_undone() {
    let (other, torn) = (Altered::other(), Altered::other());
    let model = tiny();
    let handle = start(&model, &Run::on_two_ranks(&model));
    let (old, new) = (said(&handle), started_on(&other));
    for repeats in [false, true] {
        let weights = handle.open_weights(torn.path()).unwrap();
        torn.cut(400_000);
        check_out(&handle, update(&handle, weights), "model.safetensors");
        std::fs::copy(
            other.path().join("model.safetensors"),
            torn.path().join("model.safetensors"),
        )
        .unwrap();
        if repeats {
            let weights = handle.open_weights(torn.path()).unwrap();
            assert_eq!(update(&handle, weights), Ok(()));
            assert_eq!(handle.state(), EngineState::Serving);
            assert_eq!(handle.weights().version, "2");
            assert_eq!(said(&handle), new);
        } else {
            go_back(&handle);
            assert_eq!(said(&handle), old);
        }
    }
}

#[test]
fn ranks_with_two_sets_of_weights_are_never_served_even_without_a_probe() {
    let other = Altered::other();
    let model = tiny();
    for probe in [false, true] {
        let run = Run {
            probe,
            ..Run::on_two_ranks(&model)
        };
        let handle = start(&model, &run);
        let old = said(&handle);
        let mut weights = handle.open_weights(other.path()).unwrap();
        // The second rank cannot read them.
        weights.tensors = guarded(weights.tensors, |name, first_row| {
            if name != "model.embed_tokens.weight" || first_row < 320 {
                return Ok(());
            }
            Err(ModelError::Unreadable {
                path: "the/rest".into(),
                source: std::io::Error::other("stale handle"),
            })
        });
        check_out(&handle, update(&handle, weights), "rank 1: the/rest");
        go_back(&handle);
        assert_eq!(said(&handle), old);
    }
}

/// Other weights with this as numbers of a row of the head, which is the embedding, too: of no token of the probe.
fn spoilt(columns: std::ops::Range<usize>, number: f32) -> Altered {
    const ROW: usize = 500;
    const HIDDEN: usize = 64;
    Altered::other().with_numbers(|name, at, was| {
        let is_there = at / HIDDEN == ROW && columns.contains(&(at % HIDDEN));
        match name == "model.embed_tokens.weight" && is_there {
            true => number,
            false => was,
        }
    })
}

/// Weights that are damaged, and what is said of them.
fn damaged() -> [(Altered, &'static str); 5] {
    let at = |number: f32| {
        let words = "`model.embed_tokens.weight`: row 500, column 3 is";
        (spoilt(3..4, number), words)
    };
    [
        at(f32::NAN),
        at(f32::NEG_INFINITY),
        (
            Altered::other().with_numbers(|name, _, was| match name {
                DOWN => f32::INFINITY,
                _ => was,
            }),
            "down_proj.weight`: row 0, column ",
        ),
        // Numbers, of which the logits of all tokens are none, and of one alone.
        (Altered::of(3.0e38), "logits that are not numbers"),
        (spoilt(0..64, 3.0e38), "logits that are not numbers"),
    ]
}

#[test]
fn weights_that_are_no_numbers_or_answer_in_none_are_refused_service() {
    let model = tiny();
    let handle = start(&model, &Run::on_two_ranks(&model));
    let old = said(&handle);
    for (wrong, words) in damaged() {
        let weights = handle.open_weights(wrong.path()).unwrap();
        check_out(&handle, update(&handle, weights), words);
        go_back(&handle);
        assert_eq!(said(&handle), old);
    }
}

#[test]
fn weights_that_are_no_numbers_or_answer_in_none_never_begin_to_serve() {
    for (wrong, words) in damaged() {
        let model = open(wrong.path());
        let handle = start_unloaded(&model, &Run::on_two_ranks(&model));
        eventually("a failure", || {
            matches!(handle.state(), EngineState::Failed { .. })
        });
        let EngineState::Failed { message } = handle.state() else {
            panic!("{:?}", handle.state());
        };
        assert!(message.contains(words), "{message}");
    }
}
