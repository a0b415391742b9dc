//! Random models, limits and quotas.

use plimsoll_planner::{
    Architecture, Backend, Bytes, Dtype, KvLayout, Limits, ModelShape, RankCapacity, Reason,
    Request, Shard, Utilization, plan, weights,
};
use proptest::prelude::*;

use super::MIB;

pub(crate) fn shapes() -> impl Strategy<Value = ModelShape> {
    let heads = (1u32..=8, 1u32..=7, prop::sample::select(vec![8u32, 16, 64]));
    let widths = (
        1u32..=40,
        8u32..=1024,
        1u32..=3000,
        1u32..=60_000,
        1u32..=40_000,
    );
    (heads, widths, any::<[bool; 5]>()).prop_map(|(heads, widths, flags)| {
        let ((kv_heads, group, head_dim), (layers, hidden, ffn, vocab, context)) = (heads, widths);
        let [tied, qkv_bias, output_bias, mlp_bias, qk_norm] = flags;
        ModelShape {
            architecture: Architecture::Qwen3,
            layers,
            hidden,
            query_heads: kv_heads * group,
            kv_heads,
            head_dim,
            ffn,
            vocab,
            tied,
            qkv_bias,
            output_bias,
            mlp_bias,
            qk_norm,
            context,
        }
    })
}

pub(crate) fn dtypes() -> impl Strategy<Value = Dtype> {
    prop::sample::select(vec![Dtype::Float32, Dtype::BFloat16, Dtype::Float16])
}

prop_compose! {
    /// Budgets about as large as what the model needs, so that both outcomes are common.
    pub(crate) fn requests()(
        shape in shapes(),
        (dtype, kv_dtype, cuda) in (dtypes(), dtypes(), prop::bool::weighted(0.2)),
        max_model_len in prop::option::weighted(0.3, 1u32..=2000),
        (max_num_seqs, max_num_batched_tokens) in (1u32..=64, 1u32..=1024),
        size in prop::option::weighted(0.1, 1u64..=64),
        ranks in prop::collection::vec((10u64..=400, any::<bool>()), 1..=5),
        utilization in 50u32..=1000,
        offload in prop::option::weighted(0.4, 1u64..=110),
    ) -> Request {
        let scale = if cuda { 2048 * MIB } else { 0 };
        let max_model_len = max_model_len.map(|tokens| tokens.min(shape.context));
        let capacity = |(mib, both): &(u64, bool)| {
            let quota = Bytes::measured(scale + mib * MIB);
            RankCapacity { quota: Some(quota), total: both.then(|| quota.saturating_mul(2)) }
        };
        let offloaded = offload.map(|percent| percent_of_matrices(&shape, dtype, percent));
        sensible(Request {
            shape,
            cpu_offload: offloaded,
            backend: if cuda { Backend::Cuda } else { Backend::Cpu },
            dtype,
            kv: KvLayout {
                dtype: kv_dtype,
                block_size: 16,
                size: size.map(|mib| Bytes::measured(mib * MIB)),
            },
            limits: Limits { max_model_len, max_num_seqs, max_num_batched_tokens },
            utilization: Utilization(utilization),
            ranks: ranks.iter().map(capacity).collect(),
        })
    }
}

/// So many percent of what all matrices of a model's layers take.
pub(crate) fn percent_of_matrices(shape: &ModelShape, dtype: Dtype, percent: u64) -> Bytes {
    let layer = weights::layer_bytes(shape, &Shard::whole(shape), dtype);
    let all = layer.saturating_mul(shape.layers.into());
    Bytes::measured(all.get() / 100 * percent)
}

/// The request without an offload that is refused for what it is.
pub(crate) fn sensible(request: Request) -> Request {
    let refused = plan(&request).err();
    match refused.map(|refusal| refusal.reason) {
        Some(Reason::Invalid { field, .. }) if field == "spec.memory.cpuOffload" => Request {
            cpu_offload: None,
            ..request
        },
        _ => request,
    }
}
