//! `spec.adapters`: fine-tunings that are merged into the model's weights while these are read.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::model::ModelSource;

/// A PEFT adapter (LoRA) and what is done with it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AdapterSpec {
    /// What the adapter is called in conditions and in the version of the weights.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")
    )]
    pub name: String,
    /// Where the adapter lies: the same kinds of source as the model's; its path leads to the folder
    /// with adapter_config.json and adapter_model.safetensors.
    pub source: ModelSource,
    /// What is done with it. Merge: its change is added to the weights while an engine reads them, so
    /// that every answer is the adapter's.
    #[serde(default)]
    pub mode: AdapterMode,
}

/// What is asked of adapters before an engine is ready with them. While it reads the weights, an engine
/// checks every row that an adapter changes against model and adapter side by side, every number
/// against what its type rounds it to, how much of the adapter that rounding leaves, and that the
/// answers to a probe change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AdapterValidation {
    /// Enforce: an engine whose adapters fail ends instead of becoming ready; pods of the revision
    /// before serve on, and condition AdaptersReady has the figures. Report: it serves all the same, and
    /// the figures are told. Off: nothing is measured, and the model is read once instead of twice.
    #[serde(default)]
    pub mode: AdapterValidationMode,
}

impl AdapterValidation {
    pub(crate) fn is_default(&self) -> bool {
        self.mode.is_enforce()
    }
}

/// What is done where a check of an adapter fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AdapterValidationMode {
    #[default]
    Enforce,
    Report,
    Off,
}

impl AdapterValidationMode {
    /// For documents, which leave out what is not asked for.
    pub(crate) fn is_enforce(&self) -> bool {
        *self == AdapterValidationMode::Enforce
    }
}

/// What is done with an adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AdapterMode {
    #[default]
    Merge,
}
