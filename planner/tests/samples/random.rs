//! Random models, limits and quotas.

use plimsoll_planner::{
    AdapterSlots, Architecture, Backend, BlockCompute, BlockFormat, Bytes, Dtype, Kept, KvDtype,
    KvLayout, LayerBlocks, LayerOrders, Limits, ModelBlocks, ModelShape, Order, Quantization,
    RankCapacity, Reason, Request, Shard, Utilization, plan, stored, stored::Width, weights,
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
    let stored = prop::option::weighted(0.4, any::<u64>());
    (heads, widths, any::<[bool; 5]>(), stored).prop_map(|(heads, widths, flags, stored)| {
        let ((kv_heads, group, head_dim), (layers, hidden, ffn, vocab, context)) = (heads, widths);
        let [tied, qkv_bias, output_bias, mlp_bias, qk_norm] = flags;
        let whole = |size: u32| match stored {
            // Half of them take the long blocks, too.
            Some(seed) if seed & 2 == 0 => size.next_multiple_of(256),
            Some(_) => size.next_multiple_of(32),
            None => size,
        };
        let shape = ModelShape {
            architecture: Architecture::Qwen3,
            layers,
            hidden: whole(hidden),
            query_heads: kv_heads * group,
            kv_heads,
            head_dim,
            ffn: whole(ffn),
            vocab,
            tied,
            qkv_bias,
            output_bias,
            mlp_bias,
            qk_norm,
            context,
            blocks: ModelBlocks::default(),
        };
        in_blocks(shape, stored)
    })
}

/// The shape with some of its matrices in blocks, as the seed says; those that can be.
pub(crate) fn in_blocks(shape: ModelShape, seed: Option<u64>) -> ModelShape {
    let Some(seed) = seed else {
        return shape;
    };
    let dice = |salt: u64| {
        let mixed = seed ^ salt.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (mixed.wrapping_mul(0xD1B5_4A32_D192_ED03) >> 32) as usize
    };
    let pick = |salt: u64, width: Width| {
        let dice = dice(salt);
        let format = BlockFormat::ALL[dice / 4 % BlockFormat::ALL.len()];
        let fits = width.misfit(&shape, format).is_none();
        (dice % 4 > 0 && fits).then_some(format)
    };
    // Half of the models have layers that are alike, half of the layers fused matrices.
    let layer = |layer: u32| {
        let salt = if seed % 2 == 0 {
            0
        } else {
            u64::from(layer % 3) * 8
        };
        let apart = u64::from(dice(salt).is_multiple_of(2));
        let blocks = LayerBlocks {
            query: pick(salt + 1, Width::Hidden),
            key: pick(salt + 1 + apart, Width::Hidden),
            value: pick(salt + 1 + 2 * apart, Width::Hidden),
            output: pick(salt + 4, Width::Heads),
            gate: pick(salt + 5, Width::Hidden),
            up: pick(salt + 5 + apart, Width::Hidden),
            down: pick(salt + 7, Width::Ffn),
            orders: LayerOrders::INPUTS,
        };
        LayerBlocks {
            orders: orders(&blocks, dice(salt + 200)),
            ..blocks
        }
    };
    let blocks = ModelBlocks {
        embedding: pick(100, Width::Hidden),
        head: pick(101, Width::Hidden).filter(|_| !shape.tied),
        layers: (0..shape.layers).map(layer).collect(),
    };
    let shape = ModelShape { blocks, ..shape };
    assert_eq!(stored::misfit(&shape), None);
    shape
}

/// Of a third of the layers, matrices in blocks have lists; of half of these what shares inputs shares one.
fn orders(of: &LayerBlocks, dice: usize) -> LayerOrders {
    let order = |format: Option<BlockFormat>, shares: bool| match dice % 6 {
        0 if format.is_some() && shares => Order::Shared,
        0 | 1 if format.is_some() => Order::Own,
        _ => Order::Inputs,
    };
    let qkv = of.query == of.key && of.key == of.value;
    let gate_up = of.gate == of.up;
    LayerOrders {
        query: order(of.query, qkv),
        key: order(of.key, qkv),
        value: order(of.value, qkv),
        output: order(of.output, false),
        gate: order(of.gate, gate_up),
        up: order(of.up, gate_up),
        down: order(of.down, false),
    }
}

pub(crate) fn dtypes() -> impl Strategy<Value = Dtype> {
    prop::sample::select(vec![Dtype::Float32, Dtype::BFloat16, Dtype::Float16])
}

pub(crate) fn kv_dtypes() -> impl Strategy<Value = KvDtype> {
    prop_oneof![3 => dtypes().prop_map(KvDtype::from), 1 => Just(KvDtype::Int8)]
}

prop_compose! {
    /// Budgets about as large as what the model needs, so that both outcomes are common.
    pub(crate) fn requests()(
        shape in shapes(),
        (dtype, kv_dtype, cuda) in (dtypes(), kv_dtypes(), prop::bool::weighted(0.2)),
        expands in prop::bool::weighted(0.2),
        max_model_len in prop::option::weighted(0.3, 1u32..=2000),
        (max_num_seqs, max_num_batched_tokens) in (1u32..=64, 1u32..=1024),
        size in prop::option::weighted(0.1, 1u64..=64),
        ranks in prop::collection::vec((10u64..=400, any::<bool>()), 1..=5),
        utilization in 50u32..=1000,
        (offload, adapters) in (
            prop::option::weighted(0.4, 1u64..=110),
            prop::option::weighted(0.2, (1u32..=4, 1u32..=40)),
        ),
    ) -> Request {
        let scale = if cuda { 2048 * MIB } else { 0 };
        let max_model_len = max_model_len.map(|tokens| tokens.min(shape.context));
        let capacity = |(mib, both): &(u64, bool)| {
            let quota = Bytes::measured(scale + mib * MIB);
            RankCapacity { quota: Some(quota), total: both.then(|| quota.saturating_mul(2)) }
        };
        let stays = !(cuda || expands);
        let compute = match max_num_seqs % 3 {
            0 if stays => BlockCompute::Int8,
            1 if stays => BlockCompute::Int16,
            _ => BlockCompute::Auto,
        };
        let quantization = match max_num_batched_tokens % 8 {
            _ if expands => Quantization::None,
            0 | 1 => Quantization::Int8,
            2 | 3 => Quantization::Int4,
            4 => Quantization::Int4By128,
            _ => Quantization::Auto,
        };
        let request = Request {
            shape,
            cpu_offload: None,
        adapters: slots(adapters),
            backend: if cuda { Backend::Cuda } else { Backend::Cpu },
            dtype,
            quantization,
            compute,
            kv: KvLayout {
                // A card's cache is of floats.
                dtype: if cuda { dtype.into() } else { kv_dtype },
                block_size: 16,
                size: size.map(|mib| Bytes::measured(mib * MIB)),
            },
            limits: Limits { max_model_len, max_num_seqs, max_num_batched_tokens },
            utilization: Utilization(utilization),
            ranks: ranks.iter().map(capacity).collect(),
        };
        let offloaded = |percent| percent_of_matrices(&request.shape, request.kept(), percent);
        sensible(Request { cpu_offload: offload.map(offloaded), ..request.clone() })
    }
}

/// Room for adapters, or none.
pub(crate) fn slots(asked: Option<(u32, u32)>) -> AdapterSlots {
    let slots = asked.map(|(slots, rank)| AdapterSlots { slots, rank });
    slots.unwrap_or_default()
}

/// So many percent of what all matrices of a model's layers take.
pub(crate) fn percent_of_matrices(shape: &ModelShape, kept: Kept<'_>, percent: u64) -> Bytes {
    let layer = weights::layer_bytes(shape, &Shard::whole(shape), kept);
    let all = layer.saturating_mul(shape.layers.into());
    Bytes::measured(all.get() / 100 * percent)
}

/// The request without an offload, integers or bits that are refused for what they are.
pub(crate) fn sensible(mut request: Request) -> Request {
    for _ in 0..4 {
        let refused = plan(&request).err();
        match refused.map(|refusal| refusal.reason) {
            Some(Reason::Invalid { field, .. }) => match field.as_str() {
                "spec.memory.cpuOffload" => request.cpu_offload = None,
                "spec.model.quantization.mode" => request.quantization = Quantization::Auto,
                "spec.model.quantization.groupSize" => request.quantization = Quantization::Int4,
                "spec.model.quantization.computeDtype" => request.compute = BlockCompute::Auto,
                _ => return request,
            },
            _ => return request,
        }
    }
    request
}
