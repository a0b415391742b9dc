//! A KV cache of integers: answers of every architecture are finite, near those of one of floats, and the
//! same bits however prompts are cut, batched, found again or computed again; its bytes are the plan's.
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]
#![allow(clippy::cast_possible_truncation, reason = "fixtures are small")]

mod harness;

use harness::fixture::Fixture;
use harness::{
    Answer, Run, ask, eventually, fixtures, planner_request, split, start, start_planned, wait_for,
};
use plimsoll_kernels::isa::Isa;
use plimsoll_planner::{Account, Bytes, KvDtype, ModelShape};
use plimsoll_sidecar::engine::handle::{EngineHandle, EngineState};

fn all_fixtures() -> Vec<Fixture> {
    let folders = std::fs::read_dir(fixtures().join("models")).unwrap();
    let mut folders: Vec<_> = folders.map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    let open = |folder: &std::path::PathBuf| Fixture::open(folder, "");
    folders.iter().map(open).collect()
}

fn integers(shape: &ModelShape) -> Run {
    Run {
        kv_dtype: KvDtype::Int8,
        ..Run::whole(shape)
    }
}

/// Of every prompt and token the bits of the logits, all asked for at once or one after the other.
fn said(fixture: &Fixture, handle: &EngineHandle, together: bool) -> Vec<Vec<Vec<u32>>> {
    let bits = |answer: Answer| {
        let logits = answer.wait().logits;
        let row = |row: Vec<f32>| row.into_iter().map(f32::to_bits).collect();
        logits.into_iter().map(row).collect()
    };
    let asked = (0..).zip(&fixture.prompts);
    let asked = asked.map(|(id, prompt)| ask(handle, id, &prompt.ids, prompt.greedy.len() as u32));
    match together {
        true => asked.collect::<Vec<_>>().into_iter().map(bits).collect(),
        false => asked.map(bits).collect(),
    }
}

#[test]
fn logits_are_finite_and_near_those_of_floats_on_every_instruction_set_and_split() {
    for isa in Isa::available() {
        for fixture in all_fixtures() {
            let shape = &fixture.model.shape;
            for ranks in [1, 2] {
                let run = Run {
                    shards: split(shape, ranks, [0; 3]),
                    isa: Some(isa.name().to_owned()),
                    ..integers(shape)
                };
                let handle = start(&fixture.model, &run);
                for (id, prompt) in (0..).zip(&fixture.prompts) {
                    let answered = ask(&handle, id, &prompt.ids, 2).wait();
                    let what = format!("{}, {isa}, {ranks} ranks, prompt {id}", fixture.name);
                    assert!(
                        answered.logits.iter().flatten().all(|x| x.is_finite()),
                        "{what}"
                    );
                    let cosine = cosine(&answered.logits[0], &prompt.logits_last);
                    assert!(cosine >= 0.999, "{what}: cosine {cosine}");
                }
            }
        }
    }
}

#[test]
fn answers_have_the_same_bits_in_any_chunk_batch_and_block_found_again_and_computed_again() {
    for fixture in all_fixtures() {
        let shape = &fixture.model.shape;
        let alone = start(&fixture.model, &integers(shape));
        let expected = said(&fixture, &alone, false);
        let again = said(&fixture, &alone, false);
        assert!(
            again == expected,
            "{}: found in the prefix cache",
            fixture.name
        );
        assert!(alone.stats().prefix_hits > 0, "{}", fixture.name);
        for (tokens, block_size, threads) in [(256, 16, 2), (5, 16, 1), (7, 4, 3), (64, 1, 1)] {
            let run = Run {
                max_num_batched_tokens: tokens,
                block_size,
                kv_blocks: 3200 / block_size,
                prefix_cache: false,
                threads,
                ..integers(shape)
            };
            let handle = start(&fixture.model, &run);
            let what = format!("{}, {tokens} tokens a step", fixture.name);
            assert!(said(&fixture, &handle, true) == expected, "{what}");
        }
        let lengths = fixture.prompts.iter();
        let longest = lengths
            .map(|prompt| prompt.ids.len() + prompt.greedy.len())
            .max();
        // Room for little more than the longest sequence, asked for by all at once.
        let kv_blocks = (longest.unwrap() as u32).div_ceil(4) + 3;
        let run = Run {
            block_size: 4,
            kv_blocks,
            max_model_len: kv_blocks * 4,
            ..integers(shape)
        };
        let handle = start(&fixture.model, &run);
        assert!(
            said(&fixture, &handle, true) == expected,
            "{}: preempted",
            fixture.name
        );
        assert!(
            handle.stats().preemptions > 0,
            "{}: none preempted",
            fixture.name
        );
    }
}

/// Starts an engine on these quotas; the tokens that its cache holds, once its bytes are found right.
fn tokens(fixture: &Fixture, kv_dtype: KvDtype, quotas: &[u64]) -> f64 {
    let shape = &fixture.model.shape;
    let run = Run {
        shards: split(shape, quotas.len() as u32, [0; 3]),
        kv_dtype,
        max_num_seqs: 4,
        max_num_batched_tokens: 64,
        max_model_len: 256,
        ..Run::whole(shape)
    };
    let quotas = quotas.iter().map(|bytes| Some(Bytes::measured(*bytes)));
    let request = planner_request(&fixture.model, &run, quotas.collect());
    let plan = plimsoll_planner::plan(&request).unwrap();
    let handle = start_planned(&fixture.model, &run, request, plan.clone());
    wait_for(&handle, |state| *state == EngineState::Serving);
    eventually("a whole cache", || !handle.rest().filling);
    let head_bytes = match kv_dtype {
        KvDtype::Int8 => u64::from(shape.head_dim) + 4,
        KvDtype::BFloat16 | KvDtype::Float16 => u64::from(shape.head_dim) * 2,
        KvDtype::Float32 => u64::from(shape.head_dim) * 4,
    };
    for (rank, planned) in handle.memory().ranks.iter().zip(&plan.ranks) {
        let heads = u64::from(shape.layers * 2 * planned.shard.kv_head_count());
        let bytes = u64::from(plan.kv_blocks) * heads * 16 * head_bytes;
        let mut rows = rank.accounts.iter();
        let cache = rows.find(|row| row.account == Account::KvCache);
        let reserved = cache.map_or(0, |row| row.reserved.get());
        assert_eq!(
            reserved,
            bytes.next_multiple_of(4096),
            "{kv_dtype}: {rank:?}"
        );
        assert_eq!(reserved, planned.bytes(Account::KvCache).get());
    }
    plan.kv_tokens as f64
}

#[test]
fn the_cache_takes_the_bytes_that_the_plan_has_and_holds_nearly_twice_the_tokens_of_16_bits() {
    let fixture = Fixture::open(&fixtures().join("models/tiny-llama-9-3"), "");
    tokens(&fixture, KvDtype::Int8, &[1_200_000, 2_400_000]);
    let quota = [4_000_000];
    let dim = f64::from(fixture.model.shape.head_dim);
    let found =
        tokens(&fixture, KvDtype::Int8, &quota) / tokens(&fixture, KvDtype::BFloat16, &quota);
    let gain = 2.0 * dim / (dim + 4.0);
    assert!(
        (found / gain - 1.0).abs() < 0.02,
        "{found}, by bytes {gain}"
    );
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let pairs = a.iter().zip(b);
        pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
