//! `inspect`: facts of a model without taking a GPU, as the operator reads them.

use std::path::Path;

use plimsoll_crds::v1alpha1::facts::{InspectError, InspectResult, ModelFacts};

use crate::chat::ChatTemplate;
use crate::config::open_dynamic;
use crate::model::{AdapterPath, ModelError, ModelFolder};

/// What a termination message may hold.
pub const RESULT_BYTES_MAX: usize = 4096;
/// Characters of an error's message: what the operator shows of it. Each takes at most 12 bytes
/// of JSON (a pair of escapes), messages of errors are short anyway.
const MESSAGE_CHARS_MAX: usize = 300;

/// Notes of a model's facts, and the characters of each.
const NOTES_MAX: usize = 8;
const NOTE_CHARS_MAX: usize = 200;

/// Opens the model and checks all of it that can be checked without reading weights: config,
/// headers, tokenizer, chat template.
///
/// # Errors
/// [`ModelError`].
pub fn facts(path: &Path) -> Result<ModelFacts, ModelError> {
    facts_with(path, &[], &[])
}

/// As [`facts`], of a model with adapters: also every number of these is looked at. Those that requests
/// choose are checked alike, and are no part of the facts.
///
/// # Errors
/// [`ModelError`].
pub fn facts_with(
    path: &Path,
    adapters: &[AdapterPath],
    dynamic: &[AdapterPath],
) -> Result<ModelFacts, ModelError> {
    let model = ModelFolder::open_with(path, adapters)?;
    open_dynamic(dynamic, &model)?;
    let tokenizer = model.tokenizer()?;
    ChatTemplate::load(&model, &tokenizer)?;
    let told = model.told.iter().chain(&model.sampling.ignored);
    let mut facts = model.facts;
    facts.notes = told
        .take(NOTES_MAX)
        .map(|note| note.chars().take(NOTE_CHARS_MAX).collect())
        .collect();
    Ok(facts)
}

/// The answer as JSON, at most [`RESULT_BYTES_MAX`] bytes: an [`InspectResult`].
pub fn result_json(facts: &Result<ModelFacts, ModelError>) -> String {
    let mut result = match facts {
        Ok(facts) => InspectResult {
            facts: Some(facts.clone()),
            error: None,
        },
        Err(e) => InspectResult {
            facts: None,
            error: Some(InspectError {
                reason: e.reason().into(),
                message: e.to_string().chars().take(MESSAGE_CHARS_MAX).collect(),
            }),
        },
    };
    loop {
        // Numbers and short strings, which serialise always; an empty answer reads as a failure.
        let json = serde_json::to_string(&result).unwrap_or_default();
        let notes = result.facts.as_mut().map(|facts| &mut facts.notes);
        // Escapes make a note up to six times as long. The log has those that are left out.
        match json.len() > RESULT_BYTES_MAX && notes.is_some_and(|notes| notes.pop().is_some()) {
            true => {}
            false => return json,
        }
    }
}
