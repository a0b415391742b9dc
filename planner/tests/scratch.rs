//! Activations, workspaces and exchange buffers, to the byte.

mod samples;

use plimsoll_planner::scratch::{ATTENTION_SPLITS, activations, comm, workspaces};
use plimsoll_planner::{
    Backend, BlockFormat, Bytes, Dtype, InputForm, Integers, KvDtype, KvLayout, Limits,
    ModelBlocks, ModelShape, Shard,
};
use samples::smollm2;

const LIMITS: Limits = Limits {
    max_model_len: None,
    max_num_seqs: 64,
    max_num_batched_tokens: 2048,
};
const KV: KvLayout = KvLayout {
    dtype: KvDtype::BFloat16,
    block_size: 16,
    size: None,
};

#[test]
fn activations_are_rows_of_f32_for_every_batched_token() {
    let layout = activations(&smollm2(), &Shard::whole(&smollm2()), &LIMITS, Backend::Cpu);
    let widths = 4 * 576 + 960 + 576 + 3 * 1536;
    assert_eq!(layout.total().get(), 2048 * widths * 4 + 64 * 49_152 * 4);
    assert_eq!(layout.qkv.bytes, 2048 * 960 * 4);
    assert_eq!(
        layout.logits.offset + layout.logits.bytes,
        layout.total().get()
    );
}

#[test]
fn workspaces_follow_the_context_in_force() {
    let whole = Shard::whole(&smollm2());
    let layout = workspaces(&smollm2(), &whole, &LIMITS, 8192, Dtype::BFloat16, &KV);
    assert_eq!(layout.rope_cos.bytes, 8192 * 32 * 4);
    assert_eq!(layout.gemm_input.bytes, 2048 * 1536 * 2);
    assert_eq!(layout.block_tables.bytes, 64 * 512 * 4);
    assert_eq!(layout.attention.bytes, 64 * 9 * ATTENTION_SPLITS * 66 * 4);
    let short = workspaces(&smollm2(), &whole, &LIMITS, 1000, Dtype::Float32, &KV);
    assert_eq!(short.rope_sin.bytes, 1000 * 32 * 4);
    assert_eq!(short.block_tables.bytes, 64 * 63 * 4);
    assert_eq!(short.gemm_input.bytes, 0);
}

/// 44 and 76 bytes for 32 columns, where 16-bit types have 64.
#[test]
fn an_input_in_integers_takes_room_where_the_exact_one_has_less() {
    let whole = Shard::whole(&smollm2());
    let bytes = |dtype, integers| {
        let input = InputForm { dtype, integers };
        let layout = workspaces(&smollm2(), &whole, &LIMITS, 8192, input, &KV);
        layout.gemm_input.bytes
    };
    let (int8, int16) = (Some(Integers::Int8), Some(Integers::Int16));
    assert_eq!(bytes(Dtype::Float32, None), 0);
    assert_eq!(bytes(Dtype::Float32, int8), 2048 * 1536 / 32 * 44);
    for dtype in [Dtype::BFloat16, Dtype::Float16] {
        assert_eq!(bytes(dtype, int8), bytes(dtype, None), "{dtype}");
        assert_eq!(bytes(dtype, int16), 2048 * 1536 / 32 * 76, "{dtype}");
    }
}

/// It may be asked for by a machine that is faster so; Float32 is never rounded unasked.
#[test]
fn auto_leaves_room_for_inputs_of_16_bits_beside_weights_in_blocks_and_16_bit_types() {
    let mut request = samples::request(smollm2(), Backend::Cpu, &[900 * samples::MIB]);
    for dtype in [Dtype::Float32, Dtype::BFloat16, Dtype::Float16] {
        request.dtype = dtype;
        request.shape.blocks = ModelBlocks::default();
        assert_eq!(request.input_form().integers, None, "{dtype}");
        request.shape.blocks.embedding = Some(BlockFormat::Q6K);
        let expected = (dtype != Dtype::Float32).then_some(Integers::Int16);
        assert_eq!(request.input_form().integers, expected, "{dtype}");
        request.shape.tied = false;
        assert_eq!(request.input_form().integers, None, "only looked up");
        request.shape.tied = true;
    }
}

#[test]
fn every_region_starts_on_a_cache_line() {
    let limits = Limits {
        max_num_seqs: 3,
        max_num_batched_tokens: 7,
        ..LIMITS
    };
    let shape = ModelShape {
        hidden: 37,
        head_dim: 6,
        ..smollm2()
    };
    let shard = Shard {
        query_heads: 0..1,
        kv_heads: 0..1,
        mlp_columns: 0..5,
        vocab_rows: 0..9,
    };
    let w = workspaces(&shape, &shard, &limits, 17, Dtype::BFloat16, &KV);
    let a = activations(&shape, &shard, &limits, Backend::Cpu);
    let regions = [
        a.hidden,
        a.residual,
        a.normed,
        a.qkv,
        a.attention,
        a.gate_up,
        a.activated,
        a.partial,
        a.logits,
        w.rope_cos,
        w.rope_sin,
        w.gemm_input,
        w.attention,
        w.sampling,
        w.token_ids,
        w.positions,
        w.slots,
        w.query_start,
        w.context_len,
        w.block_tables,
    ];
    assert!(
        regions.iter().all(|region| region.offset % 64 == 0),
        "{regions:?}"
    );
    assert_eq!(w.total().get() % 64, 0);
}

#[test]
fn one_rank_exchanges_nothing() {
    assert_eq!(comm(&smollm2(), &LIMITS, 1).total(), Bytes::ZERO);
    assert_eq!(
        comm(&smollm2(), &LIMITS, 2).total(),
        Bytes::measured(2048 * 576 * 4)
    );
}
