//! Engines whose adapters pass, and engines whose adapters do not.

use plimsoll_crds::v1alpha1::adapters::AdapterScale;
use serde_json::json;

use super::*;
use crate::adapters::Compared;
use crate::adapters::spoils::Spoils;
use crate::adapters::tests::edited::Edited;
use crate::engine::control::{Commands, ControlError, Woken};
use crate::engine::handle::{EngineHandle, EngineState};
use crate::engine::probe::NOT_NUMBERS;
use crate::engine::rest::{PauseMode, SleepLevel, Tags};
use crate::engine::sabotage::tests::{begun, comes_to};
use crate::http::testing::fixture;
use crate::model::{AdapterPath, ModelFolder};

pub(super) fn with(base: &str, adapters: &[AdapterPath]) -> Model {
    ModelFolder::open_with(&fixture().with_file_name(base), adapters).unwrap()
}

pub(super) fn named(name: &str, adapter: &str) -> AdapterPath {
    AdapterPath {
        name: name.to_owned(),
        path: fixture().join("../../adapters").join(adapter),
        scale: AdapterScale::ONE,
    }
}

fn tuned(adapter: &str) -> Model {
    with("tiny-llama", &[named("tuned", adapter)])
}

/// What an engine says that does not come to serve.
pub(super) fn fails(handle: &EngineHandle) -> String {
    let is_failed = |state: &EngineState| matches!(state, EngineState::Failed { .. });
    let EngineState::Failed { message } = comes_to(handle, is_failed) else {
        panic!("{:?}", handle.state())
    };
    message
}

/// All of it comes back at a wake as it is now.
fn sleeps_and_wakes(handle: &EngineHandle, what: &str) {
    let level = SleepLevel::Two;
    assert_eq!(
        handle.sleep(level, PauseMode::Abort).wait(),
        Ok(()),
        "{what}"
    );
    let woken = handle.wake(Tags::ALL).wait();
    assert_eq!(woken, Ok(Woken { asleep: false }), "{what}");
    assert_eq!(handle.rest().weights_verified, Some(true), "{what}");
}

fn serving(model: Model, validation: Validation) -> EngineHandle {
    let handle = begun(model, |config| config.validation = validation);
    comes_to(&handle, |state| *state == EngineState::Serving);
    handle
}

#[test]
fn an_engine_with_adapters_has_their_figures_and_the_change_of_its_answers() {
    for (adapter, tensors) in [("plain", 14), ("tokens", 3)] {
        let handle = serving(tuned(adapter), Validation::Enforce);
        let Verdict {
            adapters,
            answers_change,
            compared,
            wrong,
        } = handle.adapters();
        let of = &adapters[0];
        assert_eq!(
            (of.name.as_str(), of.tensors, wrong),
            ("tuned", tensors, None)
        );
        assert!(of.figures.changed_share() > 0.1, "{of:?}");
        let change = answers_change.unwrap();
        assert!(change > 0.001, "{adapter}: {change}");
        match (adapter, compared) {
            ("plain", Compared::Apart(apart)) => assert!(apart.share < apart.bound, "{apart:?}"),
            ("tokens", Compared::Cannot(why)) => {
                let words =
                    "adapter `tuned` has trainable_token_indices (model.embed_tokens.weight)";
                assert_eq!(why, words);
            }
            (adapter, compared) => panic!("{adapter}: {compared:?}"),
        }
        // What was read in two steps is what a wake reads in one.
        sleeps_and_wakes(&handle, adapter);
    }
}

#[test]
fn what_does_not_pass_is_not_served_unless_that_is_asked_for() {
    let spoilt = |how| {
        let model = tuned("plain");
        model.gate.sabotage(how);
        model
    };
    for how in [Spoils::Times(-1.0), Spoils::Stale(3), Spoils::Times(0.0)] {
        let handle = begun(spoilt(how), |_| {});
        let message = fails(&handle);
        assert!(message.starts_with("adapter `tuned`: row "), "{message}");
        assert_eq!(handle.adapters().wrong, Some(message), "{how:?}");
    }
    let told = serving(spoilt(Spoils::Times(-1.0)), Validation::Report).adapters();
    assert!(told.wrong.unwrap().contains("-1.0000 times it"));
    assert!(told.answers_change.is_some());
    let silent = serving(spoilt(Spoils::Times(-1.0)), Validation::Off);
    assert_eq!(silent.adapters(), Verdict::default());
    // An update is not looked at either, then or later.
    let again = Arc::new(silent.open_weights(&silent.weights().path).unwrap());
    let updated = silent.update(Arc::clone(&again), None, PauseMode::Keep);
    assert!(updated.wait().is_ok());
    assert!(!again.gate.is_open());
}

#[test]
fn an_update_whose_adapter_does_not_pass_is_not_adopted() {
    let handle = serving(tuned("plain"), Validation::Enforce);
    let before = handle.adapters();
    let again = || handle.open_weights(&handle.weights().path).unwrap();
    let spoilt = again();
    spoilt.gate.sabotage(Spoils::Times(2.0));
    let updated = handle
        .update(Arc::new(spoilt), None, PauseMode::Keep)
        .wait();
    let Err(ControlError::NotUpdated { message }) = updated else {
        panic!("{updated:?}")
    };
    assert!(message.contains("2.0000 times it"), "{message}");
    assert_eq!(handle.adapters(), before);
    let updated = handle
        .update(Arc::new(again()), None, PauseMode::Keep)
        .wait();
    assert!(updated.is_ok(), "{updated:?}");
    let after = handle.adapters();
    assert_eq!((after.wrong, after.adapters.len()), (None, 1));
}

/// The head of a tied base follows what is done to the embedding before it becomes one of its own.
#[test]
fn a_head_that_a_later_adapter_unties_has_what_those_before_it_changed() {
    let mut untying = Edited::of("tied");
    // A copy of the base's table, which is the first adapter's by then.
    untying.remove("model.embed_tokens.base_layer.weight");
    let both = [named("first", "tokens"), untying.write()];
    let handle = serving(with("tiny-llama", &both), Validation::Enforce);
    sleeps_and_wakes(&handle, "untied by the second");
}

#[test]
fn an_adapter_that_makes_no_numbers_is_why_the_engine_fails_whatever_is_validated() {
    let mut adapter = Edited::of("plain");
    for (alpha, words, validations) in [
        // Too large to be kept, and too large to be computed with.
        (
            1e41,
            "it makes",
            &[Validation::Enforce, Validation::Report, Validation::Off][..],
        ),
        (
            1e30,
            NOT_NUMBERS,
            &[Validation::Enforce, Validation::Report],
        ),
    ] {
        adapter.set("lora_alpha", json!(alpha));
        let adapter = adapter.write();
        for of in validations {
            let model = with("tiny-llama", std::slice::from_ref(&adapter));
            let handle = begun(model, |config| config.validation = *of);
            let message = fails(&handle);
            assert!(message.contains(words), "{alpha} {of:?}: {message}");
            assert_eq!(handle.adapters().wrong, Some(message), "{alpha} {of:?}");
        }
    }
}

/// The probe's tokens are others.
#[test]
fn an_embedding_that_differs_in_new_tokens_alone_is_served() {
    let base = "tiny-llama-untied-mha";
    let bare = with(base, &[]);
    let (rows, cols) = bare.tensors.info(EMBEDDING).unwrap().rows_cols();
    let mut table = vec![0.0; rows * cols];
    bare.tensors
        .read_rows(EMBEDDING, 0..rows, &mut table)
        .unwrap();
    table[(rows - 1) * cols..].fill(0.25);
    let bytes = |numbers: &[f32]| numbers.iter().flat_map(|of| of.to_le_bytes()).collect();
    // Saved whole, beside matrices that were not trained.
    let mut saved = Edited::of("embeddings");
    saved.set("target_modules", json!(["k_proj"]));
    saved.set("modules_to_save", json!(["embed_tokens"]));
    saved.tensors.retain(|key, _| key.contains("k_proj"));
    for layer in [0, 1] {
        let key = format!("model.layers.{layer}.self_attn.k_proj.lora_B.weight");
        saved.tensor(&key).bytes.fill(0);
    }
    saved.add("model.embed_tokens.weight", &[rows, cols]);
    saved.tensor("model.embed_tokens.weight").bytes = bytes(&table);
    // And by matrices of its own, which begin with A all zeros.
    let mut trained = Edited::of("embeddings");
    trained.set("target_modules", json!(["embed_tokens"]));
    trained
        .tensors
        .retain(|key, _| key.contains("embed_tokens"));
    let mut right = vec![0.0; 2 * rows];
    right[rows - 1] = 1.0;
    trained.tensor("model.embed_tokens.lora_embedding_A").bytes = bytes(&right);
    for adapter in [saved, trained] {
        let handle = serving(with(base, &[adapter.write()]), Validation::Enforce);
        assert_eq!(handle.adapters().answers_change, Some(0.0));
    }
}

#[test]
fn an_update_of_a_sleeper_that_comes_to_nothing_leaves_it_asleep_as_it_was() {
    let handle = serving(tuned("plain"), Validation::Enforce);
    let slept = handle.sleep(SleepLevel::Two, PauseMode::Abort).wait();
    assert_eq!(slept, Ok(()));
    let spoilt = handle.open_weights(&handle.weights().path).unwrap();
    spoilt.gate.sabotage(Spoils::Times(2.0));
    let updated = handle.update(Arc::new(spoilt), None, PauseMode::Keep);
    assert!(updated.wait().is_err());
    let woken = handle.wake(Tags::ALL).wait();
    assert_eq!(woken, Ok(Woken { asleep: false }));
    assert_eq!(handle.rest().weights_verified, Some(true));
}
