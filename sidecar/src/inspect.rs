//! `inspect`: facts of a model without taking a GPU, as the operator reads them.

use std::path::Path;

use plimsoll_crds::v1alpha1::facts::{InspectError, InspectResult, ModelFacts};

use crate::chat::ChatTemplate;
use crate::model::{ModelError, ModelFolder};

/// What a termination message may hold.
pub const RESULT_BYTES_MAX: usize = 4096;
/// Characters of an error's message: what the operator shows of it. Each takes at most 12 bytes
/// of JSON (a pair of escapes), messages of errors are short anyway.
const MESSAGE_CHARS_MAX: usize = 300;

/// Opens the model and checks all of it that can be checked without reading weights: config,
/// headers, tokenizer, chat template.
///
/// # Errors
/// [`ModelError`].
pub fn facts(path: &Path) -> Result<ModelFacts, ModelError> {
    let model = ModelFolder::open(path)?;
    let tokenizer = model.tokenizer()?;
    ChatTemplate::load(&model, &tokenizer)?;
    Ok(model.facts)
}

/// The answer as JSON, at most [`RESULT_BYTES_MAX`] bytes: an [`InspectResult`].
pub fn result_json(facts: &Result<ModelFacts, ModelError>) -> String {
    let result = match facts {
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
    // Numbers and short strings, which serialise always; an empty answer reads as a failure.
    serde_json::to_string(&result).unwrap_or_default()
}
