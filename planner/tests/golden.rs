//! Known models on known devices: the splits and refusals by their numbers.

mod samples;

use std::time::{Duration, Instant};

use plimsoll_planner::{
    Account, Backend, Bytes, Dtype, KvDtype, MOST_CHARACTERS, Plan, Quantization, Reason, Remedy,
    Request, plan, table,
};
use samples::{
    MIB, llama_3_1_8b, llama_3_1_70b, llama_3_1_405b, llama_3_2_3b, llama_65b, qwen2_0_5b, request,
    smollm2,
};

const GB: u64 = 1_000_000_000;

fn kv_heads(plan: &Plan) -> Vec<u32> {
    plan.ranks
        .iter()
        .map(|rank| rank.shard.kv_head_count())
        .collect()
}

fn query_heads(plan: &Plan) -> Vec<u32> {
    plan.ranks
        .iter()
        .map(|rank| rank.shard.query_head_count())
        .collect()
}

fn columns(plan: &Plan) -> Vec<u32> {
    plan.ranks
        .iter()
        .map(|rank| rank.shard.mlp_column_count())
        .collect()
}

/// Bytes that no token of KV could use: what a plan leaves of all budgets.
fn free(plan: &Plan) -> u64 {
    plan.ranks
        .iter()
        .map(|rank| rank.budget.get() - rank.total().get())
        .sum()
}

#[test]
fn three_kv_heads_on_unequal_quotas_split_one_and_two() {
    let request = request(smollm2(), Backend::Cpu, &[300 * MIB, 700 * MIB]);
    let plan = plan(&request).unwrap();
    assert_eq!(kv_heads(&plan), [1, 2]);
    assert_eq!(query_heads(&plan), [3, 6]);
    assert_eq!(plan.max_model_len, 8192);
    // Both quotas are used to the last block of 16 tokens: 120 KiB a head, and the granules.
    assert!(plan.kv_tokens > 20_000, "{}", plan.kv_tokens);
    assert!(
        free(&plan) < 3 * 122_880 + 2 * 73_728 + 10 * 4096,
        "{}",
        free(&plan)
    );
    let kv = |rank: usize| plan.ranks[rank].bytes(Account::KvCache).get();
    assert_eq!(2 * kv(0), kv(1));
    assert_eq!(kv(0), u64::from(plan.kv_blocks) * 122_880);
}

#[test]
fn an_even_split_of_three_kv_heads_gives_the_lowest_rank_the_most() {
    for mib in [400, 4096] {
        let plan = plan(&request(smollm2(), Backend::Cpu, &[mib * MIB; 2])).unwrap();
        assert_eq!(kv_heads(&plan), [2, 1], "{mib} MiB each");
        assert!(
            columns(&plan)[0] < columns(&plan)[1],
            "the other rank has more of the rest"
        );
    }
}

/// The worked example of the design: no even split fits 3 GB, an uneven one holds 40 k tokens.
#[test]
fn llama_3b_fits_3_and_10_gb_unevenly() {
    let mut request = request(llama_3_2_3b(), Backend::Cuda, &[3 * GB, 10 * GB]);
    request.limits.max_num_seqs = 16;
    let plan = plan(&request).unwrap();
    assert_eq!(kv_heads(&plan).iter().sum::<u32>(), 8);
    assert!(
        (38_000..40_000).contains(&plan.kv_tokens),
        "{}",
        plan.kv_tokens
    );
    assert_eq!(plan.max_model_len, u32::try_from(plan.kv_tokens).unwrap());
    // The pooled bound: one more block on all heads would take more than all budgets leave.
    let a_block = 8 * 28 * 2 * 16 * 128 * 2;
    assert!(
        free(&plan) < a_block + 2 * 5 * 2 * MIB + 2 * 64 * 3072 * 2,
        "{}",
        free(&plan)
    );
    // Half of the weights do not fit rank 0, whatever the cache.
    let whole: u64 = plan
        .ranks
        .iter()
        .map(|rank| rank.bytes(Account::Weights).get())
        .sum();
    assert!(whole / 2 > 3 * GB);
}

#[test]
fn llama_8b_in_bfloat16_is_refused_3_and_10_gb_with_the_numbers() {
    let request = request(llama_3_1_8b(), Backend::Cuda, &[3 * GB, 10 * GB]);
    let refusal = plan(&request).unwrap_err();
    assert_eq!(refusal.reason, Reason::QuotaTooSmall);
    assert_eq!(refusal.available(), Bytes::measured(13 * GB));
    // 16.06 GB of weights, and fixed parts of about 1 GB on each rank.
    let needed = refusal.needed().get();
    assert!((17 * GB..20 * GB).contains(&needed), "{needed}");
    assert_eq!(refusal.ranks.len(), 2);
    for rank in &refusal.ranks {
        assert!(rank.floor_total() > Bytes::measured(GB / 2), "{rank:?}");
        assert!(
            rank.smallest_unit > Bytes::measured(300_000_000),
            "{rank:?}"
        );
        assert!(rank.shortfall > Bytes::ZERO, "{rank:?}");
    }
    let message = refusal.message();
    for part in [
        "spec.memory.gpuQuotas[rank=0].limit",
        "2.79 GiB",
        "9.31 GiB",
        "short by",
        "Context 544.00 MiB",
        "a KV head group adds",
        "This fits: spec.memory.gpuQuotas[rank=",
    ] {
        assert!(message.contains(part), "no {part:?} in {message}");
    }
    assert!(message.len() <= MOST_CHARACTERS);
    let Some(Remedy::Quota { .. }) = refusal.remedies.first() else {
        panic!("{:?}", refusal.remedies);
    };
    for remedy in &refusal.remedies {
        assert!(
            plan(&remedy.apply(&request)).is_ok(),
            "{remedy} does not hold"
        );
    }
}

#[test]
fn llama_8b_in_bfloat16_fits_8_and_24_gb() {
    let plan = plan(&request(llama_3_1_8b(), Backend::Cuda, &[8 * GB, 24 * GB])).unwrap();
    // Weights 16.06 GB and about 1.9 GB fixed leave 14 GB: 131,072 bytes a token.
    assert!(
        (95_000..110_000).contains(&plan.kv_tokens),
        "{}",
        plan.kv_tokens
    );
    assert_eq!(kv_heads(&plan).iter().sum::<u32>(), 8);
}

#[test]
fn ranks_that_outnumber_kv_heads_share_them() {
    let plan = plan(&request(qwen2_0_5b(), Backend::Cpu, &[4096 * MIB; 4])).unwrap();
    assert_eq!(kv_heads(&plan), [1, 1, 1, 1]);
    assert_eq!(query_heads(&plan), [4, 3, 4, 3]);
    let starts: Vec<u32> = plan
        .ranks
        .iter()
        .map(|rank| rank.shard.kv_heads.start)
        .collect();
    assert_eq!(starts, [0, 0, 1, 1]);
}

#[test]
fn a_written_context_that_cannot_fit_is_refused_with_one_that_does() {
    let mut request = request(smollm2(), Backend::Cpu, &[220 * MIB, 220 * MIB]);
    request.limits.max_model_len = Some(8192);
    let refusal = plan(&request).unwrap_err();
    assert_eq!(refusal.reason, Reason::ContextTooLong);
    let Some(Remedy::MaxModelLen { tokens }) = refusal.remedies.first().cloned() else {
        panic!("{:?}", refusal.remedies);
    };
    request.limits.max_model_len = Some(tokens);
    assert_eq!(plan(&request).unwrap().max_model_len, tokens);
    request.limits.max_model_len = Some(tokens + 16);
    assert!(plan(&request).is_err(), "{tokens} is the longest");
    // The same budgets with the model's own context: shrunk, not refused.
    request.limits.max_model_len = None;
    let shrunk = plan(&request).unwrap();
    assert_eq!(u64::from(shrunk.max_model_len), shrunk.kv_tokens);
    assert_eq!(shrunk.max_model_len, tokens);
}

#[test]
fn the_kv_cache_stays_within_its_size() {
    let mut request = request(smollm2(), Backend::Cpu, &[2048 * MIB, 2048 * MIB]);
    request.kv.size = Some(Bytes::measured(100 * MIB));
    let bounded = plan(&request).unwrap();
    for rank in &bounded.ranks {
        assert!(rank.bytes(Account::KvCache).get() <= 100 * MIB);
    }
    request.kv.size = Some(Bytes::measured(MIB));
    let refusal = plan(&request).unwrap_err();
    assert_eq!(refusal.reason, Reason::KvCacheTooSmall);
    assert!(
        refusal
            .message()
            .contains("spec.memory.kvCache.size at least"),
        "{refusal}"
    );
    assert!(plan(&refusal.remedies[0].apply(&request)).is_ok());
}

#[test]
fn a_smaller_dtype_is_a_remedy() {
    let mut request = request(smollm2(), Backend::Cpu, &[260 * MIB, 260 * MIB]);
    request.dtype = Dtype::Float32;
    request.kv.dtype = KvDtype::Float32;
    let refusal = plan(&request).unwrap_err();
    let remedy = Remedy::ModelDtype {
        dtype: Dtype::BFloat16,
    };
    assert!(refusal.remedies.contains(&remedy), "{:?}", refusal.remedies);
    assert!(
        refusal.message().contains("spec.model.dtype BFloat16"),
        "{refusal}"
    );
}

/// SmolLM2 takes 137 MiB in 8 bits, and 85 MiB in 4 with its embedding in 8: what fits with the more bits is
/// named, and a request that has it is planned.
#[test]
fn fewer_bits_of_weights_are_a_remedy() {
    for (quota, remedy) in [
        (240, Some(Quantization::Int8)),
        (200, Some(Quantization::Int4)),
        (150, None),
    ] {
        let request = request(smollm2(), Backend::Cpu, &[quota * MIB]);
        let refusal = plan(&request).unwrap_err();
        let named = refusal.remedies.iter().find_map(|remedy| match remedy {
            Remedy::Quantization { mode } => Some(*mode),
            _ => None,
        });
        assert_eq!(named, remedy, "{quota} MiB: {refusal}");
        let Some(mode) = named else { continue };
        let says = format!("spec.model.quantization.mode {}", mode.label());
        assert!(refusal.message().contains(&says), "{refusal}");
        let fits = Remedy::Quantization { mode }.apply(&request);
        let planned = plan(&fits).unwrap();
        assert!(table(&fits, &planned).contains("Q8_0, computed in BFloat16"));
    }
    // Who has asked for floats, or for the fewest bits, is not told of fewer.
    for asked in [
        Quantization::None,
        Quantization::Int4,
        Quantization::Int4By128,
    ] {
        let mut request = request(smollm2(), Backend::Cpu, &[150 * MIB]);
        request.quantization = asked;
        let refusal = plan(&request).unwrap_err();
        assert!(!refusal.message().contains("quantization"), "{refusal}");
    }
}

#[test]
fn a_kv_cache_of_integers_holds_nearly_twice_as_many_tokens() {
    let floats = request(smollm2(), Backend::Cpu, &[300 * MIB, 700 * MIB]);
    let mut integers = floats.clone();
    integers.kv.dtype = KvDtype::Int8;
    let [floats, planned] = [&floats, &integers].map(|request| plan(request).unwrap());
    // Of a head's 64 numbers: 128 bytes in BFloat16, 64 and a scale of 4 in Int8.
    assert_eq!((floats.kv_tokens, planned.kv_tokens), (28_208, 53_120));
    for rank in &planned.ranks {
        let heads = u64::from(rank.shard.kv_head_count());
        let bytes = u64::from(planned.kv_blocks) * 30 * 2 * heads * 16 * (64 + 4);
        let cache = rank.bytes(Account::KvCache).get();
        assert_eq!(cache, bytes.next_multiple_of(4096), "to the byte, in pages");
    }
    let shown = table(&integers, &planned);
    assert!(shown.contains("blocks of 16 (Int8)"), "{shown}");
}

#[test]
fn a_cache_of_integers_is_a_remedy_where_it_fits_and_little_else_does() {
    let mut request = request(smollm2(), Backend::Cpu, &[1024 * MIB]);
    request.limits.max_model_len = Some(8192);
    request.kv.size = Some(Bytes::measured(100 * MIB));
    let refusal = plan(&request).unwrap_err();
    let remedy = Remedy::KvDtype {
        dtype: KvDtype::Int8,
    };
    assert!(refusal.remedies.contains(&remedy), "{refusal}");
    assert!(plan(&remedy.apply(&request)).is_ok());
    assert!(
        refusal.message().contains("spec.memory.kvCache.dtype Int8"),
        "{refusal}"
    );
}

#[test]
fn a_card_has_no_cache_of_integers() {
    let mut request = request(llama_3_1_8b(), Backend::Cuda, &[40 * GB]);
    request.kv.dtype = KvDtype::Int8;
    let refusal = plan(&request).unwrap_err();
    let told = refusal.message();
    assert!(
        told.contains("spec.memory.kvCache.dtype: Int8") && told.contains("write Auto"),
        "{told}"
    );
    request.kv.dtype = KvDtype::BFloat16;
    request.ranks[0].quota = Some(Bytes::measured(8 * GB));
    let refusal = plan(&request).unwrap_err();
    let integers = Remedy::KvDtype {
        dtype: KvDtype::Int8,
    };
    assert!(!refusal.remedies.contains(&integers), "{refusal}");
}

#[test]
fn the_table_shows_every_rank_and_account() {
    let request = request(smollm2(), Backend::Cpu, &[300 * MIB, 700 * MIB]);
    let plan = plan(&request).unwrap();
    let text = table(&request, &plan);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 5, "{text}");
    for word in [
        "RANK", "KV-HEADS", "WEIGHTS", "KVCACHE", "COMM", "TOTAL", "STEP",
    ] {
        assert!(lines[0].contains(word), "no {word} in\n{text}");
    }
    assert!(
        lines[1].contains("300.00 MiB") && lines[2].contains("700.00 MiB"),
        "{text}"
    );
    assert!(lines[3].trim_start().starts_with("all"), "{text}");
    assert!(
        lines[4].contains(&format!("{} tokens", plan.kv_tokens)),
        "{text}"
    );
    assert!(
        lines[4].contains("maxModelLen 8192 (the model's own)"),
        "{text}"
    );
    assert!(
        lines[..4].iter().all(|line| line.len() == lines[0].len()),
        "{text}"
    );
}

fn timed(request: &Request) -> Duration {
    let start = Instant::now();
    let planned = plan(request);
    let elapsed = start.elapsed();
    assert!(planned.is_ok(), "{planned:?}");
    elapsed
}

/// The largest cases are planned in well under a second; the bound leaves room for a busy machine.
#[test]
fn large_models_on_many_ranks_are_planned_quickly() {
    let unequal: Vec<u64> = (0..16).map(|rank| (14 + rank % 5) * GB).collect();
    for request in [
        request(llama_3_1_70b(), Backend::Cuda, &unequal),
        request(llama_3_1_70b(), Backend::Cuda, &[24 * GB; 8]),
        request(llama_3_1_8b(), Backend::Cuda, &unequal[..8]),
        request(llama_65b(), Backend::Cuda, &unequal),
        request(llama_65b(), Backend::Cuda, &[80 * GB; 16]),
        request(llama_3_1_405b(), Backend::Cuda, &[80 * GB; 16]),
    ] {
        let elapsed = timed(&request);
        assert!(
            elapsed < Duration::from_secs(20),
            "{elapsed:?} for {request:?}"
        );
    }
}
