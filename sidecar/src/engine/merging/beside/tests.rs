//! Answers of merged weights that are not those of base and adapters side by side.

use plimsoll_crds::v1alpha1::adapters::AdapterScale;
use serde_json::json;

use super::*;
use crate::adapters::Validation;
use crate::adapters::tests::edited::Edited;
use crate::adapters::tests::fixtures;
use crate::adapters::tests::gguf::counting;
use crate::engine::handle::{EngineHandle, EngineState};
use crate::engine::merging::tests::{fails, named, with};
use crate::engine::sabotage::tests::{begun_as, comes_to};
use crate::engine::sabotage::{Fault, Moment};
use crate::model::{AdapterPath, Model, ModelFolder};

const BASE: &str = "tiny-llama";
const OTHERWISE: &str = "is answered otherwise by the merged weights than by the base";

/// Types in which engines of tests compute, from fine to coarse.
const TYPES: [&str; 3] = [
    "--dtype float32",
    "--dtype bfloat16",
    "--dtype bfloat16 --quantization int8",
];

/// What is meant is another adapter than is merged.
fn meaning(other: &AdapterPath) -> Model {
    let mut model = with(BASE, &[named("tuned", "plain")]);
    model.beside = with(BASE, std::slice::from_ref(other)).beside;
    model
}

fn serving(model: Model, flags: &str, validation: Validation) -> EngineHandle {
    let handle = begun_as(model, flags, |config| config.validation = validation);
    comes_to(&handle, |state| *state == EngineState::Serving);
    handle
}

fn compared(handle: &EngineHandle) -> Apart {
    match handle.adapters().compared {
        Compared::Apart(apart) => apart,
        other => panic!("{other:?}"),
    }
}

/// The same adapter, with `change` made to it.
fn edited(change: impl FnOnce(&mut Edited)) -> (Edited, AdapterPath) {
    let mut adapter = Edited::of("plain");
    change(&mut adapter);
    let at = adapter.write();
    (adapter, at)
}

fn swap(adapter: &mut Edited, one: &str, other: &str) {
    for factor in ["lora_A", "lora_B"] {
        let [one, other] = [one, other].map(|of| format!("model.layers.{of}.{factor}.weight"));
        let bytes = adapter.tensor(&one).bytes.clone();
        let bytes = std::mem::replace(&mut adapter.tensor(&other).bytes, bytes);
        adapter.tensor(&one).bytes = bytes;
    }
}

/// Matrices that add nothing.
fn blank(adapter: &mut Edited, of: &str) {
    for (name, tensor) in &mut adapter.tensors {
        if name.contains(of) && name.contains("lora_B") {
            tensor.bytes.fill(0);
        }
    }
}

#[test]
fn a_merge_of_another_scale_matrix_or_layer_is_found_in_every_type() {
    let alpha = |alpha: f64| edited(move |of| of.set("lora_alpha", json!(alpha)));
    let wrong = [
        ("twice the scale", alpha(16.0)),
        ("half of it", alpha(4.0)),
        ("the other sign", alpha(-8.0)),
        ("a layer more", edited(|of| blank(of, "layers.1."))),
        ("a matrix more", edited(|of| blank(of, "0.mlp.down_proj"))),
        (
            "k for v",
            edited(|of| swap(of, "0.self_attn.k_proj", "0.self_attn.v_proj")),
        ),
        (
            "one layer for another",
            edited(|of| swap(of, "0.mlp.up_proj", "1.mlp.up_proj")),
        ),
    ];
    for flags in TYPES {
        for (what, (_folder, other)) in &wrong {
            let handle = begun_as(meaning(other), flags, |_| {});
            let message = fails(&handle);
            assert!(message.starts_with("adapter `tuned`: "), "{message}");
            assert!(message.contains(OTHERWISE), "{what} {flags}: {message}");
            assert_eq!(handle.adapters().wrong, Some(message), "{what} {flags}");
        }
        let right = serving(
            meaning(&named("tuned", "plain")),
            flags,
            Validation::Enforce,
        );
        assert!(compared(&right).share <= compared(&right).bound, "{flags}");
    }
    // Told, or not even looked at.
    let (_folder, other) = &wrong[0].1;
    let told = serving(meaning(other), TYPES[0], Validation::Report);
    assert!(told.adapters().wrong.unwrap().contains(OTHERWISE));
    let off = serving(meaning(other), TYPES[0], Validation::Off);
    assert_eq!(off.adapters().compared, Compared::NotAsked);
}

/// What an adapter changes of a file's blocks is floats, in both answers.
#[test]
fn a_quantised_base_is_compared_too() {
    let path = fixtures().join("positions/mixed-gguf/model.gguf");
    let base = ModelFolder::open(&path).unwrap();
    let mut adapter = Edited::of("plain");
    counting(&base, &mut adapter, ["self_attn.q_proj", "mlp.down_proj"]);
    // Its numbers count up: as they are nothing else would be left of the answers.
    adapter.set("lora_alpha", json!(0.02));
    let open = |at: &AdapterPath| ModelFolder::open_with(&path, std::slice::from_ref(at)).unwrap();
    let right = adapter.write();
    let apart = compared(&serving(open(&right), "", Validation::Enforce));
    assert!(apart.share < 0.5 * apart.bound, "{apart:?}");
    let mut model = open(&right);
    let twice = AdapterPath {
        scale: AdapterScale(2.0),
        ..right
    };
    model.beside = open(&twice).beside;
    let message = fails(&begun_as(model, "", |_| {}));
    assert!(message.contains(OTHERWISE), "{message}");
}

/// Rows are proved where they are read, and another rank has read them.
#[test]
fn a_rank_that_keeps_the_bare_base_is_found() {
    for flags in TYPES {
        let model = with(BASE, &[named("tuned", "plain")]);
        let handle = begun_as(model, flags, |_| {});
        handle.sabotage().plan(Fault {
            rank: 1,
            moment: Moment::Merge,
            tensor: None,
        });
        let message = fails(&handle);
        assert!(message.contains(OTHERWISE), "{flags}: {message}");
    }
}

#[test]
fn a_file_that_fails_while_it_is_computed_beside_the_base_ends_the_load_by_name() {
    let (adapter, at) = edited(|_| {});
    let mut model = with(BASE, &[named("tuned", "plain")]);
    model.beside = with(BASE, &[at]).beside;
    // What is open is cut off: a read past its end fails.
    adapter.folder().write("adapter_model.safetensors", [0; 16]);
    let message = fails(&begun_as(model, TYPES[0], |_| {}));
    assert!(message.contains("rank 0: "), "{message}");
    assert!(message.contains("adapter_model.safetensors"), "{message}");
}

#[test]
fn distances_are_of_the_length_of_what_is_meant_and_along_it() {
    assert!((distance(&[3.0, 0.0], &[0.0, 4.0]) - 1.25).abs() < 1e-12);
    assert!((farthest(&[3.0, 0.0], &[0.0, 4.0]) - 4.0).abs() < 1e-12);
    let far = |is: &[f32]| along(&[1.0, 1.0], &[3.0, 1.0], is);
    for (is, expected) in [([3.0, 9.0], 1.0), ([5.0, 1.0], 2.0), ([0.0, 1.0], -0.5)] {
        assert!((far(&is) - expected).abs() < 1e-12, "{is:?}");
    }
    // Who changes nothing changes all of it.
    assert!((along(&[1.0], &[1.0], &[2.0]) - 1.0).abs() < 1e-12);
}
