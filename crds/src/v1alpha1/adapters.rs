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

/// What is done with an adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AdapterMode {
    #[default]
    Merge,
}
