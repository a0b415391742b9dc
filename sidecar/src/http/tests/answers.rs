//! What clients get: the exact objects of OpenAI's API.

use serde_json::json;

use super::*;
use crate::http::testing::{EOS, Script, app};

const HELLO: &str = r#"{"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}"#;

/// `HELLO` with more fields.
fn hello(more: &str) -> String {
    let body = HELLO.strip_suffix('}').unwrap();
    format!("{body}, {more}}}")
}

#[tokio::test]
async fn a_chat_is_answered_in_openais_shape() {
    let (app, engine) = app(Script::Say("Good day."));
    let response = post(&app, "/v1/chat/completions", HELLO).await;
    assert_eq!(response.status(), 200);
    let mut body = json(response).await;
    let id = body["id"].take();
    assert!(id.as_str().unwrap().starts_with("chatcmpl-"), "{id}");
    assert!(body["created"].take().as_u64().unwrap() > 1_700_000_000);
    let request = engine.take().remove(0);
    let tokens = app
        .peek()
        .unwrap()
        .tokenizer
        .encode("Good day.", false)
        .unwrap()
        .len()
        + 1;
    let expected = json!({
        "id": null, "object": "chat.completion", "created": null, "model": "tiny",
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": "Good day.", "refusal": null},
            "logprobs": null,
            "finish_reason": "stop",
        }],
        "usage": {
            "prompt_tokens": request.prompt.len(),
            "completion_tokens": tokens,
            "total_tokens": request.prompt.len() + tokens,
            "prompt_tokens_details": {"cached_tokens": 1},
        },
    });
    assert_eq!(body, expected);
    let prompt = app.peek().unwrap().tokenizer.decode(&request.prompt, false);
    assert_eq!(
        prompt,
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(request.eos, [EOS]);
    assert_eq!(
        request.max_tokens as usize,
        512 - request.prompt.len(),
        "the rest of the context"
    );
}

#[tokio::test]
async fn a_streamed_chat_has_openais_chunks() {
    let (app, _) = app(Script::Say("ab"));
    let body = hello(r#""stream": true, "stream_options": {"include_usage": true}"#);
    let response = post(&app, "/v1/chat/completions", &body).await;
    assert_eq!(
        response.headers()["content-type"],
        "text/event-stream; charset=utf-8"
    );
    let (chunks, done) = events(response).await;
    assert!(done);
    for chunk in &chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!(chunk["model"], "tiny");
        assert_eq!(chunk["id"], chunks[0]["id"]);
    }
    let first = json!([{
        "index": 0, "delta": {"role": "assistant", "content": ""},
        "logprobs": null, "finish_reason": null,
    }]);
    assert_eq!(chunks[0]["choices"], first);
    assert_eq!(chunks[0]["usage"], Value::Null, "null until the last one");
    let (usage, rest) = chunks[1..].split_last().unwrap();
    let (end, content) = rest.split_last().unwrap();
    let text: String = content
        .iter()
        .map(|c| c["choices"][0]["delta"]["content"].as_str().unwrap())
        .collect();
    assert_eq!(text, "ab");
    let last = json!([{"index": 0, "delta": {}, "logprobs": null, "finish_reason": "stop"}]);
    assert_eq!(end["choices"], last);
    assert_eq!(usage["choices"], json!([]));
    assert!(usage["usage"]["completion_tokens"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn without_include_usage_chunks_have_no_usage() {
    let (app, _) = app(Script::Say("ab"));
    let response = post(&app, "/v1/chat/completions", &hello(r#""stream": true"#)).await;
    let (chunks, done) = events(response).await;
    assert!(done && chunks.iter().all(|chunk| chunk.get("usage").is_none()));
}

#[tokio::test]
async fn completions_take_every_kind_of_prompt() {
    let (app, engine) = app(Script::Say(" world, and so on and so on and so on and on"));
    for (prompt, choices) in [
        (r#""hello""#, 1),
        (r#"["a", "b"]"#, 2),
        ("[5, 6]", 1),
        ("[[5], [6, 7]]", 2),
    ] {
        let body = format!(r#"{{"model": "org/tiny", "prompt": {prompt}, "n": 2}}"#);
        let response = post(&app, "/v1/completions", &body).await;
        assert_eq!(response.status(), 200, "{prompt}");
        let body = json(response).await;
        assert_eq!(body["object"], "text_completion");
        assert_eq!(body["choices"].as_array().unwrap().len(), 2 * choices);
        let indices: Vec<_> = body["choices"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["index"].clone())
            .collect();
        assert_eq!(
            indices,
            (0..2 * choices).map(Value::from).collect::<Vec<_>>()
        );
        assert_eq!(
            body["choices"][0]["finish_reason"], "length",
            "16 tokens by default"
        );
        let requests = engine.take();
        assert_eq!(body["usage"]["completion_tokens"], 16 * requests.len());
        let streams: Vec<u32> = requests.iter().map(|r| r.sampling.stream).collect();
        let numbered: Vec<u32> = (0..).take(2 * choices).collect();
        assert_eq!(streams, numbered, "prompt x n + choice");
        assert!(
            requests
                .iter()
                .all(|request| request.sampling.seed == requests[0].sampling.seed)
        );
    }
}

#[tokio::test]
async fn echo_puts_the_prompt_first_streamed_or_not() {
    let (app, _) = app(Script::Say(" world"));
    let body = r#"{"model": "tiny", "prompt": "hello", "echo": true"#;
    let whole = json(post(&app, "/v1/completions", &format!("{body}}}")).await).await;
    assert_eq!(whole["choices"][0]["text"], "hello world");
    let streamed = post(
        &app,
        "/v1/completions",
        &format!(r#"{body}, "stream": true}}"#),
    )
    .await;
    let (chunks, _) = events(streamed).await;
    let text: String = chunks
        .iter()
        .map(|c| c["choices"][0]["text"].as_str().unwrap())
        .collect();
    assert_eq!(text, "hello world");
    assert_eq!(
        chunks.last().unwrap()["choices"][0]["finish_reason"],
        "stop"
    );
}

#[tokio::test]
async fn log_probabilities_have_both_shapes() {
    let (app, engine) = app(Script::Say("hé"));
    let body = hello(r#""logprobs": true, "top_logprobs": 2"#);
    let answer = json(post(&app, "/v1/chat/completions", &body).await).await;
    let content = answer["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap();
    let bytes: Vec<u8> = content
        .iter()
        .flat_map(|entry| entry["bytes"].as_array().unwrap())
        .map(|byte| u8::try_from(byte.as_u64().unwrap()).unwrap())
        .collect();
    assert_eq!(String::from_utf8(bytes).unwrap(), "hé");
    assert_eq!(content[0]["logprob"], -0.25);
    assert_eq!(content[0]["top_logprobs"].as_array().unwrap().len(), 2);
    assert_eq!(engine.take()[0].sampling.logprobs, Some(2));

    let body = r#"{"model": "tiny", "prompt": "a", "logprobs": 1}"#;
    let answer = json(post(&app, "/v1/completions", body).await).await;
    let logprobs = &answer["choices"][0]["logprobs"];
    for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(
            logprobs[list].as_array().unwrap().len(),
            content.len(),
            "{list}"
        );
    }
    assert_eq!(logprobs["text_offset"][0], 0);

    let plain =
        json(post(&app, "/v1/chat/completions", &hello(r#""logprobs": false"#)).await).await;
    assert_eq!(plain["choices"][0]["logprobs"], Value::Null);
}

#[tokio::test]
async fn a_stop_string_ends_the_choice_and_cancels_the_sequence() {
    let (app, engine) = app(Script::Say("one two three"));
    let whole = post(&app, "/v1/chat/completions", &hello(r#""stop": "two""#)).await;
    let choice = json(whole).await["choices"][0].take();
    assert_eq!(choice["message"]["content"], "one ");
    assert_eq!(choice["finish_reason"], "stop");
    assert_eq!(
        engine.cancelled().last(),
        engine.take().first().map(|request| &request.id)
    );

    let more = r#""stop": ["x", "two"], "stream": true"#;
    let (chunks, done) = events(post(&app, "/v1/chat/completions", &hello(more)).await).await;
    let deltas = chunks
        .iter()
        .filter_map(|c| c["choices"][0]["delta"]["content"].as_str());
    assert_eq!(deltas.collect::<String>(), "one ");
    assert_eq!(
        chunks.last().unwrap()["choices"][0]["finish_reason"],
        "stop"
    );
    assert!(done);
    assert_eq!(
        engine.cancelled().last(),
        engine.take().first().map(|request| &request.id)
    );
}

#[tokio::test]
async fn an_engine_error_is_a_500_or_the_last_event() {
    let (app, _) = app(Script::Fail("half"));
    let response = post(&app, "/v1/chat/completions", HELLO).await;
    assert_eq!(response.status(), 500);
    assert_eq!(json(response).await["error"]["message"], "rank 1 died");
    let (chunks, done) =
        events(post(&app, "/v1/chat/completions", &hello(r#""stream": true"#)).await).await;
    assert!(!done);
    assert_eq!(chunks.last().unwrap()["error"]["code"], "engine_error");
}

#[tokio::test]
async fn models_are_listed_by_their_served_names() {
    let (app, _) = app(Script::Hold);
    let list = json(get(&app, "/v1/models").await).await;
    assert_eq!(list["object"], "list");
    let ids: Vec<_> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["id"].clone())
        .collect();
    assert_eq!(ids, ["tiny", "org/tiny"]);
    let card = json(get(&app, "/v1/models/org/tiny").await).await;
    assert_eq!(
        (&card["id"], &card["object"]),
        (&json!("org/tiny"), &json!("model"))
    );
    assert_eq!(card["max_model_len"], 512);
    let missing = get(&app, "/v1/models/gpt").await;
    assert_eq!(missing.status(), 404);
}

#[tokio::test]
async fn text_is_tokenized_and_back() {
    let (app, _) = app(Script::Hold);
    let body = r#"{"model": "tiny", "prompt": "hello <|im_end|>", "return_token_strs": true}"#;
    let answer = json(post(&app, "/tokenize", body).await).await;
    let tokens = answer["tokens"].as_array().unwrap();
    assert_eq!(answer["count"], tokens.len());
    assert_eq!(answer["max_model_len"], 512);
    assert_eq!(answer["token_strs"].as_array().unwrap().len(), tokens.len());
    let body = format!(r#"{{"tokens": {}}}"#, answer["tokens"]);
    let back = json(post(&app, "/detokenize", &body).await).await;
    assert_eq!(back["prompt"], "hello <|im_end|>");
    let chat = r#"{"messages": [{"role": "user", "content": "hi"}]}"#;
    assert!(
        json(post(&app, "/tokenize", chat).await).await["count"]
            .as_u64()
            .unwrap()
            > 2
    );
}
