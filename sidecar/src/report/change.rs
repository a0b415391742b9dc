//! When a report is worth sending: a state moved, or a byte figure by more than 5% of its budget.

use plimsoll_crds::v1alpha1::report::{AccountMemory, HostMemory, MemoryReport, RankMemory};

/// A figure has moved when it is off by more than this part of its budget.
const THRESHOLD_PERCENT: u64 = 5;

/// True when the operator should hear of `new` now, having heard `old`.
pub fn worth_sending(old: &MemoryReport, new: &MemoryReport) -> bool {
    old.state != new.state
        || old.message != new.message
        || old.weights_verified != new.weights_verified
        || old.sleep_level != new.sleep_level
        || old.sleep_reason != new.sleep_reason
        || old.woken_by != new.woken_by
        || old.wakes_on_request != new.wakes_on_request
        || old.weight_version != new.weight_version
        || old.adapters != new.adapters
        || old.adapters_refused_for != new.adapters_refused_for
        || old.dynamic_adapters != new.dynamic_adapters
        || old.dynamic_adapters_left_out != new.dynamic_adapters_left_out
        || old.effective != new.effective
        || old.target != new.target
        || old.sleep != new.sleep
        || old.progress.as_ref().map(|p| &p.stage) != new.progress.as_ref().map(|p| &p.stage)
        || progress_moved(old, new)
        || old.ranks.len() != new.ranks.len()
        || old
            .ranks
            .iter()
            .zip(&new.ranks)
            .any(|(old, new)| rank_moved(old, new))
        || host_moved(&old.host, &new.host)
}

fn progress_moved(old: &MemoryReport, new: &MemoryReport) -> bool {
    match (&old.progress, &new.progress) {
        (Some(old), Some(new)) => moved(old.done_bytes, new.done_bytes, new.total_bytes),
        (None, None) => false,
        _ => true,
    }
}

fn rank_moved(old: &RankMemory, new: &RankMemory) -> bool {
    let budget = new.budget_bytes;
    old.quota_bytes != new.quota_bytes
        || old.budget_bytes != budget
        || moved(old.driver_bytes, new.driver_bytes, budget)
        || other_moved(old.other_bytes, new.other_bytes, budget)
        || moved(old.kv_wasted_bytes, new.kv_wasted_bytes, budget)
        || old.accounts.len() != new.accounts.len()
        || old
            .accounts
            .iter()
            .zip(&new.accounts)
            .any(|(old, new)| account_moved(old, new, budget))
}

fn account_moved(old: &AccountMemory, new: &AccountMemory, budget: u64) -> bool {
    old.name != new.name
        || moved(old.planned_bytes, new.planned_bytes, budget)
        || moved(old.reserved_bytes, new.reserved_bytes, budget)
        || moved(old.used_bytes, new.used_bytes, budget)
        || moved(old.high_water_bytes, new.high_water_bytes, budget)
}

/// The host's budget is the container's limit, or what it uses where it has none.
fn host_moved(old: &HostMemory, new: &HostMemory) -> bool {
    let budget = new.limit_bytes.unwrap_or(new.cgroup_bytes);
    let figure = |host: &HostMemory, name: &str| {
        host.accounts
            .iter()
            .find(|row| row.name == name)
            .map_or(0, |row| row.used_bytes)
    };
    old.limit_bytes != new.limit_bytes
        || moved(old.cgroup_bytes, new.cgroup_bytes, budget)
        || other_moved(old.other_bytes, new.other_bytes, budget)
        || new
            .accounts
            .iter()
            .any(|row| moved(figure(old, &row.name), row.used_bytes, budget))
}

fn moved(old: u64, new: u64, budget: u64) -> bool {
    is_news(old.abs_diff(new), budget)
}

/// As [`moved`], for the figure that may be below zero.
fn other_moved(old: i64, new: i64, budget: u64) -> bool {
    is_news(old.abs_diff(new), budget)
}

fn is_news(difference: u64, budget: u64) -> bool {
    difference.saturating_mul(100) > budget.saturating_mul(THRESHOLD_PERCENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::handle::EngineState;
    use crate::report::{HostReader, Identity, build, tests::view};
    use plimsoll_crds::v1alpha1::engine::Backend;

    fn report() -> MemoryReport {
        let identity = Identity {
            revision: "r".into(),
            backend: Backend::Cpu,
            target: Default::default(),
        };
        build(
            &identity,
            || Some(view(EngineState::Serving)),
            false,
            &HostReader::new(),
        )
    }

    #[test]
    fn only_movements_of_more_than_five_percent_are_sent() {
        let old = report();
        let mut new = old.clone();
        assert!(!worth_sending(&old, &new));
        new.ranks[0].accounts[1].used_bytes += 50;
        assert!(!worth_sending(&old, &new), "50 of 1000 is 5%, not more");
        new.ranks[0].accounts[1].used_bytes += 1;
        assert!(worth_sending(&old, &new));
    }

    #[test]
    fn a_state_a_quota_or_the_host_is_news_too() {
        let old = report();
        let mut new = old.clone();
        new.state = plimsoll_crds::v1alpha1::report::EngineState::Draining;
        assert!(worth_sending(&old, &new));
        let mut new = old.clone();
        new.adapters_refused_for.push_str("row 0");
        assert!(worth_sending(&old, &new));
        let mut new = old.clone();
        new.ranks[0].quota_bytes = None;
        assert!(worth_sending(&old, &new));
        let mut new = old.clone();
        let budget = new.host.limit_bytes.unwrap_or(new.host.cgroup_bytes);
        new.host.other_bytes -= (budget / 10 + 1).cast_signed();
        assert!(worth_sending(&old, &new));
    }
}
