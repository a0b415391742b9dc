//! The real binary on the models of `make_positions.py`: a GGUF file of mixed types and a model whose
//! config stretches its context are planned, loaded and served with transformers' tokens.
#![allow(clippy::unwrap_used, reason = "a test")]

mod served;

use serde_json::{Value, json};
use served::{Served, fixture};

fn serves_its_greedy_tokens(folder: &str, file: &str, context: u64) {
    let folder = fixture("../positions").join(folder);
    let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    let model = folder.join(file);
    let exact = ["--quantization-compute", "exact"];
    let served = Served::start(model.to_str().unwrap(), &exact);
    let card = served.get("/v1/models").json()["data"][0].clone();
    assert_eq!(card["max_model_len"], context, "{card}");
    for prompt in expected["prompts"].as_array().unwrap() {
        let greedy = prompt["greedy"].as_array().unwrap();
        let body = json!({
            "prompt": prompt["ids"], "max_tokens": greedy.len(), "temperature": 0,
            "ignore_eos": true, "logprobs": 0, "return_tokens_as_token_ids": true,
        });
        let answer = served.post("/v1/completions", &body.to_string()).json();
        let named: Vec<String> = greedy.iter().map(|id| format!("token_id:{id}")).collect();
        assert_eq!(
            answer["choices"][0]["logprobs"]["tokens"],
            json!(named),
            "{answer}"
        );
    }
}

#[test]
fn a_gguf_file_of_mixed_types_is_served() {
    serves_its_greedy_tokens("mixed-gguf", "model.gguf", 256);
}

#[test]
fn yarn_is_served_over_all_of_the_context_it_reaches() {
    serves_its_greedy_tokens("yarn-qwen2", "", 128);
}
