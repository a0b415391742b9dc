//! Bytes per rank and account, and of the host, from the same report that `/memory` answers.

use plimsoll_crds::v1alpha1::MemoryReport;
use plimsoll_crds::v1alpha1::report::{EngineState, RankMemory};
use plimsoll_planner::Account;
use prometheus::{IntGauge, IntGaugeVec};

use super::Maker;

#[derive(Debug)]
pub(super) struct Bytes {
    reserved: IntGaugeVec,
    planned: IntGaugeVec,
    used: IntGaugeVec,
    high_water: IntGaugeVec,
    quota: IntGaugeVec,
    budget: IntGaugeVec,
    driver: IntGaugeVec,
    other: IntGaugeVec,
    kv_wasted: IntGaugeVec,
    host: IntGaugeVec,
    host_limit: IntGaugeVec,
    host_cgroup: IntGauge,
    host_other: IntGauge,
    state: IntGaugeVec,
    load_done: IntGauge,
    load_total: IntGauge,
}

const STATES: [(EngineState, &str); 9] = [
    (EngineState::Loading, "loading"),
    (EngineState::Serving, "serving"),
    (EngineState::Paused, "paused"),
    (EngineState::Sleeping, "sleeping"),
    (EngineState::Asleep, "asleep"),
    (EngineState::Waking, "waking"),
    (EngineState::Resizing, "resizing"),
    (EngineState::Draining, "draining"),
    (EngineState::Failed, "failed"),
];

impl Bytes {
    pub(super) fn new(maker: &mut Maker) -> Bytes {
        let mut vec = |name: &str, help: &str, labels: &[&str]| {
            let opts = maker.plimsoll(name, help);
            maker.add(IntGaugeVec::new(opts, labels))
        };
        let by_kind = &["gpu", "kind"];
        let by_gpu = &["gpu"];
        let reserved = vec(
            "gpu_memory_bytes",
            "Bytes an account has committed.",
            by_kind,
        );
        let planned = vec(
            "gpu_memory_planned_bytes",
            "Bytes the plan gives an account.",
            by_kind,
        );
        let used = vec(
            "gpu_memory_used_bytes",
            "Bytes that hold something now.",
            by_kind,
        );
        let high_water = vec(
            "gpu_memory_high_water_bytes",
            "Most bytes ever used.",
            by_kind,
        );
        let quota = vec(
            "gpu_memory_quota_bytes",
            "The rank's quota, if it has one.",
            by_gpu,
        );
        let budget = vec("gpu_memory_budget_bytes", "What the rank may use.", by_gpu);
        let driver = vec(
            "gpu_memory_driver_bytes",
            "What the driver says the rank has in use.",
            by_gpu,
        );
        let other = vec(
            "gpu_memory_other_bytes",
            "Driver figure minus all accounts; may be negative.",
            by_gpu,
        );
        let kv_wasted = vec(
            "kv_cache_wasted_bytes",
            "Bytes of used blocks that hold no token.",
            by_gpu,
        );
        let host = vec(
            "host_memory_bytes",
            "Bytes that belong to no rank, by kind.",
            &["kind"],
        );
        let host_limit = vec(
            "host_memory_limit_bytes",
            "The container's limit, if any.",
            &[],
        );
        let state = vec("engine_state", "1 on the current state.", &["state"]);
        let mut gauge = |name: &str, help: &str| {
            let opts = maker.plimsoll(name, help);
            maker.add(IntGauge::with_opts(opts))
        };
        Bytes {
            reserved,
            planned,
            used,
            high_water,
            quota,
            budget,
            driver,
            other,
            kv_wasted,
            host,
            host_limit,
            state,
            host_cgroup: gauge(
                "host_memory_cgroup_bytes",
                "What the container's cgroup counts.",
            ),
            host_other: gauge(
                "host_memory_other_bytes",
                "Cgroup figure minus every account and every rank; may be negative.",
            ),
            load_done: gauge("load_done_bytes", "Bytes of weights in place."),
            load_total: gauge("load_total_bytes", "Bytes of weights to load."),
        }
    }

    pub(super) fn set(&self, report: &MemoryReport) {
        for (state, name) in STATES {
            self.state
                .with_label_values(&[name])
                .set(i64::from(state == report.state));
        }
        if let Some(progress) = &report.progress {
            self.load_done.set(signed(progress.done_bytes));
            self.load_total.set(signed(progress.total_bytes));
        } else {
            // Once loaded, done stays at what there was to do.
            self.load_done.set(self.load_total.get());
        }
        for rank in &report.ranks {
            self.set_rank(rank);
        }
        for row in &report.host.accounts {
            self.host
                .with_label_values(&[host_kind(&row.name)])
                .set(signed(row.used_bytes));
        }
        if let Some(limit) = report.host.limit_bytes {
            self.host_limit
                .with_label_values::<&str>(&[])
                .set(signed(limit));
        }
        self.host_cgroup.set(signed(report.host.cgroup_bytes));
        self.host_other.set(report.host.other_bytes);
    }

    fn set_rank(&self, rank: &RankMemory) {
        let gpu = rank.rank.to_string();
        let gpu = gpu.as_str();
        for row in &rank.accounts {
            let labels = [gpu, account_kind(&row.name)];
            self.reserved
                .with_label_values(&labels)
                .set(signed(row.reserved_bytes));
            self.planned
                .with_label_values(&labels)
                .set(signed(row.planned_bytes));
            self.used
                .with_label_values(&labels)
                .set(signed(row.used_bytes));
            self.high_water
                .with_label_values(&labels)
                .set(signed(row.high_water_bytes));
        }
        if let Some(quota) = rank.quota_bytes {
            self.quota.with_label_values(&[gpu]).set(signed(quota));
        }
        self.budget
            .with_label_values(&[gpu])
            .set(signed(rank.budget_bytes));
        self.driver
            .with_label_values(&[gpu])
            .set(signed(rank.driver_bytes));
        self.other.with_label_values(&[gpu]).set(rank.other_bytes);
        self.kv_wasted
            .with_label_values(&[gpu])
            .set(signed(rank.kv_wasted_bytes));
    }
}

/// The report names accounts as status does; labels are in Prometheus's spelling.
fn account_kind(name: &str) -> &'static str {
    Account::ALL
        .iter()
        .find(|account| account.name() == name)
        .map_or("unknown", |a| a.label())
}

fn host_kind(name: &str) -> &'static str {
    match name {
        "Process" => "process",
        "PageCache" => "page_cache",
        "Kernel" => "kernel",
        "Offload" => "offload",
        _ => "unknown",
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
