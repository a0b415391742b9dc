//! `status.weights`: which weights the engines answer with, and whether that was proved.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::report::AdapterReport;

/// What the weights are called that engines answer with. A pod that starts begins with its model's
/// files; a trainer may write others while it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WeightsStatus {
    /// The version of all engines; absent where they differ, see `pods`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What became of the adapters in them, as the first engine of the wanted revision says that proved
    /// them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub adapters: Vec<AdapterReport>,
    /// The version of every pod: at most 64 rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["pod"])
    )]
    pub pods: Vec<WeightsRow>,
}

/// The weights of one pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WeightsRow {
    /// Name of the pod.
    pub pod: String,
    /// What its weights are called: `default`, or what the last update named them.
    pub version: String,
    /// Whether weights and answers were what they should be at the last wake or update; absent before
    /// the first wake. A pod with false does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<bool>,
}
