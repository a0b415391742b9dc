//! Sampling defaults of the model, over HTTP: they count where a request is silent, and
//! `--generation-config vllm` ignores them.
#![allow(clippy::unwrap_used, reason = "a test")]

mod served;

use served::{ModelCopy, Served};

fn text(served: &Served, more: &str) -> String {
    let body = format!(
        r#"{{"model": "tiny", "prompt": [5, 6, 7], "max_tokens": 24, "ignore_eos": true{more}}}"#
    );
    let answer = served.post("/v1/completions", &body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["choices"][0]["text"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn a_model_recommends_and_requests_and_flags_override() {
    // Greedy, with one value that makes no sense.
    let recommended = r#"{"eos_token_id": [2], "temperature": 0, "top_p": -3}"#;
    let model = ModelCopy::new("tiny-llama", "generation_config.json", recommended);
    let name = ["--served-model-name", "tiny"];
    let served = Served::start_unready(model.path(), &name);
    let warning = served.wait_for("top_p is -3");
    assert!(
        warning.contains("generation_config.json") && warning.contains("WARN"),
        "{warning}"
    );
    served.wait_for("\"message\":\"ready\"");
    let greedy = text(&served, r#", "temperature": 0"#);
    let drawn = text(&served, r#", "temperature": 1, "seed": 1"#);
    assert_ne!(drawn, greedy);
    assert_eq!(
        text(&served, r#", "seed": 1"#),
        greedy,
        "the model's temperature is 0"
    );
    drop(served);

    let flags = [&name[..], &["--generation-config", "vllm"]].concat();
    let served = Served::start(model.path(), &flags);
    assert_eq!(
        text(&served, r#", "seed": 1"#),
        drawn,
        "OpenAI's temperature is 1"
    );
}
