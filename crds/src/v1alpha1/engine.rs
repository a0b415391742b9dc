//! Words that several documents share: where an engine computes, and its plan as status shows it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the ranks compute: CPU or CUDA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Backend {
    /// Thread groups of the processor.
    #[serde(rename = "CPU")]
    Cpu,
    /// NVIDIA GPUs.
    #[serde(rename = "CUDA")]
    Cuda,
}

/// A plan: how the model is divided and what every rank is planned to hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanStatus {
    /// Blocks of the KV cache on every rank, the null block included.
    pub kv_blocks: u32,
    /// Tokens that the KV cache holds.
    pub kv_tokens: u64,
    /// Longest sequence in tokens: as asked for, or the model's own shrunk to fit.
    pub max_model_len: u32,
    /// One row per rank.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["rank"]))]
    pub ranks: Vec<RankPlanStatus>,
}

/// One rank of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RankPlanStatus {
    /// Index of the rank.
    pub rank: u32,
    /// What the rank may use: min(quota, utilization x device memory).
    pub budget_bytes: u64,
    /// KV heads of the rank.
    pub kv_heads: Span,
    /// Query heads of the rank.
    pub query_heads: Span,
    /// MLP columns of the rank.
    pub mlp_columns: Span,
    /// Vocabulary rows of the rank.
    pub vocab_rows: Span,
    /// Planned bytes of each account that is not zero.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub accounts: Vec<PlannedAccount>,
}

/// A half-open range of indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Span {
    /// First index.
    pub start: u32,
    /// One past the last index; equal to `start` when the rank holds none.
    pub end: u32,
}

/// Planned bytes of one account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlannedAccount {
    /// Weights, KVCache, Activations, Graphs, Comm, Workspaces, Adapters, Context, or Offload: weights
    /// in host memory, which count in no total of a rank.
    pub name: String,
    /// Bytes the plan gives it.
    pub planned_bytes: u64,
}
