//! Answers that grow faster than they are sent: what they hold is bounded, and told.

use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncReadExt;

use super::connections::{ask, listen, read_until, until};
use super::*;
use crate::engine::request::{FinishReason, GenerateRequest, TokenEvent, TokenLogprobs};
use crate::http::testing::{Script, Scripted, app, app_holding, finished};

const KIB: usize = 1 << 10;
/// What each sequence takes at its start.
const SEQUENCE: usize = 16 * KIB;

fn body(more: &str) -> String {
    format!(r#"{{"model": "tiny", "prompt": "a", "max_tokens": 500{more}}}"#)
}

fn token(index: u32) -> TokenEvent {
    let top = (0..20u8).map(|rank| (40 + u32::from(rank), -f32::from(rank)));
    TokenEvent::Token {
        index,
        id: 40 + index % 3,
        logprob: Some(TokenLogprobs {
            logprob: -0.5,
            top: top.collect(),
        }),
    }
}

/// Tokens for the request until the engine would end it, at most 480; how many there were.
fn flood(request: &GenerateRequest) -> u32 {
    let takes = |index: &u32| request.events.try_send(token(*index)).is_ok();
    u32::try_from((0..480).take_while(takes).count()).unwrap()
}

async fn asked(app: &Arc<App>, engine: &Scripted, body: String) -> Asked {
    let asking = Arc::clone(app);
    let answer = tokio::spawn(async move { post(&asking, "/v1/completions", &body).await });
    until("the request is submitted", || engine.taken() > 0).await;
    Asked {
        answer,
        requests: engine.take(),
    }
}

struct Asked {
    answer: tokio::task::JoinHandle<Response>,
    requests: Vec<GenerateRequest>,
}

#[tokio::test]
async fn a_long_answer_with_log_probabilities_ends_at_its_budget_and_says_why() {
    let (app, engine) = app_holding(Script::Hold, SEQUENCE + 64 * KIB);
    let unsent = &app.peek().unwrap().unsent;
    let asked = asked(&app, &engine, body(r#", "logprobs": 20"#)).await;
    let tokens = flood(&asked.requests[0]);
    // A place in the queue, and twenty neighbours of eight bytes.
    assert!((100..300).contains(&tokens), "{tokens} tokens were taken");
    assert!(unsent.held() <= SEQUENCE + 64 * KIB);
    let response = asked.answer.await.unwrap();
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    let error = json(response).await["error"].take();
    assert_eq!(error["code"], "busy");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("81920 bytes") && message.contains("top_logprobs"),
        "{message}"
    );
    until("all is free again", || unsent.held() == 0).await;
}

#[tokio::test]
async fn what_an_echo_would_hold_is_refused_before_work_begins() {
    let ids = vec!["5"; 400].join(",");
    for (sequences, n, status) in [(10, 1, 200), (4, 1, 503), (6, 7, 503)] {
        let (app, engine) = app_holding(Script::Say("x"), sequences * SEQUENCE);
        let body = format!(
            r#"{{"model": "tiny", "prompt": [{ids}], "echo": true, "logprobs": 1, "n": {n}}}"#
        );
        let response = post(&app, "/v1/completions", &body).await;
        assert_eq!(response.status(), status, "n: {n}");
        assert_eq!(engine.taken() > 0, status == 200, "n: {n}");
        drop(response);
        assert_eq!(app.peek().unwrap().unsent.held(), 0);
    }
}

/// More than one piece of text: no length is told, and every token is there.
#[tokio::test]
async fn a_whole_answer_holds_its_bytes_until_it_is_sent_and_says_all() {
    let (app, engine) = app(Script::Hold);
    let unsent = &app.peek().unwrap().unsent;
    for (path, more) in [
        ("/v1/completions", r#""prompt": "a", "logprobs": 20"#),
        (
            "/v1/chat/completions",
            r#""messages": [{"role": "user", "content": "a"}], "logprobs": true,
               "top_logprobs": 20"#,
        ),
    ] {
        let body = format!(r#"{{"model": "tiny", "max_tokens": 300, "n": 2, {more}}}"#);
        let asking = Arc::clone(&app);
        let answer = tokio::spawn(async move { post(&asking, path, &body).await });
        until("both are submitted", || engine.taken() == 2).await;
        for request in engine.take() {
            for index in 0..300 {
                request.events.try_send(token(index)).unwrap();
            }
            let end = finished(FinishReason::Length, 1, 300);
            request.events.try_send(end).unwrap();
        }
        let response = answer.await.unwrap();
        assert!(!response.headers().contains_key("content-length"));
        assert!(unsent.held() > 2 * 300 * 200, "{}", unsent.held());
        let told = json(response).await;
        assert_eq!(unsent.held(), 0, "sent");
        for index in 0..2 {
            let choice = &told["choices"][index];
            assert_eq!(choice["index"], index);
            let logprobs = &choice["logprobs"];
            let (top, own) = match path.contains("chat") {
                false => {
                    assert_eq!(logprobs["text_offset"].as_array().unwrap().len(), 300);
                    assert_eq!(logprobs["tokens"].as_array().unwrap().len(), 300);
                    (&logprobs["top_logprobs"], &logprobs["token_logprobs"])
                }
                true => (&logprobs["content"], &logprobs["content"]),
            };
            assert_eq!(top.as_array().unwrap().len(), 300);
            assert_eq!(own.as_array().unwrap().len(), 300);
        }
        assert_eq!(told["usage"]["completion_tokens"], 600);
    }
}

#[tokio::test]
async fn a_short_answer_tells_its_length_and_any_text_is_json() {
    let text = "\"quoted\" \\ \n\t and ünïcode \u{1F600}";
    let (app, _) = app(Script::Say(text));
    let response = post(&app, "/v1/completions", &body("")).await;
    let length = response.headers()["content-length"]
        .to_str()
        .unwrap()
        .to_owned();
    let sent = super::text(response).await;
    assert_eq!(length, sent.len().to_string());
    let told: Value = serde_json::from_str(&sent).unwrap();
    assert_eq!(told["choices"][0]["text"], text);
    assert_eq!(told["choices"][0]["logprobs"], Value::Null);
}

/// One event never tells of more tokens than a client's buffer would like.
#[tokio::test]
async fn a_streamed_echo_comes_in_parts_that_make_up_the_whole() {
    let (app, _) = app(Script::Say(" world"));
    let ids = vec!["45"; 300].join(",");
    let body = format!(r#"{{"model": "tiny", "prompt": [{ids}], "echo": true, "logprobs": 1"#);
    let whole = json(post(&app, "/v1/completions", &format!("{body}}}")).await).await;
    let streamed = format!(r#"{body}, "stream": true}}"#);
    let (chunks, done) = events(post(&app, "/v1/completions", &streamed).await).await;
    assert!(done);
    let (mut text, mut tokens) = (String::new(), Vec::new());
    for chunk in &chunks {
        let choice = &chunk["choices"][0];
        text += choice["text"].as_str().unwrap();
        if let Some(list) = choice["logprobs"]["tokens"].as_array() {
            assert!(list.len() <= 8, "{} tokens in one event", list.len());
            tokens.extend(list.iter().cloned());
        }
    }
    assert_eq!(whole["choices"][0]["text"], text);
    assert_eq!(whole["choices"][0]["logprobs"]["tokens"], json!(tokens));
    assert_eq!(app.peek().unwrap().unsent.held(), 0);
}

/// A stream that its client does not read loses its connection to those who do.
#[tokio::test]
async fn a_stream_that_is_not_read_makes_way_for_the_others() {
    let (app, engine) = app_holding(Script::Hold, 8 * SEQUENCE + 256 * KIB);
    let unsent = Arc::clone(&app.peek().unwrap().unsent);
    let (address, _stop) = listen(crate::http::router(Arc::clone(&app), &[]), app.limits).await;
    let mut deaf = ask(
        address,
        &body(r#", "n": 4, "logprobs": 20, "stream": true"#),
    )
    .await;
    read_until(&mut deaf, "200 OK").await;
    until("it is submitted", || engine.taken() == 4).await;
    let requests = engine.take();
    let end = tokio::time::Instant::now() + Duration::from_secs(20);
    let mut index = 0;
    while engine.cancelled().len() < 4 {
        assert!(
            tokio::time::Instant::now() < end,
            "it still holds {}",
            unsent.held()
        );
        for request in &requests {
            // The engine ends who gets no room; then only its end is left to say.
            let _ = request.events.try_send(token(index));
        }
        index += 1;
        assert!(unsent.held() <= 8 * SEQUENCE + 256 * KIB);
        tokio::task::yield_now().await;
    }
    until("all is free again", || unsent.held() == 0).await;
    let mut honest = ask(address, &body("")).await;
    until("the honest one is submitted", || engine.taken() == 1).await;
    for request in engine.take() {
        request.events.try_send(token(0)).unwrap();
        request
            .events
            .try_send(finished(FinishReason::Length, 1, 1))
            .unwrap();
    }
    read_until(&mut honest, "finish_reason").await;
    // What was on its way arrives, and then the connection ends.
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(20), deaf.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the connection is still open");
}

/// Few bytes of ids are many of text, and a text is many ids.
#[tokio::test]
async fn answers_of_the_tokenizer_are_counted_until_they_are_sent() {
    let text = "it was the best of times; ".repeat(40);
    let tokenize = json!({"prompt": text, "return_token_strs": true}).to_string();
    let detokenize = json!({"tokens": vec![40; 500]}).to_string();
    for (path, body, needed) in [
        ("/tokenize", &tokenize, 20 * KIB),
        ("/detokenize", &detokenize, 4 * KIB),
    ] {
        let (app, _) = app_holding(Script::Hold, 1024 * KIB);
        let response = post(&app, path, body).await;
        assert_eq!(response.status(), 200);
        let unsent = &app.peek().unwrap().unsent;
        let sent = super::text(response);
        assert!(unsent.held() > 400, "{path}: {}", unsent.held());
        let held = unsent.held();
        assert_eq!(held, sent.await.len(), "{path}");
        assert_eq!(unsent.held(), 0);
        let (app, _) = app_holding(Script::Hold, needed);
        let refused = post(&app, path, body).await;
        assert_eq!(refused.status(), 503, "{path}");
        assert_eq!(json(refused).await["error"]["code"], "busy");
        assert_eq!(app.peek().unwrap().unsent.held(), 0);
    }
    let (app, _) = app(Script::Hold);
    let longer = json!({"tokens": vec![40; 513]}).to_string();
    assert_eq!(post(&app, "/detokenize", &longer).await.status(), 400);
}
