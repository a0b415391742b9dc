//! Whether a status is worth a write: at once when a state changed, now and then when only
//! figures moved, and not at all when nothing that matters did. Pure.

use std::time::Duration;

use plimsoll_crds::v1alpha1::InferenceDeploymentStatus;
use plimsoll_crds::v1alpha1::status::{GpuRow, MemoryStatus};
use plimsoll_crds::v1alpha1::target::TargetRow;
use plimsoll_crds::v1alpha1::weights::WeightsStatus;

/// A byte figure has moved when it differs by more than this share of its budget.
const MOVED_PERCENT: u64 = 5;
/// Conditions whose words follow figures (load progress, counts, generations).
const FIGURES_IN_WORDS: [&str; 4] = ["Ready", "Reconciling", "Available", "TargetApplied"];
/// Words that say something else, and not the same with other figures, are written this soon.
const WORDS_INTERVAL: Duration = Duration::from_secs(3);

/// What to do with a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing that matters differs from what is written.
    Nothing,
    Now,
    /// Only the age of rows is to be renewed, see `renewal`.
    Renewal,
    /// Only figures moved, and the last write is too recent.
    In(Duration),
}

/// Decides about `next`, given what was written `since_last` ago.
pub(crate) fn due(
    written: &InferenceDeploymentStatus,
    next: &InferenceDeploymentStatus,
    since_last: Option<Duration>,
    interval: Duration,
) -> Due {
    if states(written) != states(next) {
        return Due::Now;
    }
    if !figures_moved(written, next) {
        return Due::Nothing;
    }
    let same = sayings(written) == sayings(next)
        && targets(written) == targets(next)
        && written.weights == next.weights;
    let interval = match same {
        true => interval,
        false => interval.min(WORDS_INTERVAL),
    };
    match since_last {
        Some(since) if since < interval => Due::In(interval - since),
        _ => Due::Now,
    }
}

/// The status without what only figures decide.
fn states(status: &InferenceDeploymentStatus) -> InferenceDeploymentStatus {
    let mut status = status.clone();
    if let Some(progress) = &mut status.progress {
        progress.done_bytes = 0;
    }
    if let Some(MemoryStatus {
        summary,
        plan: _,
        restart: _,
        gpus,
        hosts,
        targets,
    }) = &mut status.memory
    {
        // One after the other the pods hear of a generation; what each makes of it is a state.
        for row in targets {
            (row.generation, row.sleep_generation) = (0, None);
        }
        // What is planned and allowed moves with pods alone, and pods that never reported have no
        // row that would tell: what stands must not say of one that is gone that it is there.
        if let Some(summary) = summary {
            summary.used = None;
            summary.kv_used_percent = None;
        }
        let (epoch, none) = (k8s_openapi::jiff::Timestamp::UNIX_EPOCH, 0);
        for row in gpus {
            row.reported_at.0 = epoch;
            row.driver_bytes = none;
            row.other_bytes = 0;
            row.kv_wasted_bytes = none;
            if let Some(offload) = &mut row.offload {
                offload.waited_step_microseconds = none;
            }
            for account in &mut row.accounts {
                account.reserved_bytes = none;
                account.used_bytes = none;
                account.high_water_bytes = none;
            }
        }
        for row in hosts {
            row.reported_at.0 = epoch;
            row.cgroup_bytes = none;
            row.other_bytes = 0;
            row.accounts.clear();
        }
    }
    // A trainer may name weights anew every few seconds.
    if let Some(WeightsStatus {
        version,
        adapters: _,
        pods,
    }) = &mut status.weights
    {
        *version = None;
        pods.iter_mut().for_each(|row| row.version.clear());
    }
    for condition in &mut status.conditions {
        if FIGURES_IN_WORDS.contains(&condition.type_.as_str()) {
            condition.message.clear();
        }
        // Flips with the status, which is compared.
        condition.last_transition_time.0 = k8s_openapi::jiff::Timestamp::UNIX_EPOCH;
    }
    status
}

/// What conditions say, but for figures.
fn sayings(status: &InferenceDeploymentStatus) -> Vec<String> {
    let figures = |c: &char| c.is_ascii_digit() || *c == '.';
    let messages = status.conditions.iter().map(|c| &c.message);
    messages
        .map(|words| words.chars().filter(|c| !figures(c)).collect())
        .collect()
}

/// What became of the newest target, pod by pod.
fn targets(status: &InferenceDeploymentStatus) -> &[TargetRow] {
    status.memory.as_ref().map_or(&[], |memory| &memory.targets)
}

/// Whether a figure moved far enough to be written. Both have the same rows.
fn figures_moved(written: &InferenceDeploymentStatus, next: &InferenceDeploymentStatus) -> bool {
    let words = |status: &InferenceDeploymentStatus| -> Vec<String> {
        let figures = status.conditions.iter();
        let figures = figures.filter(|c| FIGURES_IN_WORDS.contains(&c.type_.as_str()));
        figures.map(|condition| condition.message.clone()).collect()
    };
    let said = words(written) != words(next)
        || targets(written) != targets(next)
        || written.weights != next.weights;
    if written.progress != next.progress || said {
        return true;
    }
    let (Some(written), Some(next)) = (&written.memory, &next.memory) else {
        return false;
    };
    let gpus = written
        .gpus
        .iter()
        .zip(&next.gpus)
        .any(|(a, b)| row_moved(a, b));
    let hosts = written.hosts.iter().zip(&next.hosts).any(|(a, b)| {
        let scale = b.limit_bytes.unwrap_or(b.cgroup_bytes);
        let other = a.other_bytes.abs_diff(b.other_bytes);
        moved(a.cgroup_bytes, b.cgroup_bytes, scale) || moved(0, other, scale)
    });
    // Rows beyond the cap show in the totals alone.
    let capped = next.gpus.len() >= plimsoll_crds::names::STATUS_ROWS;
    gpus || hosts || (capped && written.summary != next.summary)
}

fn row_moved(a: &GpuRow, b: &GpuRow) -> bool {
    let scale = b.budget_bytes;
    let accounts = a.accounts.iter().zip(&b.accounts).any(|(a, b)| {
        moved(a.reserved_bytes, b.reserved_bytes, scale) || moved(a.used_bytes, b.used_bytes, scale)
    });
    accounts || moved(a.driver_bytes, b.driver_bytes, scale)
}

/// Whether a figure moved by more than 5% of `scale`.
pub(crate) fn moved(a: u64, b: u64, scale: u64) -> bool {
    u128::from(a.abs_diff(b)) * 100 > u128::from(scale) * u128::from(MOVED_PERCENT)
}
