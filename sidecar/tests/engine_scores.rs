//! Prompts that are scored, against transformers: at once, in chunks of every size, from one rank and
//! two, though the prefix cache knows them, and after preemptions.
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]
#![allow(clippy::cast_possible_truncation, reason = "fixtures are small")]

mod harness;

use std::path::Path;
use std::sync::Arc;

use harness::{Run, fixtures, halves, open, score, start};
use plimsoll_sidecar::engine::handle::EngineHandle;
use plimsoll_sidecar::model::Model;

#[derive(serde::Deserialize)]
struct Prompt {
    ids: Vec<u32>,
    greedy: Vec<u32>,
}

/// What transformers says of the tokens of a prompt, from the second on.
#[derive(serde::Deserialize)]
struct Score {
    logprobs: Vec<f32>,
    /// The two likeliest in each one's place.
    top: Vec<[(u32, f32); 2]>,
}

#[derive(serde::Deserialize)]
struct Of<T> {
    prompts: Vec<T>,
}

struct Fixture {
    name: String,
    model: Arc<Model>,
    prompts: Vec<Prompt>,
    scores: Vec<Score>,
}

fn read<T: serde::de::DeserializeOwned>(folder: &Path, file: &str) -> Vec<T> {
    let text = std::fs::read_to_string(folder.join(file)).unwrap();
    serde_json::from_str::<Of<T>>(&text).unwrap().prompts
}

fn named(name: &str) -> Fixture {
    let folder = fixtures().join("models").join(name);
    Fixture {
        name: name.to_owned(),
        model: open(&folder),
        prompts: read(&folder, "expected.json"),
        scores: read(&folder, "scores.json"),
    }
}

/// Every prompt is scored, some with tokens after it.
fn check_scores(fixture: &Fixture, handle: &EngineHandle, what: &str) {
    let Fixture { name, .. } = fixture;
    let ask = |(id, prompt): (u64, &Prompt)| score(handle, id, &prompt.ids, id as u32 % 2 * 20);
    let asked: Vec<_> = (0..).zip(&fixture.prompts).map(ask).collect();
    for (((index, answer), prompt), expected) in
        (0..).zip(asked).zip(&fixture.prompts).zip(&fixture.scores)
    {
        let what = format!("{name}, {what}, prompt {index}");
        let answered = answer.wait();
        assert_eq!(answered.ids, prompt.greedy[..index % 2 * 20], "{what}");
        assert_eq!(answered.prompt.len(), prompt.ids.len() - 1, "{what}");
        let places = answered
            .prompt
            .iter()
            .zip(&expected.logprobs)
            .zip(&expected.top);
        for (at, ((got, own), top)) in places.enumerate() {
            let near = |got: f32, wanted: f32| {
                let error = (got - wanted).abs();
                assert!(
                    error <= 2e-4,
                    "{what}, token {at}: {got}, expected {wanted}"
                );
            };
            near(got.logprob, *own);
            near(got.top[0].1, top[0].1);
            near(got.top[1].1, top[1].1);
            if top[0].1 - top[1].1 > 1e-3 {
                assert_eq!(got.top[0].0, top[0].0, "{what}, token {at}");
            }
        }
    }
}

#[test]
fn prompts_are_scored_as_transformers_scores_them() {
    for name in ["tiny-llama", "tiny-qwen2", "tiny-mistral"] {
        let fixture = named(name);
        let shape = &fixture.model.shape;
        let whole = Run::whole(shape);
        let handle = start(&fixture.model, &whole);
        check_scores(&fixture, &handle, "at once");
        check_scores(&fixture, &handle, "with the prompts in the prefix cache");
        for (max_num_seqs, tokens, ranks) in [(16, 7, 1), (1, 64, 2), (3, 64, 2)] {
            let run = Run {
                max_num_seqs,
                max_num_batched_tokens: tokens,
                shards: if ranks == 1 {
                    whole.shards.clone()
                } else {
                    halves(&fixture.model)
                },
                ..whole.clone()
            };
            let handle = start(&fixture.model, &run);
            check_scores(&fixture, &handle, &format!("{run:?}"));
        }
        // Room for little more than the longest sequence: scores survive preemptions.
        let run = Run {
            block_size: 4,
            kv_blocks: 26,
            max_model_len: 104,
            ..whole
        };
        let handle = start(&fixture.model, &run);
        check_scores(&fixture, &handle, "preempted");
    }
}
