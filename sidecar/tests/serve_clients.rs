//! What clients ask of the real binary every day: samples that differ, prompts that are scored, biases,
//! stops, more tokens than there are.
#![allow(clippy::unwrap_used, reason = "a test")]

mod served;

use serde_json::{Value, json};
use served::{Served, fixture};

fn read(file: &str) -> Value {
    let text = std::fs::read_to_string(fixture("tiny-llama").join(file)).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn ask(served: &Served, body: &Value) -> Value {
    let answer = served.post("/v1/completions", &body.to_string());
    assert_eq!(answer.status, 200, "{body}: {}", answer.body);
    answer.json()
}

fn texts(answer: &Value) -> Vec<&str> {
    let choices = answer["choices"].as_array().unwrap();
    choices
        .iter()
        .map(|choice| choice["text"].as_str().unwrap())
        .collect()
}

#[test]
fn equal_prompts_draw_different_texts_and_a_seed_the_same_again() {
    let served = Served::start("tiny-llama", &[]);
    let body = |more: Value| {
        let mut body = json!({"prompt": [[5, 6, 7], [5, 6, 7], [5, 6, 7]], "temperature": 1,
            "max_tokens": 24, "ignore_eos": true});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        body
    };
    for (more, count) in [(json!({}), 3), (json!({"n": 2, "seed": 11}), 6)] {
        let answer = ask(&served, &body(more));
        let mut different = texts(&answer);
        different.sort_unstable();
        different.dedup();
        assert_eq!(different.len(), count, "{different:?}");
    }
    let seeded = body(json!({"seed": 7}));
    let (first, again) = (ask(&served, &seeded), ask(&served, &seeded));
    assert_eq!(texts(&first), texts(&again));
}

#[test]
fn a_prompt_is_scored_over_http_as_transformers_scores_it() {
    let served = Served::start("tiny-llama", &[]);
    let (expected, scores) = (read("expected.json"), read("scores.json"));
    let prompts = expected["prompts"].as_array().unwrap().iter();
    for (prompt, scores) in prompts.zip(scores["prompts"].as_array().unwrap()) {
        for max_tokens in [0, 1] {
            let body = json!({"prompt": prompt["ids"], "echo": true, "logprobs": 1,
                "max_tokens": max_tokens, "temperature": 0, "return_tokens_as_token_ids": true});
            let answer = ask(&served, &body);
            let logprobs = &answer["choices"][0]["logprobs"];
            let own = logprobs["token_logprobs"].as_array().unwrap();
            let wanted = scores["logprobs"].as_array().unwrap();
            assert_eq!(own.len(), 1 + wanted.len() + max_tokens);
            assert_eq!(own[0], Value::Null);
            for (at, (own, wanted)) in own[1..].iter().zip(wanted).enumerate() {
                let (own, wanted) = (own.as_f64().unwrap(), wanted.as_f64().unwrap());
                assert!((own - wanted).abs() < 2e-4, "{at}: {own}, not {wanted}");
            }
            let last = format!(
                "token_id:{}",
                prompt["ids"].as_array().unwrap().last().unwrap()
            );
            assert_eq!(logprobs["tokens"][wanted.len()], last);
            assert_eq!(answer["usage"]["completion_tokens"], max_tokens);
        }
    }
}

#[test]
fn biases_stops_and_lengths_are_obeyed() {
    let served = Served::start("tiny-llama", &[]);
    // `x` alone may be drawn, then nothing but the end of sequence.
    let x = served.post("/tokenize", r#"{"prompt": "x"}"#).json()["tokens"][0].clone();
    let mut body = json!({"prompt": [5, 6, 7], "max_tokens": 4, "temperature": 0,
        "logit_bias": {x.to_string(): 100}});
    let answer = ask(&served, &body);
    assert_eq!(texts(&answer), ["xxxx"]);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    body["stop_token_ids"] = json!([x]);
    assert_eq!(texts(&ask(&served, &body)), [""]);
    body["min_tokens"] = json!(2);
    let answer = ask(&served, &body);
    assert_eq!(answer["usage"]["completion_tokens"], 3);
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    // A stop string that is a special token; shown, it is text.
    let special = |more: Value| {
        let mut body = json!({"prompt": [5, 6, 7], "max_tokens": 3, "temperature": 0,
            "logit_bias": {"1": 100}});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        ask(&served, &body)
    };
    assert_eq!(texts(&special(json!({}))), [""]);
    let shown = special(json!({"skip_special_tokens": false}));
    assert_eq!(texts(&shown), ["<|im_start|>".repeat(3)]);
    let stopped = special(json!({"stop": ["<|im_start|>"]}));
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    assert_eq!(stopped["usage"]["completion_tokens"], 1);
    // More than the context of 512 leaves is cut.
    let long = json!({"prompt": [5, 6, 7], "max_tokens": 100_000, "ignore_eos": true});
    assert_eq!(ask(&served, &long)["usage"]["completion_tokens"], 509);
}
