//! What an engine is started with: `boot.json`, mounted from a ConfigMap. It stays as it is for the
//! life of a revision. The engine refuses fields it does not know, so that a newer operator never
//! believes an older engine.

use serde::{Deserialize, Serialize};

use super::adapters::{AdapterScale, AdapterValidationMode};
use super::engine::Backend;
use super::facts::Dtype;
use super::kv_cache::KvDtype;
use super::model::ComputeDtype;

/// All that takes a restart to change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Boot {
    /// Folder or file of the model inside the container.
    pub model_path: String,
    /// What is merged into it, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<BootAdapter>,
    /// What is asked of them before the engine is ready.
    #[serde(default, skip_serializing_if = "AdapterValidationMode::is_enforce")]
    pub adapter_validation: AdapterValidationMode,
    /// Room for adapters that the target names; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter_slots: Option<BootAdapterSlots>,
    /// Names that requests may call the model by; the first is the canonical one.
    pub served_names: Vec<String>,
    /// Digest that the model must have, with its adapters.
    pub digest: String,
    /// Type of the weights in memory, and that in which those in blocks are computed.
    pub dtype: Dtype,
    /// In which blocks weights are kept.
    #[serde(default, skip_serializing_if = "BootQuantization::is_auto")]
    pub quantization: BootQuantization,
    /// How those are multiplied.
    #[serde(default, skip_serializing_if = "ComputeDtype::is_auto")]
    pub compute_dtype: ComputeDtype,
    /// Where the ranks compute.
    pub backend: Backend,
    /// Limits as asked for.
    pub limits: EngineLimits,
    /// How the KV cache is laid out.
    pub kv_cache: BootKvCache,
    /// Bytes of weights that each rank may keep in host memory; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_offload_bytes: Option<u64>,
    /// Which part of the model each rank holds.
    pub split: BootSplit,
    /// The revision that this document belongs to.
    pub revision: String,
}

/// `spec.model.quantization.mode`, and with which group size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BootQuantization {
    #[default]
    Auto,
    None,
    Int8,
    Int4,
    /// Int4 with groupSize 128.
    Int4By128,
}

impl BootQuantization {
    fn is_auto(&self) -> bool {
        *self == BootQuantization::Auto
    }
}

/// Room for adapters that stay beside the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BootAdapterSlots {
    /// Adapters at once.
    pub slots: u32,
    /// The largest rank of any of them.
    pub rank: u32,
}

/// An adapter as an engine finds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BootAdapter {
    /// As in `spec.adapters`.
    pub name: String,
    /// Its folder inside the container.
    pub path: String,
    /// What its own scale is multiplied by.
    #[serde(default, skip_serializing_if = "AdapterScale::is_one")]
    pub scale: AdapterScale,
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

/// What of `spec.memory.kvCache` the layout of the cache follows from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BootKvCache {
    /// Type of the cached keys and values.
    pub dtype: KvDtype,
    /// Tokens of one block.
    pub block_size: u32,
}

/// The operator's split. The engine computes its own for the same budgets, and refuses to serve when
/// the two differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BootSplit {
    /// What it was made for.
    pub made_for: SplitBudgets,
    /// Longest sequence in tokens, in force: as asked for, or the model's own shrunk to fit.
    pub max_model_len: u32,
    /// One row per rank, in order.
    pub ranks: Vec<RankSplit>,
}

/// Budgets that a split was made for. Those in force are the target's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SplitBudgets {
    /// What each rank may use, in order.
    pub budget_bytes: Vec<u64>,
    /// Upper bound on the KV cache of each rank, if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_cache_size_bytes: Option<u64>,
}

/// One rank's part of every layer. A range is its first index and the one past its last; the two
/// are equal where the rank holds none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RankSplit {
    /// Index of the rank.
    pub rank: u32,
    /// KV heads of the rank.
    pub kv_heads: [u32; 2],
    /// Query heads of the rank.
    pub query_heads: [u32; 2],
    /// MLP columns of the rank.
    pub mlp_columns: [u32; 2],
    /// Vocabulary rows of the rank.
    pub vocab_rows: [u32; 2],
}
