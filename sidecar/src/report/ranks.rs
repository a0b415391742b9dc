//! The rows of a report's ranks.

use std::time::Duration;

use plimsoll_crds::v1alpha1::engine::Backend;
use plimsoll_crds::v1alpha1::report::{AccountMemory, OffloadMemory, RankMemory};
use plimsoll_planner::Bytes;

use crate::memory::snapshot::{AccountRow, OffloadUsage, RankLedger};

pub(super) fn memory(ledger: RankLedger, backend: Backend) -> RankMemory {
    let RankLedger {
        rank,
        budget,
        quota,
        accounts,
        driver,
        other,
        kv_wasted,
        host: _,
        offload,
    } = ledger;
    let device = match backend {
        Backend::Cpu => format!("cpu-{rank}"),
        Backend::Cuda => format!("gpu-{rank}"),
    };
    RankMemory {
        rank,
        device,
        quota_bytes: quota.map(Bytes::get),
        budget_bytes: budget.get(),
        driver_bytes: driver.get(),
        other_bytes: other,
        accounts: accounts.into_iter().map(account_memory).collect(),
        kv_wasted_bytes: kv_wasted.get(),
        streamed_bytes: offload.map_or(0, |of| of.streamed.bytes),
        stream_wait_microseconds: offload.map_or(0, |of| micros(of.streamed.wait)),
        offload: offload.map(|of| offload_memory(&of)),
    }
}

fn offload_memory(of: &OffloadUsage) -> OffloadMemory {
    let OffloadUsage {
        layers,
        bytes,
        predicted,
        streamed,
    } = of;
    OffloadMemory {
        layers: *layers,
        step_bytes: bytes.get(),
        predicted_step_microseconds: micros(*predicted),
        waited_step_microseconds: micros(streamed.wait) / streamed.steps.max(1),
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn account_memory(row: AccountRow) -> AccountMemory {
    let AccountRow {
        account,
        planned,
        reserved,
        used,
        high_water,
    } = row;
    AccountMemory {
        name: account.name().to_owned(),
        planned_bytes: planned.get(),
        reserved_bytes: reserved.get(),
        used_bytes: used.get(),
        high_water_bytes: high_water.get(),
    }
}
