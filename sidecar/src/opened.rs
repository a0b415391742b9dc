//! What the log says of a model that was opened, and of what becomes of its weights.

use std::path::Path;

use plimsoll_planner::BlockFormat;

use crate::config::Planned;
use crate::model::Model;

pub(crate) fn describe(model: &Model, at: &Path) {
    let facts = &model.facts;
    tracing::info!(
        path = %at.display(),
        architecture = ?facts.architecture,
        parameters = facts.parameters,
        file_dtype = facts.file_dtype,
        digest = facts.digest,
        "model opened"
    );
    for adapter in &model.adapters {
        tracing::info!(
            name = adapter.at.name,
            path = %adapter.at.path.display(),
            tensors = adapter.changes.len(),
            digest = adapter.digest,
            "adapter opened: it is merged into the weights while they are read"
        );
    }
}

/// What becomes of weights that the file has quantised.
pub(crate) fn describe_weights(model: &Model, planned: &Planned) {
    let Some(quantization) = &model.facts.quantization else {
        return;
    };
    let formats = planned.formats();
    let stay: Vec<String> = formats.iter().map(BlockFormat::to_string).collect();
    tracing::info!(
        quantization,
        stay = stay.join(", "),
        dtype = %planned.request.dtype,
        "the file is quantised: matrices in the formats that stay are kept so, others are expanded while \
         loading"
    );
}
