//! What is refused, with which status, code and headers; and what works in which state.

use std::time::Duration;

use super::*;
use crate::engine::handle::EngineState;
use crate::engine::request::Refused;
use crate::engine::rest::RestView;
use crate::http::app::HttpLimits;
use crate::http::testing::{Script, app, app_with, empty_app};

const HELLO: &str = r#"{"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}"#;
const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn bad_requests_get_openais_error_shape_and_reach_no_engine() {
    let (app, engine) = app(Script::Say("never"));
    let long = format!(
        r#"{{"model": "tiny", "prompt": {:?}}}"#,
        "word ".repeat(600)
    );
    for (path, body, status, code, part) in [
        (CHAT, "{", 400, "invalid_json", "line 1 column 1"),
        (CHAT, "", 400, "", "empty"),
        (
            CHAT,
            r#"{"model": "gpt-4"}"#,
            404,
            "model_not_found",
            "\"gpt-4\" does not exist; served",
        ),
        (
            CHAT,
            r#"{"model": "tiny", "messages": []}"#,
            400,
            "",
            "the list is empty",
        ),
        (
            "/v1/completions",
            r#"{"model": "tiny"}"#,
            400,
            "",
            "prompt: missing",
        ),
        (
            "/v1/completions",
            r#"{"model": "tiny", "prompt": [999]}"#,
            400,
            "",
            "0 to 514",
        ),
        (
            "/v1/completions",
            r#"{"model": "tiny", "prompt": ""}"#,
            400,
            "",
            "no tokens",
        ),
        (
            "/v1/completions",
            &long,
            400,
            "context_length_exceeded",
            "maximum context length is 512",
        ),
        (
            "/v1/completions",
            r#"{"model": "tiny", "prompt": "a", "max_tokens": 0}"#,
            400,
            "",
            "0 needs echo",
        ),
        (
            CHAT,
            r#"{"model": "tiny", "messages": [{"role": "user", "content": "a"}], "top_logprobs": 3}"#,
            400,
            "",
            "needs logprobs=true",
        ),
        (
            CHAT,
            r#"{"model": "tiny", "messages": [{"role": "user", "content": "a"}], "tools": [{}]}"#,
            400,
            "unsupported_parameter",
            "tools",
        ),
        ("/v1/embeddings", "{}", 404, "not_found", "/v1/embeddings"),
        (
            "/detokenize",
            r#"{"tokens": [-1]}"#,
            400,
            "",
            "tokens[0]: -1",
        ),
        ("/tokenize", r#"{}"#, 400, "", "prompt: missing"),
        (
            "/tokenize",
            r#"{"prompt": "a", "add_generation_prompt": true}"#,
            400,
            "unsupported_parameter",
            "add_generation_prompt",
        ),
        (
            "/detokenize",
            r#"{"tokens": [5], "skip_special_tokens": true}"#,
            400,
            "unsupported_parameter",
            "skip_special_tokens",
        ),
    ] {
        let response = post(&app, path, body).await;
        assert_eq!(response.status(), status, "{body:.80}");
        let error = json(response).await["error"].take();
        assert_eq!(error["type"], "invalid_request_error");
        assert_eq!(error["code"].as_str().unwrap_or(""), code, "{body:.80}");
        assert!(error.get("param").is_some());
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(part), "{body:.80}: {message}");
    }
    assert_eq!(get(&app, CHAT).await.status(), 405);
    assert_eq!(engine.taken(), 0);
}

#[tokio::test]
async fn a_text_that_cannot_fit_is_refused_before_it_is_tokenized() {
    let (app, _) = app(Script::Say("never"));
    let most = app.peek().unwrap().longest_text;
    let text = "x".repeat(most + 1);
    let chat =
        format!(r#"{{"model": "tiny", "messages": [{{"role": "user", "content": "{text}"}}]}}"#);
    let prompt = format!(r#"{{"model": "tiny", "prompt": "{text}"}}"#);
    for (path, body) in [
        (CHAT, &chat),
        ("/v1/completions", &prompt),
        ("/tokenize", &prompt),
    ] {
        let response = post(&app, path, body).await;
        assert_eq!(response.status(), 400);
        let error = json(response).await["error"].take();
        assert_eq!(error["code"], "context_length_exceeded");
        let message = error["message"].as_str().unwrap();
        assert!(
            message.contains(&format!("at most {most} bytes")),
            "{message}"
        );
    }
}

#[tokio::test]
async fn a_full_queue_is_429_with_retry_after() {
    let refused = Refused::QueueFull {
        waiting: 9,
        limit: 9,
        retry_after: Duration::from_secs(7),
    };
    let (app, _) = app(Script::Refuse(refused));
    let response = post(&app, CHAT, HELLO).await;
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["retry-after"], "7");
    let error = json(response).await["error"].take();
    assert_eq!(
        (&error["type"], &error["code"]),
        (&"rate_limit_error".into(), &"queue_full".into())
    );
    assert!(app.scrape().contains(r#"status="429"} 1"#));
}

#[tokio::test]
async fn states_decide_who_answers() {
    let app = empty_app(HttpLimits::default());
    assert_eq!(get(&app, "/livez").await.status(), 200);
    for path in ["/readyz", "/health"] {
        let response = get(&app, path).await;
        assert_eq!(response.status(), 503, "{path}");
        assert!(response.headers().contains_key("retry-after"));
    }
    assert_eq!(post(&app, CHAT, HELLO).await.status(), 503);
    assert!(
        text(get(&app, "/metrics").await)
            .await
            .contains(r#"state="loading"} 1"#)
    );
    assert_eq!(get(&app, "/version").await.status(), 200);
    assert_eq!(get(&app, "/v1/models").await.status(), 200);

    let (app, engine) = crate::http::testing::app(Script::Say("ok"));
    for (state, livez, readyz, health, code) in [
        (EngineState::Loading, 200, 503, 503, "model_loading"),
        (EngineState::Serving, 200, 200, 200, ""),
        (EngineState::Resizing, 200, 200, 200, ""),
        (EngineState::Draining, 200, 503, 200, "draining"),
        (EngineState::Asleep, 200, 503, 200, "engine_asleep"),
        (
            EngineState::Failed {
                message: "rank 1 died".into(),
            },
            503,
            503,
            503,
            "engine_failed",
        ),
    ] {
        engine.state.send_replace(state.clone());
        assert_eq!(get(&app, "/livez").await.status(), livez, "{state:?}");
        assert_eq!(get(&app, "/readyz").await.status(), readyz, "{state:?}");
        assert_eq!(get(&app, "/health").await.status(), health, "{state:?}");
        let answer = post(&app, CHAT, HELLO).await;
        assert_eq!(answer.status(), readyz, "{state:?}");
        if !code.is_empty() {
            assert_eq!(json(answer).await["error"]["code"], code);
        }
    }
    // Requests are taken and held, and no service leads here.
    for state in [
        EngineState::Paused,
        EngineState::Sleeping,
        EngineState::Waking,
    ] {
        engine.state.send_replace(state.clone());
        let probe = get(&app, "/readyz").await;
        assert_eq!(probe.status(), 503, "{state:?}");
        assert!(probe.headers().contains_key("retry-after"));
        assert_eq!(json(probe).await["error"]["code"], "engine_paused");
        for (path, status) in [("/livez", 200), ("/health", 200)] {
            assert_eq!(get(&app, path).await.status(), status, "{path} {state:?}");
        }
        assert_eq!(post(&app, CHAT, HELLO).await.status(), 200, "{state:?}");
    }
    engine.state.send_replace(EngineState::Serving);
    // Requests are computed before the last of the memory is there.
    engine.set_rest(RestView {
        filling: true,
        ..RestView::default()
    });
    let probe = get(&app, "/readyz").await;
    assert_eq!(probe.status(), 503);
    assert_eq!(json(probe).await["error"]["code"], "memory_pending");
    assert_eq!(get(&app, "/health").await.status(), 200);
    let started = "/health?memory=whole";
    assert_eq!(get(&app, started).await.status(), 503);
    assert_eq!(post(&app, CHAT, HELLO).await.status(), 200);
    engine.set_rest(RestView::default());
    assert_eq!(get(&app, started).await.status(), 200);
    assert_eq!(get(&app, "/readyz").await.status(), 200);
    app.set_draining();
    assert_eq!(get(&app, "/readyz").await.status(), 503);
    assert_eq!(post(&app, CHAT, HELLO).await.status(), 503);
}

#[tokio::test]
async fn a_body_over_the_limit_is_413() {
    let limits = HttpLimits {
        body_bytes: 1000,
        ..HttpLimits::default()
    };
    let (app, _) = app_with(Script::Say("ok"), limits);
    let response = post(&app, CHAT, &"x".repeat(5000)).await;
    assert_eq!(response.status(), 413);
    assert!(text(response).await.contains("1000 bytes"));
    assert_eq!(post(&app, CHAT, HELLO).await.status(), 200);
}

mod any_body {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;

    const FIELDS: [&str; 30] = [
        "min_tokens",
        "stop_token_ids",
        "skip_special_tokens",
        "add_generation_prompt",
        "add_special_tokens",
        "chat_template_kwargs",
        "model",
        "messages",
        "prompt",
        "n",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "stop",
        "seed",
        "stream",
        "stream_options",
        "logprobs",
        "top_logprobs",
        "echo",
        "tokens",
        "logit_bias",
        "response_format",
        "best_of",
        "user",
        "cache_salt",
        "x",
    ];

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-2.0..3.0).prop_map(Value::from),
            (0..20).prop_map(Value::from),
            "[a-z <|>]{0,12}".prop_map(Value::from),
            Just(json!([{"role": "user", "content": "hi"}])),
            Just(json!("tiny")),
        ];
        leaf.prop_recursive(2, 12, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec(("[a-z]{1,8}", inner), 0..3)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn is_answered_or_refused_with_a_reason(
            fields in proptest::collection::vec((0..FIELDS.len(), value()), 0..6),
            valid in any::<bool>(),
        ) {
            let mut body = Map::new();
            if valid {
                body.insert("model".into(), json!("tiny"));
                body.insert("prompt".into(), json!("a"));
                body.insert("messages".into(), json!([{"role": "user", "content": "hi"}]));
            }
            body.extend(fields.into_iter().map(|(at, value)| (FIELDS[at].to_owned(), value)));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                let (app, _) = app(Script::Say("ok"));
                for (path, foreign) in [
                    (CHAT, "prompt"),
                    ("/v1/completions", "messages"),
                    ("/tokenize", "messages"),
                    ("/detokenize", "prompt"),
                ] {
                    let mut body = body.clone();
                    body.remove(foreign);
                    let body = Value::Object(body).to_string();
                    let response = post(&app, path, &body).await;
                    let status = response.status().as_u16();
                    let text = text(response).await;
                    assert!(matches!(status, 200 | 400 | 404), "{path} {body}: {status} {text}");
                    if status != 200 {
                        let error: Value = serde_json::from_str(&text).unwrap();
                        assert!(!error["error"]["message"].as_str().unwrap().is_empty());
                    }
                }
            });
        }
    }
}
