//! What the operator tells the engine: `engine.json`, mounted from a ConfigMap. The engine
//! refuses fields it does not know, so that a newer operator never believes an older engine.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::facts::Dtype;

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

/// The whole configuration of one engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EngineConfig {
    /// Folder or file of the model inside the container.
    pub model_path: String,
    /// Names that requests may call the model by; the first is the canonical one.
    pub served_names: Vec<String>,
    /// Digest that the model must have.
    pub digest: String,
    /// Type of the weights in memory.
    pub dtype: Dtype,
    /// Where the ranks compute.
    pub backend: Backend,
    /// Limits as asked for.
    pub limits: EngineLimits,
    /// Share of a device that ranks without a quota may use, 0.05 to 1.
    pub gpu_memory_utilization: f64,
    /// The KV cache as asked for.
    pub kv_cache: EngineKvCache,
    /// What each rank may use, one row per rank, in order.
    pub ranks: Vec<RankConfig>,
    /// The operator's plan. The engine computes its own from the fields above and refuses to
    /// serve when the two differ.
    pub plan: PlanStatus,
    /// The revision this configuration belongs to.
    pub revision: String,
}

/// Limits as asked for (`spec.limits` with its defaults).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EngineLimits {
    /// Longest sequence in tokens; absent: the model's own context, shrunk to fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_model_len: Option<u32>,
    /// Sequences that run at once.
    pub max_num_seqs: u32,
    /// Tokens computed in one step.
    pub max_num_batched_tokens: u32,
}

/// The KV cache as asked for (`spec.memory.kvCache` with its defaults).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EngineKvCache {
    /// Type of the cached keys and values.
    pub dtype: Dtype,
    /// Tokens of one block.
    pub block_size: u32,
    /// Upper bound in bytes on each rank, if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
}

/// What one rank may use: budget = min(quota, utilization x total).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RankConfig {
    /// Index of the rank.
    pub rank: u32,
    /// `spec.memory.gpuQuotas[rank].limit` in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_bytes: Option<u64>,
    /// Memory of the device in bytes, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
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
    /// Weights, KVCache, Activations, Graphs, Comm, Workspaces, Adapters or Context.
    pub name: String,
    /// Bytes the plan gives it.
    pub planned_bytes: u64,
}
