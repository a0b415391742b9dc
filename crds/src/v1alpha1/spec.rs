//! `spec`: what is wanted, never how. Every field is read by the operator, none of them is
//! immutable, and none is ever written by us. Rules that CEL can say stand beside the fields;
//! what needs arithmetic is the planner's refusal.
#![expect(
    clippy::duplicated_attributes,
    reason = "printer columns share words, not meanings"
)]

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::CustomResource;
use plimsoll_planner::AdapterSlots;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::adapters::{AdapterMode, AdapterSpec, AdapterValidation};
use super::kv_cache::KvCacheSpec;
use super::limits::LimitsSpec;
use super::model::{ModelSource, ModelSpec};
use super::rules::{byte_rules, rule};
use super::sleep::SleepSpec;
use super::status::InferenceDeploymentStatus;
use super::template::EngineTemplate;

/// What is wanted: a model, how it is divided, and the memory that each rank may use.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "plimsoll.dev",
    version = "v1alpha1",
    kind = "InferenceDeployment",
    namespaced,
    doc = "Runs a language model on ranks with a memory quota each, and shows who holds which \
           bytes.",
    status = "InferenceDeploymentStatus",
    derive = "PartialEq",
    shortname = "infd",
    category = "inference",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Ready",
        type_ = "integer",
        description = "Engine pods that answer requests.",
        json_path = ".status.readyReplicas"
    ),
    printcolumn(
        name = "Replicas",
        type_ = "integer",
        description = "Engine pods that exist.",
        json_path = ".status.replicas"
    ),
    printcolumn(
        name = "TP",
        type_ = "integer",
        description = "Ranks that the model is divided over.",
        json_path = ".spec.parallelism.tensorParallelSize"
    ),
    printcolumn(
        name = "State",
        type_ = "string",
        description = "Where it stands, in a word.",
        json_path = ".status.state"
    ),
    printcolumn(
        name = "GPU-Used",
        type_ = "string",
        description = "Memory in use on all ranks, as the drivers say.",
        json_path = ".status.memory.summary.used"
    ),
    printcolumn(
        name = "GPU-Quota",
        type_ = "string",
        description = "Sum of the quotas of all ranks.",
        json_path = ".status.memory.summary.quota"
    ),
    printcolumn(
        name = "KV%",
        type_ = "string",
        description = "Used share of the KV cache in the fullest pod.",
        json_path = ".status.memory.summary.kvUsedPercent"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Model",
        type_ = "string",
        description = "First name that requests call the model by.",
        json_path = ".status.servedName",
        priority = 1
    ),
    printcolumn(
        name = "Backend",
        type_ = "string",
        description = "Where the engines compute.",
        json_path = ".status.backend",
        priority = 1
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        description = "Reason of the Ready condition.",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        priority = 1
    ),
    printcolumn(
        name = "Endpoint",
        type_ = "string",
        description = "URL of the engines inside the cluster.",
        json_path = ".status.endpoint",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule(
        "!has(self.memory.gpuQuotas) || size(self.memory.gpuQuotas) == 0 || \
         size(self.memory.gpuQuotas) == self.parallelism.tensorParallelSize",
    ).about(".memory.gpuQuotas").says_computed(
        "'%d rows for spec.parallelism.tensorParallelSize %d; write one row per rank, from 0 to \
         %d, or none'.format([size(self.memory.gpuQuotas), \
         self.parallelism.tensorParallelSize, self.parallelism.tensorParallelSize - 1])",
    ),
    rule(
        "!has(self.memory.gpuQuotas) || self.memory.gpuQuotas.all(q, \
         q.rank < self.parallelism.tensorParallelSize)",
    ).about(".memory.gpuQuotas").says_computed(
        "'a row names a rank that does not exist; spec.parallelism.tensorParallelSize %d has \
         ranks 0 to %d'.format([self.parallelism.tensorParallelSize, \
         self.parallelism.tensorParallelSize - 1])",
    ),
]))]
pub struct InferenceDeploymentSpec {
    /// Engine pods wanted; absent means 1. `kubectl scale` and autoscalers write it. Zero stops
    /// the engines and keeps everything else. An autoscaler starts from a written number, so leave
    /// replicas out of the manifest that it must not fight with, and run `kubectl scale` once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// The model to run.
    pub model: ModelSpec,
    /// PEFT adapters. Those of mode Merge (8 at most) are merged into the model's weights while these are
    /// read, in this order; each is read and checked with the model, before any engine is changed, and a
    /// change of them rolls. Those of mode Dynamic are loaded by running engines. Condition AdaptersReady
    /// says what became of all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        extend(
            "x-kubernetes-list-type" = "map",
            "x-kubernetes-list-map-keys" = ["name"],
            "x-kubernetes-validations" = [
                rule("self.filter(a, a.mode == 'Merge').size() <= 8")
                    .says("at most 8 adapters are merged; merge them into a model first (plimsoll-sidecar merge)"),
            ],
        )
    )]
    pub adapters: Vec<AdapterSpec>,
    /// What is asked of adapters before an engine is ready with them. A change rolls where there are
    /// adapters.
    #[serde(default, skip_serializing_if = "AdapterValidation::is_default")]
    pub adapter_validation: AdapterValidation,
    /// How the model is divided over ranks (GPUs, or thread groups on the CPU backend).
    #[serde(default)]
    pub parallelism: Parallelism,
    /// The memory that the engine may use.
    #[serde(default)]
    pub memory: MemorySpec,
    /// How much work the engine takes on at once.
    #[serde(default)]
    pub limits: LimitsSpec,
    /// Whether the engines hold their memory; absent means awake. Pods that sleep stay, give memory
    /// back, and get and answer no requests; a change restarts nothing. It reaches the pods of every
    /// revision, also while a rollout waits or the rest of the spec is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sleep: Option<SleepSpec>,
    /// Where the ranks compute: CPU, or Auto for the best that this version has, which is CPU
    /// (CUDA is not offered yet). `status.backend` names the one in use.
    #[serde(default)]
    pub backend: BackendChoice,
    /// What to change in the engine pods, and the containers to run beside the engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<EngineTemplate>,
    /// Seconds that a change may take before the resource counts as stalled (condition Stalled,
    /// reason ProgressDeadlineExceeded). An engine that takes longer to start (and longer than 60
    /// seconds) is started anew; what answers is left alone.
    #[serde(default = "progress_deadline_seconds")]
    #[schemars(range(min = 1, max = 86400))]
    pub progress_deadline_seconds: u32,
}

impl InferenceDeploymentSpec {
    /// Adapters that are merged into the weights.
    pub fn merged(&self) -> impl Iterator<Item = &AdapterSpec> {
        self.adapters
            .iter()
            .filter(|of| of.mode == AdapterMode::Merge)
    }

    /// Adapters that requests choose.
    pub fn dynamic(&self) -> impl Iterator<Item = &AdapterSpec> {
        self.adapters
            .iter()
            .filter(|of| of.mode == AdapterMode::Dynamic)
    }

    /// All that engines read before they serve: the model's source, then those of what is merged into it.
    pub fn sources(&self) -> impl Iterator<Item = &ModelSource> {
        let adapters = self.merged().map(|adapter| &adapter.source);
        std::iter::once(&self.model.source).chain(adapters)
    }
}

const fn progress_deadline_seconds() -> u32 {
    1800
}

/// How the model is divided over ranks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Parallelism {
    /// Ranks that share every layer, 1 to 16. They need not be equal: the split follows the
    /// quotas.
    #[schemars(range(min = 1, max = 16))]
    pub tensor_parallel_size: u32,
    /// How the model is split: Tensor (every layer over all ranks), or Auto for the best that
    /// this version has, which is Tensor.
    pub split: Split,
    /// When running engines give up the split they have for another one, which takes a restart. New
    /// quotas, `gpuMemoryUtilization` and `kvCache.size` change the KV cache of running engines in
    /// place. Auto: they restart only where their split does not fit the new figures. Never: such
    /// figures are refused (condition MemoryFits), and what runs stays. Always: they restart whenever
    /// another split is better. `status.memory.restart` has what a restart would gain.
    pub resplit: Resplit,
}

impl Default for Parallelism {
    fn default() -> Self {
        Parallelism {
            tensor_parallel_size: 1,
            split: Split::Auto,
            resplit: Resplit::Auto,
        }
    }
}

/// When engines restart for another split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Resplit {
    #[default]
    Auto,
    Never,
    Always,
}

/// How a model is split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Split {
    #[default]
    Auto,
    Tensor,
}

/// The memory that the engine may use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MemorySpec {
    /// Share of a device that a rank without a quota may use, 0.05 to 1, counted in thousandths.
    /// On the CPU backend the device is the container's memory limit.
    #[schemars(range(min = 0.05, max = 1.0), extend("x-kubernetes-validations" = [
        // The API server compares whole numbers with the bounds cut to whole numbers, and lets 0 by.
        rule("self >= 0.05 && self <= 1.0").says("must be between 0.05 and 1; write e.g. 0.9"),
    ]))]
    pub gpu_memory_utilization: f64,
    /// The line that each rank never crosses: no rows, or one for every rank.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["rank"])
    )]
    pub gpu_quotas: Vec<GpuQuota>,
    /// Bytes of weights that each rank may keep in host memory, a quantity such as 2Gi, at least 1Mi;
    /// absent means none. Matrices of as many whole layers as fit are kept there and copied to the
    /// rank in every step, each while another layer is computed; what they took is left to the KV
    /// cache. Two layers wait in the rank's own memory, so fewer than three gain nothing, and bytes
    /// for fewer are refused with the least that does. No quota counts them: they are a part of the
    /// container's memory. `status.memory.gpus` shows layers, bytes and how long steps wait for them.
    /// A change restarts the engines.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "maxLength" = 32,
        "x-kubernetes-validations" = byte_rules(),
    ))]
    pub cpu_offload: Option<Quantity>,
    /// The cache of keys and values. It takes what the budgets leave.
    pub kv_cache: KvCacheSpec,
}

impl Default for MemorySpec {
    fn default() -> Self {
        MemorySpec {
            gpu_memory_utilization: 0.9,
            gpu_quotas: Vec::new(),
            cpu_offload: None,
            kv_cache: KvCacheSpec::default(),
        }
    }
}

/// The line of one rank.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GpuQuota {
    /// Index of the rank, from 0.
    #[schemars(range(min = 0, max = 15))]
    pub rank: u32,
    /// Bounds everything that the pod has on this rank's device: weights, KV cache, activations,
    /// buffers and the driver's own. A quantity such as 700Mi or 10G, at least 1Mi.
    #[schemars(extend(
        "maxLength" = 32,
        "x-kubernetes-validations" = byte_rules(),
    ))]
    pub limit: Quantity,
}

impl InferenceDeploymentSpec {
    /// Room for adapters that requests choose.
    pub fn adapter_slots(&self) -> AdapterSlots {
        let asked = u32::try_from(self.dynamic().count()).unwrap_or(u32::MAX);
        self.limits.adapter_slots(asked)
    }
}

/// Where the ranks compute, or Auto.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BackendChoice {
    #[default]
    Auto,
    #[serde(rename = "CPU")]
    Cpu,
}
