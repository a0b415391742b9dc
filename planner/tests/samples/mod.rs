//! Shapes of well-known models, from their `config.json`, and requests for them.
#![allow(dead_code, reason = "every test file uses some of them")]

pub(crate) mod random;

use plimsoll_planner::{
    AdapterSlots, Architecture, Backend, BlockCompute, Bytes, Dtype, KvDtype, KvLayout, Limits,
    ModelBlocks, ModelShape, Quantization, RankCapacity, Request, Utilization,
};

pub(crate) const MIB: u64 = 1 << 20;

pub(crate) fn smollm2() -> ModelShape {
    ModelShape {
        architecture: Architecture::Llama,
        layers: 30,
        hidden: 576,
        query_heads: 9,
        kv_heads: 3,
        head_dim: 64,
        ffn: 1536,
        vocab: 49_152,
        tied: true,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        qk_norm: false,
        context: 8192,
        blocks: ModelBlocks::default(),
    }
}

pub(crate) fn qwen2_0_5b() -> ModelShape {
    ModelShape {
        architecture: Architecture::Qwen2,
        layers: 24,
        hidden: 896,
        query_heads: 14,
        kv_heads: 2,
        head_dim: 64,
        ffn: 4864,
        vocab: 151_936,
        qkv_bias: true,
        context: 32_768,
        ..smollm2()
    }
}

pub(crate) fn llama_3_2_3b() -> ModelShape {
    ModelShape {
        layers: 28,
        hidden: 3072,
        query_heads: 24,
        kv_heads: 8,
        head_dim: 128,
        ffn: 8192,
        vocab: 128_256,
        context: 131_072,
        ..smollm2()
    }
}

pub(crate) fn llama_3_1_8b() -> ModelShape {
    ModelShape {
        layers: 32,
        hidden: 4096,
        query_heads: 32,
        ffn: 14_336,
        tied: false,
        ..llama_3_2_3b()
    }
}

pub(crate) fn llama_3_1_70b() -> ModelShape {
    ModelShape {
        layers: 80,
        hidden: 8192,
        query_heads: 64,
        ffn: 28_672,
        ..llama_3_1_8b()
    }
}

pub(crate) fn llama_3_1_405b() -> ModelShape {
    ModelShape {
        layers: 126,
        hidden: 16_384,
        query_heads: 128,
        ffn: 53_248,
        ..llama_3_1_70b()
    }
}

/// 64 KV heads, as models without grouped queries have.
pub(crate) fn llama_65b() -> ModelShape {
    ModelShape {
        kv_heads: 64,
        ffn: 22_016,
        vocab: 32_000,
        context: 2048,
        ..llama_3_1_70b()
    }
}

/// BFloat16 throughout, default limits, a quota in bytes for each rank.
pub(crate) fn request(shape: ModelShape, backend: Backend, quotas: &[u64]) -> Request {
    let capacity = |quota: &u64| RankCapacity {
        quota: Some(Bytes::measured(*quota)),
        total: None,
    };
    Request {
        shape,
        backend,
        dtype: Dtype::BFloat16,
        quantization: Quantization::Auto,
        compute: BlockCompute::Auto,
        kv: KvLayout {
            dtype: KvDtype::BFloat16,
            block_size: 16,
            size: None,
        },
        cpu_offload: None,
        adapters: AdapterSlots::NONE,
        limits: Limits {
            max_model_len: None,
            max_num_seqs: Limits::DEFAULT_MAX_NUM_SEQS,
            max_num_batched_tokens: Limits::DEFAULT_MAX_NUM_BATCHED_TOKENS,
        },
        utilization: Utilization(900),
        ranks: quotas.iter().map(capacity).collect(),
    }
}

/// SmolLM2 on the CPU with 64 sequences at once; a quota in bytes for each rank that has one.
pub(crate) fn on_cpu(quotas: &[Option<u64>]) -> Request {
    let capacity = |quota: &Option<u64>| RankCapacity {
        quota: quota.map(Bytes::measured),
        total: None,
    };
    Request {
        limits: Limits {
            max_model_len: None,
            max_num_seqs: 64,
            max_num_batched_tokens: 2048,
        },
        ranks: quotas.iter().map(capacity).collect(),
        ..request(smollm2(), Backend::Cpu, &[])
    }
}
