//! A fixture: a model, prompts, and what transformers says of them. Float32 weights and KV: logits
//! agree within 1e-4 of their scale, greedy ids are the same.

use std::path::Path;
use std::sync::Arc;

use plimsoll_sidecar::engine::handle::EngineHandle;
use plimsoll_sidecar::model::Model;

use super::{ask, open};

/// One prompt of a fixture and what transformers says of it.
#[derive(serde::Deserialize)]
pub struct Prompt {
    pub ids: Vec<u32>,
    pub greedy: Vec<u32>,
    pub logits_last: Vec<f32>,
}

#[derive(serde::Deserialize)]
struct Expected {
    prompts: Vec<Prompt>,
}

pub struct Fixture {
    pub name: String,
    pub model: Arc<Model>,
    pub prompts: Vec<Prompt>,
}

impl Fixture {
    /// `file`: the model in the folder, or nothing where the folder is one.
    pub fn open(folder: &Path, file: &str) -> Fixture {
        let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
        let Expected { prompts } = serde_json::from_str(&text).unwrap();
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        Fixture {
            name,
            model: open(&folder.join(file)),
            prompts,
        }
    }

    /// One prompt after the other, with logits.
    pub fn check_alone(&self, handle: &EngineHandle, what: &str) {
        for (index, prompt) in self.prompts.iter().enumerate() {
            let what = format!("{}, {what}, prompt {index}", self.name);
            let count = prompt.greedy.len() as u32;
            let answered = ask(handle, index as u64, &prompt.ids, count).wait();
            assert_eq!(answered.ids, prompt.greedy, "{what}");
            assert_logits(&answered.logits[0], &prompt.logits_last, &what);
        }
    }
}

pub fn assert_logits(got: &[f32], expected: &[f32], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1.0f32, |max, x| max.max(x.abs()));
    for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (got - expected).abs() / scale;
        assert!(
            error <= 1e-4,
            "{what}: logit {at} is {got}, expected {expected}"
        );
    }
}
