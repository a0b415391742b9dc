//! The control routes over the scripted engine: bodies, codes and commands, route by route; bad
//! parameters; states in which nothing can be done; and who may use them without a token.

mod access;
mod bodies;
mod lora;
mod push;
mod push_ended;
mod sglang;
mod update;
mod vllm;

use super::*;
use crate::engine::handle::EngineState;
use crate::engine::request::FinishReason;
use crate::http::admin;
use crate::http::app::HttpLimits;
use crate::http::testing::{Script, app, empty_app, finished};

async fn control(app: &Arc<App>, method: &str, path: &str, body: &str) -> (u16, String) {
    use hyper::service::Service;
    let request = Request::builder().method(method).uri(path);
    let request = request.body(Body::from(body.to_owned())).unwrap();
    let router = admin::router(Arc::clone(app), None);
    let service = hyper_util::service::TowerToHyperService::new(router);
    let response = service.call(request).await.unwrap();
    (response.status().as_u16(), text(response).await)
}

/// Method, path, body; then status, answer, and what the engine was told.
type Case<'a> = (&'a str, &'a str, &'a str, u16, Value, &'a [&'a str]);

async fn check(app: &Arc<App>, engine: &crate::http::testing::Scripted, cases: &[Case<'_>]) {
    for (method, path, body, status, expected, commands) in cases {
        let (got, answer) = control(app, method, path, body).await;
        let what = format!("{method} {path} {body}: {answer}");
        assert_eq!(got, *status, "{what}");
        assert_eq!(engine.obeyed(), *commands, "{what}");
        let answer: Value = serde_json::from_str(&answer).unwrap_or(Value::Null);
        match answer["error"]["param"].is_string() {
            true => assert_eq!(answer["error"]["param"], *expected, "{what}"),
            false => assert_eq!(answer, *expected, "{what}"),
        }
    }
}

#[tokio::test]
async fn every_route_says_why_it_can_do_nothing_now() {
    let (app, engine) = app(Script::Hold);
    let posts = [
        "/sleep",
        "/wake_up",
        "/pause",
        "/resume",
        "/reset_prefix_cache",
        "/release_kv_cache_memory",
        "/release_memory_occupation",
        "/resume_memory_occupation",
        "/pause_generation",
        "/continue_generation",
        "/flush_cache",
    ];
    let empty = empty_app(HttpLimits::default());
    let failed = EngineState::Failed {
        message: "rank 1 died".into(),
    };
    for path in posts {
        let (status, answer) = control(&empty, "POST", path, "").await;
        assert_eq!(status, 503, "{path}: {answer}");
        assert!(answer.contains("model_loading"), "{path}: {answer}");
        for (state, code) in [
            (EngineState::Loading, "model_loading"),
            (EngineState::Drained, "engine_ended"),
            (failed.clone(), "engine_"),
        ] {
            engine.state.send_replace(state);
            let (status, answer) = control(&app, "POST", path, "").await;
            assert_eq!(status, 503, "{path}: {answer}");
            assert!(answer.contains(code), "{path}: {answer}");
        }
    }
    for path in [
        "/is_sleeping",
        "/is_paused",
        "/get_world_size",
        "/server_info",
    ] {
        assert_eq!(control(&empty, "GET", path, "").await.0, 503, "{path}");
        assert_eq!(control(&app, "GET", path, "").await.0, 200, "{path}");
    }
    engine.state.send_replace(EngineState::Asleep);
    let (status, answer) = control(&app, "GET", "/health_generate", "").await;
    assert_eq!(status, 503, "{answer}");
    assert!(answer.contains("engine_asleep"), "{answer}");
}

/// A request is aborted by the id of its answer, and its client is told so as vLLM tells it.
#[tokio::test]
async fn an_answer_is_aborted_by_its_id_and_what_there_is_of_it_is_sent() {
    let (app, engine) = app(Script::Hold);
    let asked = {
        let app = Arc::clone(&app);
        let body = r#"{"model": "tiny", "prompt": "x", "request_id": "mine"}"#;
        tokio::spawn(async move { post(&app, "/v1/completions", body).await })
    };
    while engine.taken() == 0 {
        tokio::task::yield_now().await;
    }
    for (ids, aborted) in [(r#"["other"]"#, 0), (r#"["mine", "other"]"#, 1)] {
        let body = format!(r#"{{"request_ids": {ids}}}"#);
        // The name is entered a moment after the engine has the request.
        let mut answer = control(&app, "POST", "/abort_requests", &body).await;
        while aborted == 1 && answer.1.contains(":0}") {
            tokio::task::yield_now().await;
            answer = control(&app, "POST", "/abort_requests", &body).await;
        }
        assert_eq!(
            answer.1,
            format!(r#"{{"aborted":{aborted},"status":"aborted"}}"#)
        );
    }
    let requests = engine.take();
    let ended = finished(FinishReason::Abort, 1, 0);
    requests[0].events.try_send(ended).unwrap();
    let answer = asked.await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(json(answer).await["choices"][0]["finish_reason"], "abort");
}
