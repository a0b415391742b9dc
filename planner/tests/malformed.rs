//! Requests that make no sense: each names its field, its value and what it may be.

mod samples;

use plimsoll_planner::{
    Backend, BlockCompute, BlockFormat, Bytes, Limits, MOST_CHARACTERS, ModelShape, Quantization,
    RankCapacity, Reason, Request, Utilization, cpu_capacity, plan,
};
use proptest::prelude::*;
use samples::{MIB, request, smollm2};

/// One wrong change to a request that fits, the field it is about, and a number that is told.
type Case = (fn(&mut Request), &'static str, &'static str);

const CASES: [Case; 34] = [
    (
        |r| r.ranks.clear(),
        "spec.parallelism.tensorParallelSize",
        "0 is not",
    ),
    (
        |r| r.ranks = vec![r.ranks[0]; 17],
        "spec.parallelism.tensorParallelSize",
        "17 is not",
    ),
    (
        |r| r.utilization = Utilization(0),
        "spec.memory.gpuMemoryUtilization",
        "0.000",
    ),
    (
        |r| r.utilization = Utilization(49),
        "spec.memory.gpuMemoryUtilization",
        "0.049",
    ),
    (
        |r| r.utilization = Utilization(1500),
        "spec.memory.gpuMemoryUtilization",
        "1.500",
    ),
    (
        |r| r.ranks[1].quota = Some(Bytes::ZERO),
        "spec.memory.gpuQuotas[rank=1].limit",
        "0 bytes",
    ),
    (
        |r| r.ranks[1].quota = None,
        "spec.memory.gpuQuotas[rank=1].limit",
        "missing",
    ),
    (
        |r| r.limits.max_num_seqs = 0,
        "spec.limits.maxNumSeqs",
        "0 is not",
    ),
    (
        |r| r.limits.max_num_seqs = u32::MAX,
        "spec.limits.maxNumSeqs",
        "4294967295",
    ),
    (
        |r| r.limits.max_num_batched_tokens = 0,
        "spec.limits.maxNumBatchedTokens",
        "0 is not",
    ),
    (
        |r| r.limits.max_num_batched_tokens = 1 << 30,
        "spec.limits.maxNumBatchedTokens",
        "1073741824",
    ),
    (
        |r| r.limits.max_model_len = Some(0),
        "spec.limits.maxModelLen",
        "0 is not",
    ),
    (
        |r| r.limits.max_model_len = Some(8193),
        "spec.limits.maxModelLen",
        "8192",
    ),
    (
        |r| r.kv.block_size = 0,
        "spec.memory.kvCache.blockSize",
        "0 is not",
    ),
    (
        |r| r.kv.block_size = 4096,
        "spec.memory.kvCache.blockSize",
        "4096",
    ),
    (
        |r| r.kv.size = Some(Bytes::ZERO),
        "spec.memory.kvCache.size",
        "0 bytes",
    ),
    (|r| r.shape.layers = 0, "num_hidden_layers", "0 is not"),
    (|r| r.shape.hidden = u32::MAX, "hidden_size", "4294967295"),
    (|r| r.shape.kv_heads = 0, "num_key_value_heads", "0 is not"),
    (
        |r| r.shape.kv_heads = 4,
        "num_key_value_heads",
        "4 does not divide",
    ),
    (
        |r| r.shape.query_heads = 100_000,
        "num_attention_heads",
        "100000",
    ),
    (|r| r.shape.vocab = 0, "vocab_size", "0 is not"),
    (
        |r| r.shape.context = 0,
        "max_position_embeddings",
        "0 is not",
    ),
    (|r| r.shape.head_dim = 257, "model head_dim", "257"),
    (|r| r.shape.vocab = (1 << 18) + 1, "vocab_size", "262145"),
    (|r| r.shape.layers = 1025, "num_hidden_layers", "1025"),
    (
        |r| r.compute = BlockCompute::Int8,
        "spec.model.quantization.computeDtype",
        "Int8: the model has no weights in 2 to 8 bits",
    ),
    (
        |r| {
            r.compute = BlockCompute::Int8;
            r.shape.blocks.embedding = Some(BlockFormat::Q8_0);
            r.quantization = Quantization::None;
        },
        "spec.model.quantization.computeDtype",
        "mode: None",
    ),
    (
        |r| {
            r.compute = BlockCompute::Int8;
            r.shape.blocks.embedding = Some(BlockFormat::Q8_0);
            r.backend = Backend::Cuda;
        },
        "spec.model.quantization.computeDtype",
        "on a card",
    ),
    (
        |r| {
            r.compute = BlockCompute::Int16;
            (r.shape.tied, r.shape.blocks.embedding) = (false, Some(BlockFormat::Q8_0));
        },
        "spec.model.quantization.computeDtype",
        "Int16: only the embedding",
    ),
    (
        |r| {
            r.quantization = Quantization::Int4;
            r.backend = Backend::Cuda;
        },
        "spec.model.quantization.mode",
        "Int4: weights on a card",
    ),
    (
        |r| {
            r.quantization = Quantization::Int8;
            (r.shape.hidden, r.shape.ffn, r.shape.head_dim) = (72, 80, 8);
        },
        "spec.model.quantization.mode",
        "hidden size 72, the intermediate size 80 nor the head size 8",
    ),
    (
        |r| {
            r.quantization = Quantization::Int4By128;
            (r.shape.hidden, r.shape.ffn, r.shape.head_dim) = (96, 160, 32);
        },
        "spec.model.quantization.groupSize",
        "128: it divides neither the hidden size 96, the intermediate size 160 nor the width of all heads 288; write 32",
    ),
    (
        |r| {
            r.quantization = Quantization::Int4By128;
            (r.shape.hidden, r.shape.ffn, r.shape.head_dim) = (72, 80, 8);
        },
        "spec.model.quantization.mode",
        "Int4 with groupSize 128: 32 columns of a row",
    ),
];

#[test]
fn malformed_requests_are_refused_by_name() {
    for (change, field, number) in CASES {
        let mut request = request(smollm2(), Backend::Cpu, &[300 * MIB, 700 * MIB]);
        assert!(plan(&request).is_ok());
        change(&mut request);
        let Err(refusal) = plan(&request) else {
            panic!("{field} was accepted: {request:?}")
        };
        assert!(
            matches!(refusal.reason, Reason::Invalid { .. }),
            "{field}: {refusal}"
        );
        assert_eq!(refusal.reason.name(), "InvalidRequest");
        let message = refusal.message();
        assert!(message.contains(field), "no {field} in {message}");
        assert!(message.contains(number), "no {number} in {message}");
        assert!(message.len() <= MOST_CHARACTERS);
    }
}

#[test]
fn the_capacities_of_malformed_requests_are_refused_too() {
    let mut request = request(smollm2(), Backend::Cpu, &[MIB]);
    request.ranks = vec![RankCapacity {
        quota: None,
        total: None,
    }];
    request.limits.max_num_seqs = 0;
    let refusal = cpu_capacity(&request, None).expect_err("no sequence");
    assert!(
        refusal.message().contains("spec.limits.maxNumSeqs"),
        "{refusal}"
    );
}

/// Mostly numbers that a model or a limit may have, up to the largest.
fn extremes() -> impl Strategy<Value = u32> {
    let edges = vec![1, 2, 3, 7, 16, 64, 511, 1 << 10, 1 << 17];
    prop_oneof![
        1 => prop::sample::select(vec![0, (1 << 17) + 1, u32::MAX]),
        20 => prop::sample::select(edges),
        20 => 1u32..500,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Whatever the numbers: an answer, within an Event's note, and nothing wraps on the way.
    #[test]
    fn any_numbers_are_answered(
        shape in prop::array::uniform8(extremes()),
        limits in prop::array::uniform4(extremes()),
        quotas in prop::collection::vec(prop_oneof![Just(0), Just(u64::MAX), 1u64..1 << 42], 0..18),
        utilization in prop_oneof![Just(0), Just(1000), Just(u32::MAX), 40u32..1100],
    ) {
        let mut request = request(smollm2(), Backend::Cpu, &quotas);
        let [layers, hidden, group, kv_heads, head_dim, ffn, vocab, context] = shape;
        // As they come, or in proportion.
        let query_heads = if layers == 7 { group } else { kv_heads.saturating_mul(group % 8) };
        request.shape = ModelShape {
            layers, hidden, query_heads, kv_heads, head_dim, ffn, vocab, context, ..request.shape
        };
        let [max_model_len, max_num_seqs, max_num_batched_tokens, block_size] = limits;
        request.limits = Limits {
            max_model_len: Some(max_model_len).filter(|tokens| tokens % 3 > 0),
            max_num_seqs,
            max_num_batched_tokens,
        };
        request.kv.block_size = block_size;
        request.utilization = Utilization(utilization);
        if let Err(refusal) = plan(&request) {
            prop_assert!(refusal.message().len() <= MOST_CHARACTERS);
        }
        for rank in &mut request.ranks {
            rank.quota = rank.quota.filter(|quota| quota.get() % 2 == 0);
        }
        let _ = cpu_capacity(&request, quotas.first().copied().map(Bytes::measured));
        let _ = cpu_capacity(&request, None);
    }
}

/// Sixteen ranks, long numbers, no remedy left out: still within an Event's note.
#[test]
fn the_longest_refusal_fits_an_event() {
    let shape = samples::llama_3_1_70b();
    let quotas: Vec<u64> = (0..16)
        .map(|rank| 5_000_000_001 + rank * 12_345_677)
        .collect();
    let mut request = request(shape, Backend::Cuda, &quotas);
    request.kv.size = Some(Bytes::measured(1));
    let refusal = plan(&request).expect_err("80 GB for 141 GB of weights");
    let message = refusal.message();
    assert!(
        message.len() <= MOST_CHARACTERS,
        "{} characters",
        message.len()
    );
    let remedy = refusal.remedies.first().expect("a remedy").to_string();
    assert!(message.contains(&remedy), "no {remedy} in {message}");
}
