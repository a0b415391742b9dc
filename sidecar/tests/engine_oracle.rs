//! The engine against transformers: tiny models of every architecture, whole, split in every way,
//! batched, chunked, found in the prefix cache, preempted, and on every instruction set.
//!
//! Float32 weights and KV: logits agree within 1e-4 of their scale, greedy ids are the same.
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]
#![allow(clippy::cast_possible_truncation, reason = "fixtures are small")]

mod harness;

use harness::fixture::Fixture;
use harness::{
    Run, ask, ask_ids, cut, fixtures, planner_request, split, start, start_planned, wait_for,
};
use plimsoll_kernels::isa::Isa;
use plimsoll_planner::{Bytes, Dtype, Shard};
use plimsoll_sidecar::engine::handle::{EngineHandle, EngineState};
use plimsoll_sidecar::memory::snapshot::AccountRow;

fn all_fixtures() -> Vec<Fixture> {
    let folders = std::fs::read_dir(fixtures().join("models")).unwrap();
    let mut folders: Vec<_> = folders.map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    let fixtures: Vec<Fixture> = folders
        .iter()
        .map(|folder| Fixture::open(folder, ""))
        .collect();
    assert!(fixtures.len() >= 9, "{} fixtures", fixtures.len());
    fixtures
}

fn named(name: &str) -> Fixture {
    Fixture::open(&fixtures().join("models").join(name), "")
}

/// All prompts at once.
fn check_together(fixture: &Fixture, handle: &EngineHandle, what: &str) {
    let answers: Vec<_> = (0..)
        .zip(&fixture.prompts)
        .map(|(id, prompt)| ask_ids(handle, id, &prompt.ids, prompt.greedy.len() as u32))
        .collect();
    for ((index, answer), prompt) in answers.into_iter().enumerate().zip(&fixture.prompts) {
        let what = format!("{}, {what}, prompt {index}", fixture.name);
        assert_eq!(answer.wait().ids, prompt.greedy, "{what}");
    }
}

#[test]
fn logits_and_greedy_ids_are_those_of_transformers() {
    for fixture in all_fixtures() {
        let handle = start(&fixture.model, &Run::whole(&fixture.model.shape));
        fixture.check_alone(&handle, "alone");
    }
}

#[test]
fn every_split_gives_the_same_ids() {
    for fixture in all_fixtures() {
        let shape = &fixture.model.shape;
        let splits = [
            (2, [0; 3]),
            (2, [1, 0, 2]),
            (3, [0; 3]),
            (3, [0, 1, 0]),
            (2, [0, 9, 9]),
        ];
        for (ranks, lean) in splits {
            let run = Run {
                shards: split(shape, ranks, lean),
                ..Run::whole(shape)
            };
            let handle = start(&fixture.model, &run);
            fixture.check_alone(&handle, &format!("{:?}", run.shards));
        }
    }
}

#[test]
fn query_heads_may_share_a_copied_kv_head() {
    for name in ["tiny-qwen2-7", "tiny-llama"] {
        let fixture = named(name);
        let shape = &fixture.model.shape;
        // Every KV head on two ranks; the first holds one of its query heads, the other the rest.
        let group = shape.group();
        let mut shards = Vec::new();
        for head in 0..shape.kv_heads {
            let first = head * group;
            for query_heads in [first..first + 1, first + 1..first + group] {
                shards.push((head..head + 1, query_heads));
            }
        }
        let ranks = shards.len() as u32;
        let columns = cut(shape.ffn, ranks, 128, 0);
        let rows = cut(shape.vocab, ranks, 64, 1);
        let shard = |(((kv_heads, query_heads), mlp_columns), vocab_rows)| Shard {
            kv_heads,
            query_heads,
            mlp_columns,
            vocab_rows,
        };
        let shards = shards
            .into_iter()
            .zip(columns)
            .zip(rows)
            .map(shard)
            .collect();
        let handle = start(
            &fixture.model,
            &Run {
                shards,
                ..Run::whole(shape)
            },
        );
        fixture.check_alone(&handle, "copied KV heads");
    }
}

#[test]
fn batched_and_chunked_runs_give_the_same_ids() {
    for fixture in all_fixtures() {
        let shape = &fixture.model.shape;
        for (tokens, block_size) in [(256, 16), (5, 16), (7, 4), (64, 1)] {
            let run = Run {
                max_num_batched_tokens: tokens,
                block_size,
                kv_blocks: 3200 / block_size,
                prefix_cache: false,
                ..Run::whole(shape)
            };
            let handle = start(&fixture.model, &run);
            check_together(&fixture, &handle, &format!("{tokens} tokens a step"));
        }
    }
}

#[test]
fn prefix_hits_give_the_same_ids() {
    for fixture in all_fixtures() {
        let run = Run {
            block_size: 4,
            ..Run::whole(&fixture.model.shape)
        };
        let handle = start(&fixture.model, &run);
        fixture.check_alone(&handle, "first time");
        let before = handle.stats();
        fixture.check_alone(&handle, "from the prefix cache");
        let after = handle.stats();
        let found = after.prefix_hits - before.prefix_hits;
        let looked_up = after.prefix_queries - before.prefix_queries;
        let longest = fixture
            .prompts
            .iter()
            .map(|prompt| prompt.ids.len())
            .max()
            .unwrap();
        assert!(
            longest <= 4 || found >= looked_up / 2,
            "{found} of {looked_up} found"
        );
        // With a continued answer as the prompt, its own blocks are found.
        let prompt = &fixture.prompts[0];
        let mut longer = prompt.ids.clone();
        longer.extend(&prompt.greedy[..32]);
        let answered = ask(&handle, 99, &longer, 32).wait();
        assert_eq!(answered.ids, prompt.greedy[32..], "{}", fixture.name);
        assert!(
            answered.finished.unwrap().cached_tokens >= 28,
            "{}",
            fixture.name
        );
    }
}

#[test]
fn preempted_runs_give_the_same_ids() {
    for fixture in all_fixtures() {
        let shape = &fixture.model.shape;
        let longest = fixture
            .prompts
            .iter()
            .map(|p| p.ids.len() + p.greedy.len())
            .max()
            .unwrap();
        for (ranks, prefix_cache) in [(1, true), (2, false)] {
            // Room for little more than the longest sequence, asked for by all at once.
            let kv_blocks = (longest as u32).div_ceil(4) + 3;
            let run = Run {
                shards: split(shape, ranks, [0; 3]),
                block_size: 4,
                kv_blocks,
                max_model_len: kv_blocks * 4,
                prefix_cache,
                ..Run::whole(shape)
            };
            let handle = start(&fixture.model, &run);
            check_together(&fixture, &handle, "preempted");
            assert!(
                handle.stats().preemptions > 0,
                "{}: nothing was preempted",
                fixture.name
            );
        }
    }
}

#[test]
fn every_instruction_set_and_thread_count_gives_the_same_ids() {
    for isa in Isa::available() {
        for fixture in all_fixtures() {
            let run = Run {
                isa: Some(isa.name().to_owned()),
                threads: 2,
                ..Run::whole(&fixture.model.shape)
            };
            let handle = start(&fixture.model, &run);
            fixture.check_alone(&handle, isa.name());
        }
    }
}

#[test]
fn the_planners_own_uneven_plan_runs_and_is_filled_to_the_byte() {
    let fixture = named("tiny-llama-9-3");
    let run = Run {
        max_num_seqs: 4,
        max_num_batched_tokens: 64,
        max_model_len: 256,
        ..Run::whole(&fixture.model.shape)
    };
    let quotas = [1_200_000, 2_400_000].map(|bytes| Some(Bytes::measured(bytes)));
    let request = planner_request(&fixture.model, &run, quotas.to_vec());
    let plan = plimsoll_planner::plan(&request).unwrap_or_else(|refusal| panic!("{refusal:?}"));
    let heads = |rank: usize| plan.ranks[rank].shard.kv_head_count();
    assert_ne!(heads(0), heads(1), "three KV heads cannot be halved");
    let handle = start_planned(&fixture.model, &run, request, plan);
    wait_for(&handle, |state| *state == EngineState::Serving);
    fixture.check_alone(&handle, "planned");
    for rank in handle.memory().ranks {
        let row = |row: &AccountRow| (row.planned, row.reserved);
        assert!(
            rank.accounts
                .iter()
                .map(row)
                .all(|(planned, reserved)| planned == reserved)
        );
        assert!(rank.driver <= rank.quota.unwrap(), "{rank:?}");
    }
}

#[test]
fn half_precision_stays_near_on_every_instruction_set() {
    for isa in Isa::available() {
        for dtype in [Dtype::BFloat16, Dtype::Float16] {
            for fixture in all_fixtures() {
                let shape = &fixture.model.shape;
                let run = Run {
                    dtype,
                    kv_dtype: dtype.into(),
                    shards: split(shape, 2, [0; 3]),
                    isa: Some(isa.name().to_owned()),
                    ..Run::whole(shape)
                };
                let handle = start(&fixture.model, &run);
                for (id, prompt) in (0..).zip(&fixture.prompts) {
                    let answered = ask(&handle, id, &prompt.ids, 1).wait();
                    let what = format!("{}, {dtype}, {isa}, prompt {id}", fixture.name);
                    let cosine = cosine(&answered.logits[0], &prompt.logits_last);
                    assert!(cosine >= 0.999, "{what}: cosine {cosine}");
                }
            }
        }
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
