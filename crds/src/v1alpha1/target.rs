//! What an engine is told: `target.json`, mounted beside `boot.json` and sent to the engine while it
//! runs, and its sleep alone, where nothing else of it is for that engine. It refuses fields it does not
//! know, as [`super::boot`] does.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::boot::BootAdapter;

/// What an engine's memory should be, and whether it should hold it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Target {
    /// `metadata.generation` of the resource that it was made from. In the file of an engine that is told
    /// its sleep alone the sleep may be of a newer one.
    pub generation: i64,
    /// Share of a device that ranks without a quota may use, 0.05 to 1.
    pub gpu_memory_utilization: f64,
    /// The KV cache as asked for and as planned.
    pub kv_cache: TargetKvCache,
    /// What each rank may use and is planned to hold, one row per rank, in order.
    pub ranks: Vec<TargetRank>,
    /// Adapters that requests may choose, by name. Those that an earlier target named and this one does
    /// not are unloaded; what was loaded by hand stays. One that cannot be loaded refuses nothing else:
    /// the report's rows of adapters tell how each stands.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<BootAdapter>,
    /// How the engine should sleep; absent: it should be awake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sleep: Option<TargetSleep>,
    /// When an engine that is awake falls asleep by itself; absent: never. An engine that is older
    /// than this field or the next refuses the whole target, by the name of the field; both are left
    /// out where they are not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<TargetIdle>,
    /// Whether a request wakes an engine that sleeps as asked or by its own clock.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wake_on_request: bool,
}

/// The body of `PUT /target/sleep`: how an engine should sleep, whatever becomes of the rest of the
/// resource. It is for engines of older revisions, and for all while the spec leads to none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SleepOrder {
    /// `metadata.generation` of the resource that it was made from. An older one than the newest that
    /// the engine was told, alone or with a target, is not taken.
    pub generation: i64,
    /// As in [`Target`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sleep: Option<TargetSleep>,
    /// As in [`Target`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<TargetIdle>,
    /// As in [`Target`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wake_on_request: bool,
}

/// A sleep that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetSleep {
    /// 1: KV cache and scratch memory are given back; 2: the weights, too.
    pub level: u32,
}

/// When an engine falls asleep by itself, by its own clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetIdle {
    /// Seconds without a request or a command.
    pub after_seconds: u32,
    /// The level of that sleep, as in [`TargetSleep`].
    pub level: u32,
}

/// The KV cache of every rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetKvCache {
    /// Upper bound in bytes on each rank, if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// Planned blocks on every rank, the null block included.
    pub blocks: u32,
    /// Tokens that they hold.
    pub tokens: u64,
}

/// One rank: budget = min(quota, utilization x total), and what is planned within it. The engine
/// plans for itself with the split it was started with, and refuses numbers that differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetRank {
    /// Index of the rank.
    pub rank: u32,
    /// `spec.memory.gpuQuotas[rank].limit` in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_bytes: Option<u64>,
    /// Memory of the device in bytes, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
    /// What the rank may use.
    pub budget_bytes: u64,
    /// Planned bytes of each account that is not zero.
    pub accounts: Vec<TargetAccount>,
}

/// Planned bytes of one account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetAccount {
    /// Weights, KVCache, Activations, Graphs, Comm, Workspaces, Adapters, Context, or Offload: weights
    /// in host memory, which count in no total of a rank.
    pub name: String,
    /// Bytes the plan gives it.
    pub planned_bytes: u64,
}

impl Target {
    /// What it says of sleep.
    pub fn sleep_order(&self) -> SleepOrder {
        SleepOrder {
            generation: self.generation,
            sleep: self.sleep,
            idle: self.idle,
            wake_on_request: self.wake_on_request,
        }
    }

    /// The same with another sleep; it stays a target of its own generation.
    pub fn with_sleep(self, order: &SleepOrder) -> Target {
        let SleepOrder {
            generation: _,
            sleep,
            idle,
            wake_on_request,
        } = *order;
        Target {
            sleep,
            idle,
            wake_on_request,
            ..self
        }
    }

    /// Whether two targets ask for the same memory, whatever generations they were made from, asleep
    /// or awake, and whatever adapters lie in it.
    pub fn same_demand(&self, other: &Target) -> bool {
        let Target {
            generation: _,
            gpu_memory_utilization,
            kv_cache,
            ranks,
            adapters: _,
            sleep: _,
            idle: _,
            wake_on_request: _,
        } = self;
        gpu_memory_utilization
            .total_cmp(&other.gpu_memory_utilization)
            .is_eq()
            && *kv_cache == other.kv_cache
            && *ranks == other.ranks
    }
}

/// What became of the newest target that an engine was told, or of the newest sleep: the answer to
/// `PUT /target` and `PUT /target/sleep`, and part of every report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetReport {
    /// Generation of the resource that the target was made from.
    pub generation: i64,
    /// Whether it is in force.
    pub outcome: TargetOutcome,
    /// Why it is not, with the numbers; empty once it is applied.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Bytes that the engine holds above it, all ranks together; zero unless it is deferred.
    #[serde(default)]
    pub overage_bytes: u64,
}

/// What became of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TargetOutcome {
    /// It is in force.
    Applied,
    /// The engine gives back what is above it, or is on its way to sleep or out of it, and applies it
    /// then.
    Deferred,
    /// The engine cannot follow it; what was in force before still is.
    Refused,
}

/// What became of the newest target that one pod was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetRow {
    /// Name of the pod.
    pub pod: String,
    /// Generation of the resource that the target was made from.
    pub generation: i64,
    /// Generation of the sleep that it was told alone since: of an engine of an older revision, or while
    /// the spec leads to none; absent where the newest came with the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sleep_generation: Option<i64>,
    /// Whether it is in force, and the sleep.
    pub outcome: TargetOutcome,
    /// Why it is not, with the numbers; absent once it is applied.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Bytes that the pod holds above it, all ranks together; zero unless it is deferred.
    pub overage_bytes: u64,
    /// The budgets that the engine holds to, all ranks together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_bytes: Option<u64>,
    /// The budgets that the newest target gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted_budget_bytes: Option<u64>,
    /// Memory limit of the engine's container, as its node has it in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
    /// The limit that the newest target leads to; absent where the limit is written in
    /// `spec.template`, which a resize leaves alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted_limit_bytes: Option<u64>,
}

impl TargetRow {
    /// The row of a pod, without the figures before and after.
    pub fn new(pod: &str, report: TargetReport) -> TargetRow {
        let TargetReport {
            generation,
            outcome,
            message,
            overage_bytes,
        } = report;
        TargetRow {
            pod: pod.to_owned(),
            generation,
            sleep_generation: None,
            outcome,
            message,
            overage_bytes,
            budget_bytes: None,
            wanted_budget_bytes: None,
            limit_bytes: None,
            wanted_limit_bytes: None,
        }
    }

    /// What it says of the newest sleep.
    pub fn sleep_report(self) -> TargetReport {
        TargetReport {
            generation: self.sleep_generation.unwrap_or(self.generation),
            ..TargetReport::from(self)
        }
    }
}

impl From<TargetRow> for TargetReport {
    fn from(row: TargetRow) -> TargetReport {
        let TargetRow {
            pod: _,
            generation,
            sleep_generation: _,
            outcome,
            message,
            overage_bytes,
            budget_bytes: _,
            wanted_budget_bytes: _,
            limit_bytes: _,
            wanted_limit_bytes: _,
        } = row;
        TargetReport {
            generation,
            outcome,
            message,
            overage_bytes,
        }
    }
}
