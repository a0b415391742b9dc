//! The memory report: what `/memory` answers, `/metrics` exposes and the operator puts in status.
//!
//! One function builds it, so the three can only agree. Nothing here is on the path of a request.

mod adapters;
mod dynamic;
mod cgroup;
mod change;
mod progress;
mod host;
mod ranks;

use std::sync::{Arc, OnceLock};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use plimsoll_crds::v1alpha1::engine::Backend;
use plimsoll_crds::v1alpha1::report::{
    Effective, EngineState as ReportedState, HostMemory, MemoryReport, SleepReason, WokenBy,
};
use plimsoll_planner::{Account, Bytes};

use crate::adapters::Verdict;
use crate::engine::dynamic::AdaptersInSlots;
use crate::engine::handle::{EngineState, Progress};
use crate::engine::rest::{Cause, RestView, SleepLevel};
use crate::memory::snapshot::LedgerSnapshot;
use crate::target::Held;

pub use change::worth_sending;
pub use host::HostReader;

/// What a report says of the process whatever its state.
#[derive(Clone, Debug)]
pub struct Identity {
    pub revision: String,
    pub backend: Backend,
    /// Set once the plan is checked, of engines that an operator started.
    pub target: Arc<OnceLock<Held>>,
}

/// What the engine says, once there is one.
#[derive(Clone, Debug)]
pub struct EngineView {
    pub state: EngineState,
    pub rest: RestView,
    pub weight_version: String,
    pub adapters: Verdict,
    pub dynamic: AdaptersInSlots,
    pub progress: Progress,
    pub ledger: LedgerSnapshot,
    pub effective: Effective,
}

/// The report of this moment. `draining`: the process was asked to end, whatever the engine does.
///
/// The target is read before `engine` looks: a change that ends in between is then told as under way
/// still, and not as one that came about and was undone by hand.
pub fn build(
    identity: &Identity,
    engine: impl FnOnce() -> Option<EngineView>,
    draining: bool,
    host: &HostReader,
) -> MemoryReport {
    let held = identity.target.get();
    let (target, sleep) = (held.map(Held::report), held.map(Held::sleep_report));
    let wanted = held.map(|held| held.adapters(|wanted| wanted.clone()));
    let mut report = MemoryReport {
        time: now(),
        state: if draining {
            ReportedState::Draining
        } else {
            ReportedState::Loading
        },
        message: String::new(),
        progress: None,
        weights_verified: None,
        sleep_level: None,
        sleep_reason: None,
        woken_by: None,
        wakes_on_request: false,
        weight_version: String::new(),
        adapters: Vec::new(),
        adapters_refused_for: String::new(),
        dynamic_adapters: Vec::new(),
        dynamic_adapters_left_out: None,
        backend: identity.backend,
        revision: identity.revision.clone(),
        target,
        sleep,
        effective: None,
        kv_used_percent: 0,
        ranks: Vec::new(),
        host: HostMemory::default(),
    };
    let Some(EngineView {
        state,
        rest,
        weight_version,
        adapters,
        dynamic,
        progress,
        ledger,
        effective,
    }) = engine()
    else {
        report.host = host.read(Bytes::ZERO, Bytes::ZERO);
        return report;
    };
    let filling = rest.filling;
    let (state, message) = match state {
        EngineState::Loading => (ReportedState::Loading, String::new()),
        EngineState::Serving if filling => (ReportedState::Loading, String::new()),
        EngineState::Serving => (ReportedState::Serving, String::new()),
        EngineState::Paused => (ReportedState::Paused, String::new()),
        EngineState::Sleeping => (ReportedState::Sleeping, String::new()),
        EngineState::Asleep => (ReportedState::Asleep, rest.trouble),
        EngineState::Waking => (ReportedState::Waking, String::new()),
        EngineState::Resizing => (ReportedState::Resizing, String::new()),
        EngineState::Draining | EngineState::Drained => (ReportedState::Draining, String::new()),
        EngineState::Failed { message } => (ReportedState::Failed, message),
    };
    report.state = match state {
        ReportedState::Failed => state,
        _ if draining => ReportedState::Draining,
        state => state,
    };
    report.message = message;
    report.weights_verified = rest.weights_verified;
    report.sleep_level = rest.level.map(SleepLevel::number);
    report.sleep_reason = rest.cause.and_then(|cause| match cause {
        Cause::Hand => Some(SleepReason::Control),
        Cause::Target => Some(SleepReason::Target),
        Cause::Idle => Some(SleepReason::Idle),
        Cause::Request => None,
    });
    report.woken_by = rest.woken_by.and_then(|cause| match cause {
        Cause::Hand => Some(WokenBy::Control),
        Cause::Target => Some(WokenBy::Target),
        Cause::Request => Some(WokenBy::Request),
        Cause::Idle => None,
    });
    report.wakes_on_request = rest.reachable;
    report.weight_version = weight_version;
    (report.adapters, report.adapters_refused_for) = adapters::of(&adapters);
    let away = rest.out.contains(&Account::Adapters);
    report.dynamic_adapters = adapters::in_slots(&dynamic, away);
    if let Some(wanted) = &wanted {
        dynamic::beside(&mut report.dynamic_adapters, wanted);
    }
    report.dynamic_adapters_left_out =
        dynamic::bound(&mut report.dynamic_adapters, wanted.as_ref());
    let is_loading = state == ReportedState::Loading;
    report.progress = is_loading.then(|| progress::of(&progress, filling, &ledger));
    report.effective = Some(effective);
    report.kv_used_percent = percent(ledger.kv.blocks_used, ledger.kv.blocks_total);
    let driver: Bytes = ledger.ranks.iter().map(|rank| rank.driver).sum();
    // On the CPU the ranks' bytes are the process's own; a GPU's are not in its cgroup.
    let ranks = match identity.backend {
        Backend::Cpu => driver,
        Backend::Cuda => Bytes::ZERO,
    };
    let offload = ledger.ranks.iter().map(|rank| rank.host).sum();
    report.host = host.read(ranks, offload);
    let backend = identity.backend;
    report.ranks = ledger
        .ranks
        .into_iter()
        .map(|rank| ranks::memory(rank, backend))
        .collect();
    report
}

/// Rounded up, so that one block in use is not "0%".
fn percent(part: u32, whole: u32) -> u32 {
    match u64::from(whole) {
        0 => 0,
        whole => u32::try_from((u64::from(part) * 100).div_ceil(whole)).unwrap_or(100),
    }
}

/// Whole seconds, as Kubernetes writes times.
fn now() -> Time {
    let now = Timestamp::now();
    let fraction = SignedDuration::from_nanos(i64::from(now.subsec_nanosecond()));
    Time(now.checked_sub(fraction).unwrap_or(now))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::memory::snapshot::{AccountRow, RankLedger};
    use plimsoll_crds::v1alpha1::TargetOutcome;
    use plimsoll_crds::v1alpha1::facts::Dtype;
    use plimsoll_crds::v1alpha1::kv_cache::KvDtype;

    pub(crate) fn view(state: EngineState) -> EngineView {
        let row = |account, bytes| AccountRow {
            account,
            planned: Bytes::measured(bytes),
            reserved: Bytes::measured(bytes),
            used: Bytes::measured(bytes / 2),
            high_water: Bytes::measured(bytes),
        };
        let mut ledger = LedgerSnapshot::default();
        ledger.ranks.push(RankLedger {
            rank: 0,
            budget: Bytes::measured(1000),
            quota: Some(Bytes::measured(1000)),
            accounts: vec![row(Account::Weights, 600), row(Account::KvCache, 300)],
            driver: Bytes::measured(904),
            other: 4,
            kv_wasted: Bytes::measured(3),
            host: Bytes::ZERO,
            offload: None,
        });
        ledger.kv.blocks_total = 1000;
        ledger.kv.blocks_used = 1;
        let effective = Effective {
            max_model_len: 128,
            max_num_seqs: 4,
            max_num_batched_tokens: 64,
            blocks: Vec::new(),
            compute_dtype: None,
            dtype: Dtype::Float32,
            kv_dtype: KvDtype::Float32,
            kv_cache_tokens: 16_000,
            isa: None,
        };
        let progress = Progress {
            stage: "LoadingWeights",
            done_bytes: 3,
            total_bytes: 7,
        };
        EngineView {
            state,
            rest: RestView::default(),
            weight_version: "7".to_owned(),
            adapters: Verdict::default(),
            dynamic: AdaptersInSlots::default(),
            progress,
            ledger,
            effective,
        }
    }

    pub(super) fn identity() -> Identity {
        Identity {
            revision: "r1".into(),
            backend: Backend::Cpu,
            target: Arc::default(),
        }
    }

    #[test]
    fn a_report_says_what_the_ledger_says() {
        let report = build(
            &identity(),
            || Some(view(EngineState::Serving)),
            false,
            &HostReader::new(),
        );
        assert_eq!(report.state, ReportedState::Serving);
        assert_eq!(report.progress, None);
        assert_eq!(report.weight_version, "7");
        assert_eq!(report.kv_used_percent, 1, "one block is not nothing");
        let rank = &report.ranks[0];
        assert_eq!(
            (rank.device.as_str(), rank.driver_bytes, rank.other_bytes),
            ("cpu-0", 904, 4)
        );
        let names: Vec<&str> = rank.accounts.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, ["Weights", "KVCache"]);
        assert_eq!(rank.accounts[1].used_bytes, 150);
        let json = serde_json::to_value(&report).unwrap();
        let time = json["time"].as_str().unwrap();
        assert_eq!(time.len(), "2026-01-01T00:00:00Z".len(), "{time}");
    }

    #[test]
    fn what_is_reserved_and_not_resident_is_shown_as_less_than_nothing() {
        let mut view = view(EngineState::Serving);
        view.ledger.ranks[0].other = -7;
        let report = build(&identity(), || Some(view), false, &HostReader::new());
        assert_eq!(report.ranks[0].other_bytes, -7);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["ranks"][0]["otherBytes"], -7);
    }

    #[test]
    fn a_sleep_that_comes_about_in_the_middle_is_told_as_under_way() {
        let identity = identity();
        let held = Held::new(crate::target::tests::asleep(3, 1));
        let change = held.first().unwrap();
        identity.target.set(held).unwrap();
        let target = identity.target.get().unwrap();
        let look = |settles| {
            let engine = || {
                if settles {
                    target.settle(change, Ok(()));
                }
                Some(view(EngineState::Asleep))
            };
            let report = build(&identity, engine, false, &HostReader::new());
            report.target.unwrap().outcome
        };
        assert_eq!(look(true), TargetOutcome::Deferred);
        assert_eq!(look(false), TargetOutcome::Applied);
    }

    #[test]
    fn an_engine_that_did_not_wake_says_why() {
        let mut view = view(EngineState::Asleep);
        view.rest.weights_verified = Some(false);
        view.rest.level = Some(SleepLevel::Two);
        view.rest.trouble = "rank 1: Head: not as loaded".into();
        let report = build(&identity(), || Some(view), false, &HostReader::new());
        assert_eq!(report.state, ReportedState::Asleep);
        assert_eq!(report.weights_verified, Some(false));
        assert_eq!(report.sleep_level, Some(2));
        assert_eq!(report.message, "rank 1: Head: not as loaded");
    }

    #[test]
    fn states_are_told_apart_and_failure_wins() {
        let host = HostReader::new();
        let state = |engine, draining| build(&identity(), || engine, draining, &host).state;
        assert_eq!(state(None, false), ReportedState::Loading);
        assert_eq!(state(None, true), ReportedState::Draining);
        assert_eq!(
            state(Some(view(EngineState::Serving)), true),
            ReportedState::Draining
        );
        assert_eq!(
            state(Some(view(EngineState::Drained)), false),
            ReportedState::Draining
        );
        let failed = EngineState::Failed {
            message: "rank 1 died".into(),
        };
        let report = build(&identity(), || Some(view(failed)), true, &host);
        assert_eq!(
            (report.state, report.message.as_str()),
            (ReportedState::Failed, "rank 1 died")
        );
        let loading = build(
            &identity(),
            || Some(view(EngineState::Loading)),
            false,
            &host,
        );
        assert_eq!(
            loading.progress.map(|p| (p.done_bytes, p.total_bytes)),
            Some((3, 7))
        );
    }
}
