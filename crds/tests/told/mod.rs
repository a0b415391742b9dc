//! What an engine is started with and told, as examples.
#![allow(unreachable_pub, reason = "a part of a test binary")]

use plimsoll_crds::v1alpha1::adapters::AdapterValidationMode;
use plimsoll_crds::v1alpha1::boot::*;
use plimsoll_crds::v1alpha1::engine::*;
use plimsoll_crds::v1alpha1::facts::*;
use plimsoll_crds::v1alpha1::kv_cache::KvDtype;
use plimsoll_crds::v1alpha1::model::ComputeDtype;
use plimsoll_crds::v1alpha1::target::*;

pub fn boot() -> Boot {
    Boot {
        adapter_slots: None,
        model_path: "/models/smollm2.gguf".to_owned(),
        adapters: Vec::new(),
        adapter_validation: AdapterValidationMode::Enforce,
        served_names: vec!["smollm2".to_owned()],
        digest: "sha256:0".to_owned(),
        dtype: Dtype::BFloat16,
        quantization: BootQuantization::Auto,
        compute_dtype: ComputeDtype::Auto,
        backend: Backend::Cpu,
        limits: EngineLimits {
            max_model_len: None,
            max_num_seqs: 64,
            max_num_batched_tokens: 2048,
        },
        cpu_offload_bytes: None,
        kv_cache: BootKvCache {
            dtype: KvDtype::BFloat16,
            block_size: 16,
        },
        split: BootSplit {
            made_for: SplitBudgets {
                budget_bytes: vec![1 << 30],
                kv_cache_size_bytes: None,
            },
            max_model_len: 1584,
            ranks: vec![RankSplit {
                rank: 0,
                kv_heads: [0, 3],
                query_heads: [0, 9],
                mlp_columns: [0, 1536],
                vocab_rows: [0, 49_152],
            }],
        },
        revision: "abc".to_owned(),
    }
}

pub fn target() -> Target {
    Target {
        adapters: Vec::new(),
        generation: 4,
        gpu_memory_utilization: 0.9,
        kv_cache: TargetKvCache {
            size_bytes: None,
            blocks: 100,
            tokens: 99 * 16,
        },
        ranks: vec![TargetRank {
            rank: 0,
            quota_bytes: Some(1 << 30),
            total_bytes: None,
            budget_bytes: 1 << 30,
            accounts: vec![TargetAccount {
                name: "Weights".to_owned(),
                planned_bytes: 7,
            }],
        }],
        sleep: None,
        idle: None,
        wake_on_request: false,
    }
}

pub fn asleep() -> Target {
    Target {
        sleep: Some(TargetSleep { level: 2 }),
        idle: Some(TargetIdle {
            after_seconds: 9,
            level: 1,
        }),
        wake_on_request: true,
        ..target()
    }
}
