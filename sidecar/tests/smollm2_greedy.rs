//! A real model end to end: SmolLM2-135M-Instruct from its GGUF file gives transformers' tokens.
//!
//! `PLIMSOLL_SMOLLM2` is the path of the file (`e2e/run model` fetches it). The reference was made
//! in float32 on the dequantised weights, so Float32 must agree on every token, on any number of
//! ranks (the model's 3 KV heads make every split of 2 uneven). BFloat16 rounds weights, inputs of
//! linear layers and the KV cache: where the reference's two best logits are within 0.01 of each
//! other (two of the six prompts) it may turn, and all that follows with it.
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]
#![allow(clippy::cast_possible_truncation, reason = "prompts are short")]

mod harness;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use harness::{Run, ask_ids, fixtures, open, start};
use plimsoll_planner::{Dtype, Shard};
use plimsoll_sidecar::model::Model;

#[derive(serde::Deserialize)]
struct Prompt {
    name: String,
    prompt_ids: Vec<u32>,
    ids: Vec<u32>,
    /// Smallest difference between the two best logits, and the step that has it.
    min_margin: f32,
    min_margin_step: usize,
}

#[derive(serde::Deserialize)]
struct Reference {
    prompts: Vec<Prompt>,
}

fn reference() -> Vec<Prompt> {
    let text = std::fs::read_to_string(fixtures().join("smollm2.json")).unwrap();
    let Reference { prompts } = serde_json::from_str(&text).unwrap();
    assert!(prompts.len() >= 6);
    prompts
}

fn model() -> Arc<Model> {
    let path = std::env::var("PLIMSOLL_SMOLLM2")
        .expect("PLIMSOLL_SMOLLM2 is not set: the path of SmolLM2-135M-Instruct.Q4_1.gguf");
    open(&PathBuf::from(path))
}

/// KV heads, MLP columns and vocabulary rows per rank.
fn shards(parts: &[[u32; 3]]) -> Vec<Shard> {
    let mut ends = [0; 3];
    let mut shard = |part: &[u32; 3]| {
        let start = ends;
        (0..3).for_each(|i| ends[i] += part[i]);
        Shard {
            kv_heads: start[0]..ends[0],
            query_heads: start[0] * 3..ends[0] * 3,
            mlp_columns: start[1]..ends[1],
            vocab_rows: start[2]..ends[2],
        }
    };
    parts.iter().map(&mut shard).collect()
}

fn run(model: &Arc<Model>, dtype: Dtype, parts: &[[u32; 3]]) -> Run {
    let shards = shards(parts);
    Run {
        shards,
        dtype,
        kv_dtype: dtype.into(),
        ..Run::whole(&model.shape)
    }
}

#[test]
#[ignore = "needs the file that PLIMSOLL_SMOLLM2 names; `e2e/run test engine` runs it"]
fn float32_gives_the_reference_tokens_on_one_two_and_three_ranks() {
    let model = model();
    let splits: [&[[u32; 3]]; 3] = [
        &[[3, 1536, 49152]],
        &[[1, 384, 16384], [2, 1152, 32768]],
        &[[1, 512, 16384], [1, 896, 6400], [1, 128, 26368]],
    ];
    for parts in splits {
        let handle = start(&model, &run(&model, Dtype::Float32, parts));
        let started = Instant::now();
        let prompts = reference();
        let answers: Vec<_> = (0..)
            .zip(&prompts)
            .map(|(id, p)| ask_ids(&handle, id, &p.prompt_ids, p.ids.len() as u32))
            .collect();
        for (answer, prompt) in answers.into_iter().zip(&prompts) {
            assert_eq!(answer.wait().ids, prompt.ids, "{}, {parts:?}", prompt.name);
        }
        println!(
            "{} ranks: {:?}, {:?}",
            parts.len(),
            started.elapsed(),
            handle.stats()
        );
    }
}

#[test]
#[ignore = "needs the file that PLIMSOLL_SMOLLM2 names; `e2e/run test engine` runs it"]
fn bfloat16_turns_only_at_near_ties() {
    const NEAR: f32 = 0.01;
    let model = model();
    let handle = start(&model, &run(&model, Dtype::BFloat16, &[[3, 1536, 49152]]));
    let prompts = reference();
    for (id, prompt) in (0..).zip(&prompts) {
        let ids = ask_ids(&handle, id, &prompt.prompt_ids, prompt.ids.len() as u32)
            .wait()
            .ids;
        assert_eq!(ids.len(), prompt.ids.len(), "{}", prompt.name);
        let turned = ids
            .iter()
            .zip(&prompt.ids)
            .position(|(got, expected)| got != expected);
        if let Some(step) = turned {
            println!("{}: turned at token {step}", prompt.name);
            let (margin, at) = (prompt.min_margin, prompt.min_margin_step);
            assert!(
                margin < NEAR,
                "{}: turned at {step}, no near tie",
                prompt.name
            );
            assert_eq!(
                step, at,
                "{}: turned before or after its near tie",
                prompt.name
            );
        }
    }
    assert_eq!(
        prompts
            .iter()
            .filter(|prompt| prompt.min_margin < NEAR)
            .count(),
        2
    );
}
