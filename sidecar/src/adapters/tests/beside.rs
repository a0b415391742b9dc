//! Which adapters are computed beside their base before they are merged, and what is said of the others.

use std::collections::{HashMap, HashSet};

use super::super::beside::Beside;
use super::super::change::Change;
use super::super::{Base, open as opening};
use super::{at, fixtures, open};

#[test]
fn plain_adapters_are_and_others_say_what_they_are() {
    for (fixture, says) in [
        ("plain", None),
        ("rslora", None),
        ("dora", Some("use_dora")),
        ("bias", Some("lora_bias")),
        ("saved", Some("modules_to_save")),
        ("tokens", Some("trainable_token_indices")),
        ("embeddings", Some("a matrix outside of the layers")),
    ] {
        let folder = fixtures().join("adapters").join(fixture);
        let expected = std::fs::read(folder.join("expected.json")).unwrap();
        let expected: serde_json::Value = serde_json::from_slice(&expected).unwrap();
        let base = expected["base"].as_str().unwrap();
        let model = open(base, &[at(&folder)]).unwrap();
        match (says, model.beside) {
            (None, Ok(_)) => {}
            (Some(words), Err(why)) => assert!(why.contains(words), "{fixture}: {why}"),
            (says, found) => panic!("{fixture}: {says:?}, {found:?}"),
        }
    }
}

/// Ranks wait for each other while factors are read.
#[test]
fn factors_that_take_too_long_to_read_are_not_computed() {
    let model = open("tiny-llama", &[]).unwrap();
    let at = at(&fixtures().join("adapters/plain"));
    let none = HashSet::new();
    let base = Base {
        shape: &model.shape,
        tensors: &*model.tensors,
        was_tied: true,
        changed: &none,
    };
    let mut changes = opening::open(&at, base, "tiny-llama").unwrap().changes;
    let fits = |changes: &HashMap<String, Change>| Beside::default().add("tuned", changes);
    assert_eq!(fits(&changes), Ok(()));
    let tensor = "model.layers.1.mlp.down_proj.weight";
    let Some(Change::LowRank { a, .. }) = changes.get_mut(tensor) else {
        panic!("{changes:?}")
    };
    a.info.shape = vec![4096, 32_768];
    let why = fits(&changes).unwrap_err();
    assert!(why.contains(tensor) && why.contains("268435456"), "{why}");
}
