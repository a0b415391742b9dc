//! `inspect`: facts of a model without taking a GPU, as the operator reads them.

use std::path::Path;

use plimsoll_crds::v1alpha1::facts::{InspectError, InspectResult, ModelFacts};

use crate::model::{ModelError, ModelFolder};

/// What a termination message may hold.
pub const RESULT_BYTES_MAX: usize = 4096;

/// Opens the model and checks all of it that can be checked without reading weights.
///
/// # Errors
/// [`ModelError`].
pub fn facts(path: &Path) -> Result<ModelFacts, ModelError> {
    Ok(ModelFolder::open(path)?.facts)
}

/// The answer as JSON, at most [`RESULT_BYTES_MAX`] bytes: an [`InspectResult`].
pub fn result_json(path: &Path) -> String {
    let result = match facts(path) {
        Ok(facts) => InspectResult {
            facts: Some(facts),
            error: None,
        },
        Err(e) => InspectResult {
            facts: None,
            error: Some(InspectError {
                reason: e.reason().into(),
                message: e.to_string(),
            }),
        },
    };
    serde_json::to_string(&result).unwrap_or_default()
}
