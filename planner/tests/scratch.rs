//! Activations, workspaces and exchange buffers, to the byte.

mod samples;

use plimsoll_planner::scratch::{ATTENTION_SPLITS, activations, comm, workspaces};
use plimsoll_planner::{
    Backend, BlockCompute, BlockFormat, Bytes, Dtype, Integers, Limits, ModelBlocks, ModelShape,
    Request, Shard,
};
use samples::smollm2;

const LIMITS: Limits = Limits {
    max_model_len: None,
    max_num_seqs: 64,
    max_num_batched_tokens: 2048,
};
/// Of a model in this form on one rank.
fn asked(shape: ModelShape, limits: Limits, input: Dtype) -> Request {
    Request {
        limits,
        dtype: input,
        ..samples::request(shape, Backend::Cpu, &[900 * samples::MIB])
    }
}

#[test]
fn activations_are_rows_of_f32_for_every_batched_token() {
    let request = asked(smollm2(), LIMITS, Dtype::BFloat16);
    let layout = activations(&request, &Shard::whole(&smollm2()));
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
    let layout = workspaces(&asked(smollm2(), LIMITS, Dtype::BFloat16), &whole, 8192);
    assert_eq!(layout.rope_cos.bytes, 8192 * 32 * 4);
    assert_eq!(layout.gemm_input.bytes, 2048 * 1536 * 2);
    assert_eq!(layout.block_tables.bytes, 64 * 512 * 4);
    assert_eq!(layout.attention.bytes, 64 * 9 * ATTENTION_SPLITS * 66 * 4);
    let short = workspaces(&asked(smollm2(), LIMITS, Dtype::Float32), &whole, 1000);
    assert_eq!(short.rope_sin.bytes, 1000 * 32 * 4);
    assert_eq!(short.block_tables.bytes, 64 * 63 * 4);
    assert_eq!(short.gemm_input.bytes, 0);
}

/// 44 and 76 bytes for 32 columns, where 16-bit types have 64.
#[test]
fn an_input_in_integers_takes_room_where_the_exact_one_has_less() {
    let whole = Shard::whole(&smollm2());
    let mut shape = smollm2();
    shape.blocks.embedding = Some(BlockFormat::Q6K);
    let bytes = |dtype, compute| {
        let request = Request {
            compute,
            ..asked(shape.clone(), LIMITS, dtype)
        };
        workspaces(&request, &whole, 8192).gemm_input.bytes
    };
    let (exact, int8, int16) = (BlockCompute::Exact, BlockCompute::Int8, BlockCompute::Int16);
    assert_eq!(bytes(Dtype::Float32, exact), 0);
    assert_eq!(bytes(Dtype::Float32, int8), 2048 * 1536 / 32 * 44);
    for dtype in [Dtype::BFloat16, Dtype::Float16] {
        assert_eq!(bytes(dtype, int8), bytes(dtype, exact), "{dtype}");
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
    for backend in [Backend::Cpu, Backend::Cuda] {
        let request = Request {
            backend,
            ..asked(shape.clone(), limits, Dtype::BFloat16)
        };
        on_cache_lines(&request, &shard);
    }
}

fn on_cache_lines(request: &Request, shard: &Shard) {
    let w = workspaces(request, shard, 17);
    let a = activations(request, shard);
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
        w.sampling_rows,
        w.sampling_tokens,
        w.sampling_exchange,
        w.sampling,
        w.sampling_chunks,
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

/// Written from the layouts of `kernels/src/*/*.cu`, not from the table that the plan is made of.
#[test]
fn a_card_keeps_the_residual_stream_in_f32_copies_no_input_and_samples_with_every_ranks_histograms()
{
    let whole = Shard::whole(&smollm2());
    let on = |backend, ranks: usize| Request {
        backend,
        ..samples::request(smollm2(), backend, &vec![900 * samples::MIB; ranks])
    };
    let of_type = |dtype| {
        let request = Request {
            backend: Backend::Cuda,
            ..asked(smollm2(), LIMITS, dtype)
        };
        activations(&request, &whole)
    };
    let of_card = of_type(Dtype::BFloat16);
    // In f32 a card's matrices take and give f32.
    let single = of_type(Dtype::Float32);
    assert_eq!(single.hidden.bytes, 2048 * 576 * 4);
    assert_eq!(single.residual.bytes, of_card.residual.bytes);
    assert_eq!(of_card.residual.bytes, 2048 * 576 * 4);
    assert_eq!(of_card.hidden.bytes, 2048 * 576 * 2);
    let widths = 3 * 576 + 960 + 576 + 3 * 1536;
    let all = 2048 * (widths * 2 + 576 * 4) + 64 * 49_152 * 4;
    assert_eq!(of_card.total().get(), all);
    for ranks in [1, 2, 5] {
        let layout = workspaces(&on(Backend::Cuda, ranks), &whole, 8192);
        assert_eq!(layout.gemm_input.bytes, 0);
        // A record of 26 words, pairs of 641 and 1,024 bins, 512 bins, and the last two once more.
        let exchange = ranks as u64 * 8 * (26 + 2 * 641 + 2 * (2 * 1024 + 512));
        assert_eq!(exchange, ranks as u64 * 51_424);
        assert_eq!(
            layout.sampling_exchange.bytes,
            64 * exchange,
            "{ranks} ranks"
        );
        assert_eq!(layout.sampling_rows.bytes, 64 * 20 * 4);
        // A token, and an id and a number for each bias.
        assert_eq!(layout.sampling_tokens.bytes, 64 * (8192 + 2 * 1345) * 4);
        // A search of 5 words, and what was there of the logits of tokens and biases, two in a word.
        assert_eq!(layout.sampling.bytes, 64 * (5 + 4769) * 8);
        assert_eq!(layout.sampling_chunks.bytes, 64 * 48 * 26 * 8);
        let scratch = layout.sampling_scratch();
        assert_eq!(scratch.offset, layout.sampling.offset);
        assert_eq!(scratch.bytes, 64 * (5 + 4769 + 48 * 26) * 8);
    }
    let of_cpu = workspaces(&on(Backend::Cpu, 2), &whole, 8192);
    assert_eq!(
        (of_cpu.sampling.bytes, of_cpu.sampling_chunks.bytes),
        (64 << 15, 0)
    );
    let none = Shard {
        vocab_rows: 0..0,
        ..whole
    };
    assert_eq!(
        workspaces(&on(Backend::Cuda, 2), &none, 8192)
            .sampling_chunks
            .bytes,
        0
    );
}

#[test]
fn one_rank_exchanges_nothing() {
    assert_eq!(comm(&smollm2(), &LIMITS, 1).total(), Bytes::ZERO);
    assert_eq!(
        comm(&smollm2(), &LIMITS, 2).total(),
        Bytes::measured(2048 * 576 * 4)
    );
}
