//! `spec.adapters`: fine-tunings that are merged into the model's weights while these are read, or that
//! requests choose.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::model::ModelSource;
use super::rules::rule;

/// A PEFT adapter (LoRA) and what is done with it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AdapterSpec {
    /// What the adapter is called in conditions and in the version of the weights; of mode Dynamic, the
    /// model that requests ask for.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")
    )]
    pub name: String,
    /// Where the adapter lies: the same kinds of source as the model's; its path leads to the folder
    /// with adapter_config.json and adapter_model.safetensors.
    pub source: ModelSource,
    /// What is done with it. Merge: its change is added to the weights while an engine reads them, so
    /// that every answer is the adapter's. Dynamic: it stays beside the weights, and requests that name it
    /// as their model are answered with it. Running engines load and unload those, without a restart as
    /// long as their source (but for its path) is the model's or that of another adapter of mode Dynamic,
    /// and `spec.limits.maxAdapters` and `maxAdapterRank` have room for it; a new source rolls. One that
    /// cannot be loaded changes nothing else, and condition AdaptersReady says why.
    #[serde(default)]
    pub mode: AdapterMode,
    /// What its own scale (lora_alpha over r) is multiplied by, as PEFT's scale_layer does: 0.5 is half of
    /// it. Whole tensors and trained tokens are not scaled.
    #[serde(default, skip_serializing_if = "AdapterScale::is_one")]
    #[schemars(range(min = -1000.0, max = 1000.0), extend("x-kubernetes-validations" = [
        // The API server compares whole numbers with the bounds cut to whole numbers.
        rule("(self > 0.0 || self < 0.0) && self >= -1000.0 && self <= 1000.0")
            .says("must be a number from -1000 to 1000, and not 0; leave the adapter out instead"),
    ]))]
    pub scale: AdapterScale,
}

/// A factor that is not 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct AdapterScale(pub f64);

/// No JSON has a number that is none.
impl Eq for AdapterScale {}

impl Default for AdapterScale {
    fn default() -> AdapterScale {
        AdapterScale::ONE
    }
}

impl AdapterScale {
    pub const ONE: AdapterScale = AdapterScale(1.0);
    /// The largest size.
    pub const MOST: f64 = 1000.0;

    /// For documents, which leave out what is not asked for.
    pub fn is_one(&self) -> bool {
        *self == AdapterScale::ONE
    }

    /// Whether it is one that an adapter may have.
    pub fn is_sound(&self) -> bool {
        self.0 != 0.0 && self.0.abs() <= AdapterScale::MOST
    }
}

/// What is asked of adapters before an engine is ready with them. While it reads the weights, an engine
/// checks every row that an adapter changes against model and adapter side by side, every number
/// against what its type rounds it to, how much of the adapter that rounding leaves, and, at its start,
/// that the answers to a probe change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AdapterValidation {
    /// Enforce: an engine whose adapters fail ends instead of becoming ready; pods of the revision
    /// before serve on, and condition AdaptersReady has the figures. Report: it serves all the same, and
    /// the figures are told. Off: nothing is measured, and what adapters change is read once instead of
    /// twice.
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
    Dynamic,
}
