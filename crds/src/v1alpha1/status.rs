//! `status`: what is, as the operator last saw it. Byte figures are exact integers named
//! `…Bytes`; the strings of `memory.summary` and `state` are for display only.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::engine::{Backend, PlanStatus};
use super::facts::ModelFacts;
use super::report::{
    AccountMemory, Effective, HostAccount, LoadProgress, OffloadMemory, RankMemory,
};
use super::target::TargetRow;
use super::weights::WeightsStatus;

/// What the operator sees of an InferenceDeployment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InferenceDeploymentStatus {
    /// Generation of the spec that this status speaks of; -1 before the operator first looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = -1))]
    pub observed_generation: Option<i64>,
    /// Where it stands, in a word, for display: Pending, Inspecting, Refused, Loading, Silent, Serving,
    /// Resizing, Degraded, Sleeping, Waking, Failed or Stopped. Programs read the conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// Engine pods that exist.
    #[serde(default)]
    pub replicas: u32,
    /// Engine pods that answer requests.
    #[serde(default)]
    pub ready_replicas: u32,
    /// Engine pods of the revision that the spec asks for.
    #[serde(default)]
    pub updated_replicas: u32,
    /// Label selector of the engine pods, for autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Revision that answers requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_revision: Option<String>,
    /// Revision that the spec asks for; `memory.plan` belongs to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_revision: Option<String>,
    /// Name that requests call the model by (the first of `spec.model.servedNames`, or the
    /// resource's own).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served_name: Option<String>,
    /// URL of the engines inside the cluster; the OpenAI API begins at /v1 below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Where the engines compute: CPU or CUDA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<Backend>,
    /// The model, as read from the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelFacts>,
    /// What `model` was read from, so that an unchanged source is not read again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inspection: Option<Inspection>,
    /// The limits and types in force, as the engines report them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective: Option<Effective>,
    /// How far the slowest loading engine is; absent when none loads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<LoadProgress>,
    /// Planned and measured memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryStatus>,
    /// Which weights the engines answer with; absent before any has its weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<WeightsStatus>,
    /// Where it stands, for programs: Ready, Available, ModelResolved, MemoryFits, QuotaEnforced,
    /// MemoryPressure, TargetApplied, WeightsVerified once an engine was woken or updated, and
    /// Reconciling or Stalled while they are true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Where it stands, in a word, for display: Pending, Inspecting, Refused, Loading, Silent, Serving,
/// Resizing, Degraded, Sleeping, Waking, Failed or Stopped. Programs read the conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum State {
    /// Nothing runs yet.
    Pending,
    /// The model's facts are being read.
    Inspecting,
    /// The spec was refused; pods that run are left alone.
    Refused,
    /// Engines are starting, none answers.
    Loading,
    /// Engines run that answered before, and none answers now.
    Silent,
    /// As many engines answer as the spec asks for.
    Serving,
    /// As many engines answer as the spec asks for, and the memory of one is on its way to new quotas.
    Resizing,
    /// Some engines answer, but fewer than asked for.
    Degraded,
    /// Engines are asleep as `spec.sleep` asks for, or about to be, and none answers.
    Sleeping,
    /// Engines are on their way out of a sleep, and none answers.
    Waking,
    /// No engine answers, and waiting will not help.
    Failed,
    /// Scaled to zero.
    Stopped,
}

/// What the facts of `status.model` were read from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Inspection {
    /// Hash of `spec.model.source`, and of `spec.adapters` where there are some.
    pub source: String,
    /// Node the source was read on, where its content depends on the node (hostPath).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// Planned and measured memory of a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemoryStatus {
    /// Totals over all pods as short strings, for display.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<MemorySummary>,
    /// What every engine pod is planned to hold, rank by rank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanStatus>,
    /// What a restart of the engines would gain: the split that they keep holds fewer tokens under the
    /// newest quotas than another one would. Absent where it gains nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartGain>,
    /// What every rank of every pod really holds: at most 64 rows, the totals count all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["pod", "rank"])
    )]
    pub gpus: Vec<GpuRow>,
    /// What every pod holds outside its ranks: at most 64 rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["pod"])
    )]
    pub hosts: Vec<HostRow>,
    /// What became of the newest target that each pod was told: at most 64 rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["pod"])
    )]
    pub targets: Vec<TargetRow>,
}

/// What a restart with another split would gain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestartGain {
    /// Tokens that the KV cache holds with the split that stands.
    pub kept_tokens: u64,
    /// Tokens that it would hold after a restart.
    pub tokens: u64,
    /// Tokens that a restart adds.
    pub gained_tokens: u64,
    /// Longest sequence in tokens after a restart.
    pub max_model_len: u32,
}

/// Totals over all pods and ranks as short strings, for display.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemorySummary {
    /// What the drivers say is in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<String>,
    /// Sum of the quotas (of the budgets, for ranks without a quota).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<String>,
    /// What the plan gives all accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned: Option<String>,
    /// Used share of the KV cache in the fullest pod, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_used_percent: Option<String>,
}

/// The ledger of one rank of one pod, and where the figures came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GpuRow {
    /// Name of the pod.
    pub pod: String,
    /// Index of the rank.
    pub rank: u32,
    /// Node of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
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
    /// Weights that the rank keeps in host memory, where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offload: Option<OffloadMemory>,
    /// When the pod reported these figures. While operator and pod work this is never older than
    /// seven minutes; older, and not `stale`, means that the operator does not work.
    pub reported_at: Time,
    /// The operator has not heard the pod for 90 seconds: the figures are its last. It is the
    /// operator's word: that the operator lives, its Lease tells (`renewTime`, every 6 s, of the
    /// Lease named as its Deployment).
    pub stale: bool,
}

/// One pod's memory outside its ranks, and where the figures came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostRow {
    /// Name of the pod.
    pub pod: String,
    /// Node of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
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
    /// When the pod reported these figures. While operator and pod work this is never older than
    /// seven minutes; older, and not `stale`, means that the operator does not work.
    pub reported_at: Time,
    /// The operator has not heard the pod for 90 seconds: the figures are its last. It is the
    /// operator's word: that the operator lives, its Lease tells (`renewTime`, every 6 s, of the
    /// Lease named as its Deployment).
    pub stale: bool,
}

/// Which pod a report came from, and how old it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowOrigin {
    pub pod: String,
    pub node: Option<String>,
    pub reported_at: Time,
    pub stale: bool,
}

impl GpuRow {
    /// The row of one rank of the pod that `origin` names.
    pub fn new(origin: &RowOrigin, memory: RankMemory) -> GpuRow {
        let RankMemory {
            rank,
            device,
            quota_bytes,
            budget_bytes,
            driver_bytes,
            other_bytes,
            accounts,
            kv_wasted_bytes,
            offload,
            streamed_bytes: _,
            stream_wait_microseconds: _,
        } = memory;
        GpuRow {
            pod: origin.pod.clone(),
            rank,
            node: origin.node.clone(),
            device,
            quota_bytes,
            budget_bytes,
            driver_bytes,
            other_bytes,
            accounts,
            kv_wasted_bytes,
            offload,
            reported_at: origin.reported_at.clone(),
            stale: origin.stale,
        }
    }
}

impl HostRow {
    /// The row of the pod that `origin` names.
    pub fn new(origin: &RowOrigin, memory: super::report::HostMemory) -> HostRow {
        let super::report::HostMemory {
            limit_bytes,
            cgroup_bytes,
            other_bytes,
            accounts,
        } = memory;
        HostRow {
            pod: origin.pod.clone(),
            node: origin.node.clone(),
            limit_bytes,
            cgroup_bytes,
            other_bytes,
            accounts,
            reported_at: origin.reported_at.clone(),
            stale: origin.stale,
        }
    }
}
