//! A report in which every figure is as long as it gets.
#![allow(unreachable_pub, reason = "a part of a test binary")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::engine::*;
use plimsoll_crds::v1alpha1::facts::*;
use plimsoll_crds::v1alpha1::kv_cache::KvDtype;
use plimsoll_crds::v1alpha1::model::ComputeDtype;
use plimsoll_crds::v1alpha1::report::*;
use plimsoll_crds::v1alpha1::target::*;

pub fn report(ranks: u32) -> MemoryReport {
    const MOST: u64 = u64::MAX >> 20;
    let account = |name: &str| AccountMemory {
        name: name.to_owned(),
        planned_bytes: MOST,
        reserved_bytes: MOST,
        used_bytes: MOST,
        high_water_bytes: MOST,
    };
    let offload = OffloadMemory {
        layers: u32::MAX,
        step_bytes: MOST,
        predicted_step_microseconds: MOST,
        waited_step_microseconds: MOST,
    };
    let rank = |rank: u32| RankMemory {
        rank,
        device: "GPU-8f6d1c2e-0000-1111-2222-333344445555".to_owned(),
        quota_bytes: Some(u64::MAX >> 20),
        budget_bytes: u64::MAX >> 20,
        driver_bytes: u64::MAX >> 20,
        other_bytes: -(1 << 43),
        accounts: plimsoll_planner::Account::ALL
            .map(|a| account(a.name()))
            .to_vec(),
        kv_wasted_bytes: u64::MAX >> 20,
        offload: Some(offload),
        streamed_bytes: u64::MAX >> 20,
        stream_wait_microseconds: u64::MAX >> 20,
    };
    MemoryReport {
        time: Time(Timestamp::from_second(1_790_000_000).unwrap()),
        state: EngineState::Serving,
        message: String::new(),
        progress: Some(LoadProgress {
            stage: "weights".to_owned(),
            done_bytes: 1,
            total_bytes: 2,
        }),
        weights_verified: Some(true),
        sleep_level: Some(2),
        sleep_reason: Some(SleepReason::Idle),
        woken_by: Some(WokenBy::Request),
        wakes_on_request: true,
        weight_version: "default".to_owned(),
        adapters: vec![AdapterReport::default(); 8],
        adapters_refused_for: String::new(),
        dynamic_adapters: Vec::new(),
        dynamic_adapters_left_out: None,
        backend: Backend::Cpu,
        revision: "abc".to_owned(),
        target: Some(TargetReport {
            generation: i64::MAX >> 11,
            outcome: TargetOutcome::Deferred,
            message: "r".repeat(names::MESSAGE_CHARS),
            overage_bytes: u64::MAX >> 20,
        }),
        sleep: None,
        effective: Some(Effective {
            max_model_len: 8192,
            max_num_seqs: 64,
            max_num_batched_tokens: 2048,
            dtype: Dtype::BFloat16,
            blocks: vec![BlockFormat::Q4_1, BlockFormat::Q8_0],
            compute_dtype: Some(ComputeDtype::Exact),
            kv_dtype: KvDtype::BFloat16,
            kv_cache_tokens: 4096,
            isa: Some("Avx512Bf16".to_owned()),
        }),
        kv_used_percent: 34,
        ranks: (0..ranks).map(rank).collect(),
        host: HostMemory {
            limit_bytes: Some(1 << 30),
            cgroup_bytes: 1 << 29,
            other_bytes: -17,
            accounts: vec![HostAccount {
                name: "Process".to_owned(),
                used_bytes: 5,
            }],
        },
    }
}
