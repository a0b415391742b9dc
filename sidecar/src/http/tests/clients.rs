//! What clients send every day: stops, lengths, log-probabilities, prompts that are scored.

use serde_json::json;

use super::*;
use crate::engine::request::{FinishReason, TokenEvent, TokenLogprobs};
use crate::http::testing::{EOS, Script, app, app_recommending, finished};

/// A chat with more fields.
fn hello(more: &str) -> String {
    format!(r#"{{"messages": [{{"role": "user", "content": "hi"}}], {more}}}"#)
}

#[tokio::test]
async fn a_prompt_takes_what_the_context_leaves_and_any_spelling_of_the_model() {
    let (app, engine) = app(Script::Say("ok"));
    for (path, more, most) in [
        ("/v1/completions", r#""prompt": [5, 6]"#, 16),
        (
            "/v1/completions",
            r#""prompt": [5, 6], "max_tokens": 2.0"#,
            2,
        ),
        (
            "/v1/completions",
            r#""prompt": [5, 6], "max_tokens": -1"#,
            510,
        ),
        (
            "/v1/completions",
            r#""prompt": [5, 6], "max_tokens": 511"#,
            510,
        ),
        (
            "/v1/completions",
            r#""prompt": [5, 6], "max_tokens": 100000"#,
            510,
        ),
    ] {
        for model in [
            "",
            r#""model": "tiny", "#,
            r#""model": "", "#,
            r#""model": null, "#,
        ] {
            let response = post(&app, path, &format!("{{{model}{more}}}")).await;
            assert_eq!(response.status(), 200, "{model}{more}");
            assert_eq!(json(response).await["model"], "tiny");
            assert_eq!(engine.take()[0].max_tokens, most, "{more}");
        }
    }
}

/// As transformers has it: `max_new_tokens` is for who does not say. OpenAI's completions have a
/// default of their own.
#[tokio::test]
async fn a_models_own_length_counts_for_chats_that_do_not_say() {
    let (app, engine) = app_recommending(Script::Say("ok"), 40);
    let chat = "/v1/chat/completions";
    let room = 512 - {
        assert_eq!(post(&app, chat, &hello(r#""seed": 1"#)).await.status(), 200);
        let request = engine.take().remove(0);
        assert_eq!(request.max_tokens, 40);
        u32::try_from(request.prompt.len()).unwrap()
    };
    for (more, most) in [
        (r#""max_tokens": 100"#, 100),
        (r#""max_completion_tokens": 3"#, 3),
        (r#""max_tokens": -1"#, room),
    ] {
        assert_eq!(post(&app, chat, &hello(more)).await.status(), 200);
        assert_eq!(engine.take()[0].max_tokens, most, "{more}");
    }
    let body = r#"{"prompt": [5, 6]}"#;
    assert_eq!(post(&app, "/v1/completions", body).await.status(), 200);
    assert_eq!(engine.take()[0].max_tokens, 16);
}

#[tokio::test]
async fn a_stop_may_be_a_special_token_or_its_id() {
    let (app, engine) = app(Script::Say("one<|im_start|> two"));
    for (more, content, reason) in [
        ("", "one two", "stop"),
        (
            r#", "skip_special_tokens": false"#,
            "one<|im_start|> two",
            "stop",
        ),
        (r#", "stop": "<|im_start|>""#, "one", "stop"),
        (
            r#", "stop": "<|im_start|>", "include_stop_str_in_output": true"#,
            "one<|im_start|>",
            "stop",
        ),
    ] {
        let body = format!(r#"{{"prompt": "a", "max_tokens": 20{more}}}"#);
        let choice = json(post(&app, "/v1/completions", &body).await).await["choices"][0].take();
        assert_eq!(choice["text"], content, "{more}");
        assert_eq!(choice["finish_reason"], reason, "{more}");
    }
    engine.take();
    let body = r#"{"prompt": "a", "stop_token_ids": [1, 9]"#;
    post(&app, "/v1/completions", &format!("{body}}}")).await;
    assert_eq!(engine.take()[0].eos, [1, 9, EOS]);
    post(
        &app,
        "/v1/completions",
        &format!(r#"{body}, "ignore_eos": true}}"#),
    )
    .await;
    assert_eq!(engine.take()[0].eos, [1, 9]);
}

#[tokio::test]
async fn a_chat_may_end_where_its_last_message_does() {
    let (app, engine) = app(Script::Say("ok"));
    let path = "/v1/chat/completions";
    post(&app, path, &hello(r#""add_generation_prompt": false"#)).await;
    let loaded = app.peek().unwrap();
    let prompt = loaded.tokenizer.decode(&engine.take()[0].prompt, false);
    assert_eq!(prompt, "<|im_start|>user\nhi<|im_end|>\n");
    let chat = r#"{"messages": [{"role": "user", "content": "hi"}], "add_special_tokens": true,
        "add_generation_prompt": false, "return_token_strs": true, "model": ""}"#;
    let tokens = json(post(&app, "/tokenize", chat).await).await;
    assert_eq!(tokens["token_strs"][0], "<|im_start|>");
}

#[tokio::test]
async fn tokens_that_are_parts_of_characters_have_a_key_each() {
    let (app, engine) = app(Script::Hold);
    let body = r#"{"prompt": "x", "max_tokens": 1, "temperature": 0, "logprobs": 5"#;
    for (more, expected) in [
        ("", ["bytes:\\xf0", "bytes:\\xe2", "bytes:\\xc3", "a", "b"]),
        (
            r#", "return_tokens_as_token_ids": true"#,
            [
                "token_id:F0",
                "token_id:E2",
                "token_id:C3",
                "token_id:a",
                "token_id:b",
            ],
        ),
    ] {
        let (asking, text) = (Arc::clone(&app), format!("{body}{more}}}"));
        let answer = tokio::spawn(async move { post(&asking, "/v1/completions", &text).await });
        while engine.taken() == 0 {
            tokio::task::yield_now().await;
        }
        let tokenizer = &app.peek().unwrap().tokenizer;
        let id = |bytes: &[u8]| {
            (0..515)
                .find(|id| tokenizer.token_bytes(*id) == bytes)
                .unwrap()
        };
        let best = [&[0xf0][..], &[0xe2], &[0xc3], b"a", b"b"].map(id);
        let top = best
            .iter()
            .zip(1u8..)
            .map(|(id, rank)| (*id, -f32::from(rank)));
        let request = engine.take().remove(0);
        let logprob = Some(TokenLogprobs {
            logprob: -1.0,
            top: top.collect(),
        });
        let (index, id) = (0, best[0]);
        let token = TokenEvent::Token { index, id, logprob };
        request.events.try_send(token).unwrap();
        let end = finished(FinishReason::Length, 1, 1);
        request.events.try_send(end).unwrap();
        let logprobs = json(answer.await.unwrap()).await["choices"][0]["logprobs"].take();
        let keys = logprobs["top_logprobs"][0].as_object().unwrap();
        let names = ["F0", "E2", "C3", "a", "b"];
        let expected = expected.map(|key| match key.strip_prefix("token_id:") {
            Some(name) => {
                let at = names.iter().position(|other| *other == name).unwrap();
                format!("token_id:{}", best[at])
            }
            None => key.to_owned(),
        });
        assert_eq!(keys.len(), 5, "{keys:?}");
        for (key, rank) in expected.iter().zip(1..) {
            assert_eq!(keys[key], -f64::from(rank), "{key}");
        }
        assert_eq!(logprobs["tokens"][0], expected[0]);
    }
}

#[tokio::test]
async fn chunks_that_tell_of_no_token_have_no_lists_and_may_tell_the_usage() {
    let (app, _) = app(Script::Say("ab"));
    let body = r#"{"prompt": "a", "stream": true, "logprobs": 1, "stream_options":
        {"include_usage": true, "continuous_usage_stats": true}}"#;
    let (mut chunks, _) = events(post(&app, "/v1/completions", body).await).await;
    let (usage, end) = (chunks.pop().unwrap(), chunks.pop().unwrap());
    assert_eq!(end["choices"][0]["finish_reason"], "stop");
    assert_eq!(end["choices"][0]["logprobs"], Value::Null);
    assert!(!chunks.is_empty());
    for chunk in &chunks {
        assert!(
            !chunk["choices"][0]["logprobs"]["tokens"][0].is_null(),
            "{chunk}"
        );
        assert!(chunk["usage"]["completion_tokens"].as_u64() > Some(0));
    }
    assert_eq!(usage["choices"], json!([]));
    let chat = hello(r#""stream": true, "logprobs": true"#);
    let (chunks, _) = events(post(&app, "/v1/chat/completions", &chat).await).await;
    for choice in chunks.iter().map(|chunk| &chunk["choices"][0]) {
        let tokens = choice["logprobs"]["content"].as_array();
        assert!(tokens.is_none_or(|tokens| !tokens.is_empty()), "{choice}");
    }
}

#[tokio::test]
async fn a_prompt_is_scored_as_lm_eval_reads_it() {
    let (app, engine) = app(Script::Say("ab"));
    let prompt = r#""prompt": [5, 6, 7, 8], "echo": true, "logprobs": 1"#;
    for (max_tokens, stream) in [(0usize, false), (1, false), (1, true), (4, false)] {
        let body = format!(r#"{{{prompt}, "max_tokens": {max_tokens}, "stream": {stream}}}"#);
        let response = post(&app, "/v1/completions", &body).await;
        assert_eq!(response.status(), 200);
        let logprobs = match stream {
            true => events(response).await.0[0]["choices"][0]["logprobs"].take(),
            false => {
                let answer = json(response).await;
                let reason = if max_tokens < 4 { "length" } else { "stop" };
                assert_eq!(answer["choices"][0]["finish_reason"], reason);
                assert_eq!(answer["usage"]["prompt_tokens"], 4);
                let text = answer["choices"][0]["text"].as_str().unwrap();
                let tokenizer = &app.peek().unwrap().tokenizer;
                let expected = tokenizer.decode(&[5, 6, 7, 8], false);
                assert!(text.starts_with(&expected), "{text}");
                assert_eq!(max_tokens == 0, text == expected);
                answer["choices"][0]["logprobs"].clone()
            }
        };
        let request = engine.take().remove(0);
        assert_eq!(
            (request.prompt_logprobs, request.max_tokens as usize),
            (Some(1), max_tokens)
        );
        // What lm-eval sums: all tokens of the context but its own prompt, less the generated one.
        let own = logprobs["token_logprobs"].as_array().unwrap();
        let ids = app
            .peek()
            .unwrap()
            .tokenizer
            .encode("ab", false)
            .unwrap()
            .len();
        // The end of sequence counts: it was generated.
        assert_eq!(own.len(), 4 + max_tokens.min(ids + 1));
        assert_eq!(
            own[..4],
            [json!(null), json!(-1.0), json!(-2.0), json!(-3.0)]
        );
        let top = logprobs["top_logprobs"].as_array().unwrap();
        assert!(top[0].is_null());
        for (token, top) in logprobs["tokens"]
            .as_array()
            .unwrap()
            .iter()
            .zip(top)
            .skip(1)
        {
            assert!(top[token.as_str().unwrap()].is_number(), "{token} {top}");
        }
        assert!(
            logprobs["text_offset"]
                .as_array()
                .unwrap()
                .is_sorted_by(|a, b| { a.as_u64() <= b.as_u64() })
        );
    }
}

#[tokio::test]
async fn biases_and_least_lengths_reach_the_engine() {
    let (app, engine) = app(Script::Say("ok"));
    let more = r#""logit_bias": {"7": 5, "3": -100}, "min_tokens": 3, "max_tokens": 9"#;
    post(&app, "/v1/chat/completions", &hello(more)).await;
    let request = engine.take().remove(0);
    assert_eq!(request.bias, [(3, -100.0), (7, 5.0)]);
    assert_eq!((request.min_tokens, request.prompt_logprobs), (3, None));
}
