//! What the engine answers: the body of `/memory`, and each line of `/memory/watch`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::adapters::AdapterScale;
use super::engine::Backend;
use super::facts::{BlockFormat, Dtype};
use super::kv_cache::KvDtype;
use super::model::ComputeDtype;
use super::target::TargetReport;

/// One memory report of one engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemoryReport {
    /// When the figures were read (whole seconds).
    pub time: Time,
    /// What the engine is doing.
    pub state: EngineState,
    /// Why, in a sentence; empty while all is well.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// How far loading is; absent once it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<LoadProgress>,
    /// Whether weights and answers were what they were after the load, at the last wake; absent before
    /// the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_verified: Option<bool>,
    /// The level of the sleep that has not ended; absent while awake. An account that is away has
    /// nothing reserved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sleep_level: Option<u8>,
    /// Who asked for that sleep; absent while awake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sleep_reason: Option<SleepReason>,
    /// Who woke it last; absent before the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub woken_by: Option<WokenBy>,
    /// Whether a request would wake the engine from it: it is ready while it sleeps.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wakes_on_request: bool,
    /// What the weights in force are called; empty before there are any.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub weight_version: String,
    /// What became of the adapters in them; empty where none were proved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<AdapterReport>,
    /// Why they should not be served; empty where they passed. Where `spec.adapterValidation.mode` is
    /// Report, the engine serves them all the same. At most 1000 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub adapters_refused_for: String,
    /// Adapters that requests choose: those in slots, and those that the newest target names and that are
    /// not there. At most 320, and 128 KiB; those that the target names come before others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dynamic_adapters: Vec<DynamicAdapterReport>,
    /// Adapters for which there was no room in that list, because of long paths; absent where it has all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dynamic_adapters_left_out: Option<u32>,
    /// Where the ranks compute.
    pub backend: Backend,
    /// Revision of the configuration in force.
    pub revision: String,
    /// What became of the newest target; absent until the plan is checked, and of engines that no
    /// operator started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetReport>,
    /// What became of the newest sleep that it was told, with that target or alone since, whatever
    /// becomes of the target's memory; absent as `target` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sleep: Option<TargetReport>,
    /// Limits in force; absent until the plan is checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective: Option<Effective>,
    /// Used share of the KV cache, 0 to 100.
    pub kv_used_percent: u32,
    /// One row per rank, in order.
    pub ranks: Vec<RankMemory>,
    /// Bytes that belong to no rank.
    pub host: HostMemory,
}

impl MemoryReport {
    /// What became of the newest sleep. An engine that knows of none that is told alone says it of its
    /// target.
    pub fn sleep_told(&self) -> Option<&TargetReport> {
        self.sleep.as_ref().or(self.target.as_ref())
    }
}

/// Who asked for a sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SleepReason {
    /// Somebody on the engine's control routes: no request wakes it.
    Control,
    /// Its target: `spec.sleep.state`.
    Target,
    /// Its own clock: `spec.sleep.idleAfter`.
    Idle,
}

/// Who woke an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WokenBy {
    /// Somebody on the engine's control routes.
    Control,
    /// Its target.
    Target,
    /// A request.
    Request,
}

/// What an engine is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EngineState {
    /// Reading weights.
    Loading,
    /// Answering requests.
    Serving,
    /// Taking requests and holding them; nothing is computed.
    Paused,
    /// Giving memory back.
    Sleeping,
    /// Memory is given back; requests are refused.
    Asleep,
    /// Taking memory again and proving what is in it.
    Waking,
    /// Giving the KV cache another size: requests are taken, and computed in a moment.
    Resizing,
    /// Finishing requests before it stops.
    Draining,
    /// Stopped by a failure; the message says which.
    Failed,
}

/// An adapter as an engine found it in the weights that it read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AdapterReport {
    /// As in `spec.adapters`.
    pub name: String,
    /// The largest of its matrices' ranks; 0 where it has none.
    pub rank: u32,
    /// Tensors of the model that it changes.
    pub tensors: u32,
    /// Numbers in them; one that several ranks hold counts for each.
    pub numbers: u64,
    /// Those of a million that are kept otherwise than without the adapter: of quantised weights that are
    /// rounded again (quantization mode Int8 or Int4), otherwise than the file has them.
    pub changed_per_million: u32,
    /// The length of what it adds, as it is kept, in millionths of that of what it means to add.
    pub norm_ratio_per_million: u32,
    /// How far what is kept is from what is meant, in millionths of how far the weights without it are:
    /// what rounding takes, 1,000,000 where it takes all; more where quantised weights that are rounded
    /// again move farther than the adapter moves them.
    pub lost_per_million: u32,
    /// What it and those beside it change in the answers to a probe of fixed tokens, in millionths of the
    /// length of the logits; absent where that was not asked, and of weights that were read anew since the
    /// load: the base alone answers before it only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers_changed_per_million: Option<u32>,
    /// How far those answers are from the ones of the model's own weights with the same adapters computed
    /// beside them, in millionths of the length of the logits: at most the next, or they are not served;
    /// absent where that was not asked or cannot be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers_apart_per_million: Option<u32>,
    /// How far they may be apart by rounding, that of weights, of what they are multiplied with, and of keys
    /// and values; absent where the one before is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers_apart_most_per_million: Option<u32>,
    /// Why they cannot be computed beside each other; absent where they were. At most 200 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub answers_not_compared: String,
}

/// An adapter beside the weights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DynamicAdapterReport {
    /// What requests call it.
    pub name: String,
    /// What it does.
    pub state: DynamicAdapterState,
    /// Why it is not loaded; absent of others. At most 400 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Its folder inside the container.
    pub path: String,
    /// What its own scale is multiplied by.
    #[serde(default, skip_serializing_if = "AdapterScale::is_one")]
    pub scale: AdapterScale,
    /// `sha256:<hex>`, of its config and all of its tensors; empty until it is loaded.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// The largest of its matrices' ranks; 0 until it is loaded, as are the next two.
    pub rank: u32,
    /// Matrices that it changes.
    pub matrices: u32,
    /// Of its slot, on all ranks together.
    pub bytes: u64,
    /// What it changes in the answers to a probe of fixed tokens, in millionths of the length of the logits;
    /// absent where nothing is measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers_changed_per_million: Option<u32>,
}

/// What an adapter beside the weights does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DynamicAdapterState {
    /// The target names it, and it was not tried yet.
    Loading,
    /// Requests may choose it.
    Serving,
    /// Its last requests are finished, and new ones refused.
    Leaving,
    /// Its memory is given back, as the engine sleeps; a wake reads it again.
    Away,
    /// The target names it, and it could not be loaded; what was there before is left as it was, and it is
    /// tried again.
    Refused,
}

/// How far loading is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoadProgress {
    /// The step of loading, for display.
    pub stage: String,
    /// Bytes of weights in place.
    pub done_bytes: u64,
    /// Bytes of weights in all.
    pub total_bytes: u64,
}

/// The limits and types in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Effective {
    /// Longest sequence in tokens.
    pub max_model_len: u32,
    /// Sequences that run at once.
    pub max_num_seqs: u32,
    /// Tokens computed in one step.
    pub max_num_batched_tokens: u32,
    /// Type of the weights in memory, and that in which those in blocks are computed.
    pub dtype: Dtype,
    /// Blocks that matrices of the weights stay in, as the file has them; absent where all are of dtype.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub blocks: Vec<BlockFormat>,
    /// How weights in those blocks are multiplied: Int8, Int16 or Exact; absent where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_dtype: Option<ComputeDtype>,
    /// Type of the cached keys and values.
    pub kv_dtype: KvDtype,
    /// Tokens that the KV cache holds.
    pub kv_cache_tokens: u64,
    /// Instruction set of the kernels in use (CPU backend).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isa: Option<String>,
}

/// The ledger of one rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RankMemory {
    /// Index of the rank.
    pub rank: u32,
    /// The device: a GPU's UUID, or the CPU's thread group.
    pub device: String,
    /// The quota of the rank, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_bytes: Option<u64>,
    /// What the rank may use.
    pub budget_bytes: u64,
    /// What the driver says is in use; on the CPU, the resident size of the rank's mappings.
    pub driver_bytes: u64,
    /// The driver's figure minus the reserved bytes of all accounts on the device. Negative where less is
    /// resident than is reserved, such as after pages were swapped out.
    pub other_bytes: i64,
    /// Who holds which bytes.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub accounts: Vec<AccountMemory>,
    /// KV cache bytes held by blocks but not by tokens.
    pub kv_wasted_bytes: u64,
    /// Offloaded weights, where there are some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offload: Option<OffloadMemory>,
    /// Bytes of offloaded weights that were streamed since the start: for metrics, not for status.
    #[serde(default)]
    pub streamed_bytes: u64,
    /// How long steps waited for them, all together.
    #[serde(default)]
    pub stream_wait_microseconds: u64,
}

/// Weights that a rank keeps in host memory and streams in every step (`spec.memory.cpuOffload`). Their
/// bytes are the account Offload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OffloadMemory {
    /// Layers whose matrices are offloaded.
    pub layers: u32,
    /// Bytes that every step streams.
    pub step_bytes: u64,
    /// The most that a step is predicted to wait for them: how long copying takes when nothing is
    /// computed meanwhile.
    pub predicted_step_microseconds: u64,
    /// What a step waited, on the average of all steps so far.
    pub waited_step_microseconds: u64,
}

/// One account of a rank's ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccountMemory {
    /// Weights, KVCache, Activations, Graphs, Comm, Workspaces, Adapters, Context, or Offload: weights
    /// in host memory, which count in no total of a rank.
    pub name: String,
    /// Bytes the plan gives it.
    pub planned_bytes: u64,
    /// Bytes it has committed.
    pub reserved_bytes: u64,
    /// Bytes of it that hold something now.
    pub used_bytes: u64,
    /// The most it has ever used.
    pub high_water_bytes: u64,
}

/// Bytes of a pod that belong to no rank.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostMemory {
    /// Memory limit of the container, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
    /// What the container's cgroup says is in use, ranks of the CPU backend included.
    pub cgroup_bytes: u64,
    /// The cgroup's figure minus every account and, on the CPU backend, every rank. Negative where
    /// another cgroup was charged for pages of this one.
    pub other_bytes: i64,
    /// Who holds which bytes.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub accounts: Vec<HostAccount>,
}

/// One account of the host's ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostAccount {
    /// Process, PageCache, Kernel, or Offload: weights that ranks keep in host memory.
    pub name: String,
    /// Bytes in use.
    pub used_bytes: u64,
}
