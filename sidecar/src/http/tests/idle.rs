//! Requests that come to an engine that sleeps: they wait for it, within bounds, and probes wake nobody.

use std::time::Duration;

use super::*;
use crate::engine::clock::IdlePolicy;
use crate::engine::handle::EngineState;
use crate::engine::request::FinishReason;
use crate::engine::rest::{Cause, RestView, SleepLevel};
use crate::http::admin;
use crate::http::app::HttpLimits;
use crate::http::target::lead;
use crate::http::testing::{Script, Scripted, app, app_with, finished};
use crate::target::Held;
use crate::target::tests::{asleep, idle, target};
use plimsoll_planner::Account;

const HELLO: &str = r#"{"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}"#;
const STREAM: &str =
    r#"{"model": "tiny", "stream": true, "messages": [{"role": "user", "content": "hi"}]}"#;
const CHAT: &str = "/v1/chat/completions";

pub(super) fn falls_asleep(engine: &Scripted, reachable: bool) {
    engine.set_rest(RestView {
        level: Some(SleepLevel::One),
        cause: Some(Cause::Idle),
        reachable,
        out: vec![Account::KvCache],
        ..RestView::default()
    });
    engine.state.send_replace(EngineState::Asleep);
}

async fn ask(app: &Arc<App>, body: &'static str) -> tokio::task::JoinHandle<Response> {
    let app = Arc::clone(app);
    tokio::spawn(async move { post(&app, CHAT, body).await })
}

pub(super) async fn until(done: impl Fn() -> bool) {
    while !done() {
        tokio::task::yield_now().await;
    }
}

async fn admin_status(app: &Arc<App>, path: &str) -> u16 {
    use hyper::service::Service;
    let service =
        hyper_util::service::TowerToHyperService::new(admin::router(Arc::clone(app), None));
    let request = Request::builder().uri(path).body(Body::empty());
    let response = service.call(request.unwrap()).await.unwrap();
    response.status().as_u16()
}

#[tokio::test]
async fn a_sleeper_that_wakes_for_requests_is_ready_and_whoever_only_looks_wakes_nobody() {
    let (app, engine) = app(Script::Hold);
    for (reachable, ready) in [(false, 503), (true, 200)] {
        falls_asleep(&engine, reachable);
        for (path, status) in [
            ("/livez", 200),
            ("/readyz", ready),
            ("/health", 200),
            ("/metrics", 200),
            ("/v1/models", 200),
            ("/version", 200),
        ] {
            let answer = get(&app, path).await;
            assert_eq!(answer.status(), status, "{path}, reachable {reachable}");
        }
        let tokens = r#"{"model": "tiny", "prompt": "hi"}"#;
        assert_eq!(post(&app, "/tokenize", tokens).await.status(), 200);
        assert_eq!(admin_status(&app, "/health_generate").await, ready);
        assert_eq!(admin_status(&app, "/is_sleeping").await, 200);
        assert_eq!(admin_status(&app, "/memory").await, 200);
    }
    // On the way out of it, too.
    engine.state.send_replace(EngineState::Waking);
    assert_eq!(get(&app, "/readyz").await.status(), 200);
    assert_eq!(admin_status(&app, "/health_generate").await, 200);
    assert_eq!((engine.taken(), engine.obeyed().len()), (0, 0));
}

#[tokio::test]
async fn requests_wait_for_the_wake_and_are_answered_then() {
    let (app, engine) = app(Script::Hold);
    falls_asleep(&engine, true);
    let all = [ask(&app, HELLO).await, ask(&app, STREAM).await];
    until(|| engine.taken() == 2).await;
    engine.state.send_replace(EngineState::Waking);
    tokio::task::yield_now().await;
    // Not even a stream has begun.
    assert!(all.iter().all(|one| !one.is_finished()));
    engine.state.send_replace(EngineState::Serving);
    for request in engine.take() {
        let end = finished(FinishReason::Length, 1, 0);
        request.events.try_send(end).unwrap();
    }
    for one in all {
        let answer = one.await.unwrap();
        assert_eq!(answer.status(), 200);
        text(answer).await;
    }
    assert!(engine.cancelled().is_empty());
}

#[tokio::test]
async fn a_wake_that_fails_is_a_503_with_the_reason_streamed_or_not() {
    let (app, engine) = app(Script::Hold);
    falls_asleep(&engine, true);
    let all = [ask(&app, HELLO).await, ask(&app, STREAM).await];
    until(|| engine.taken() == 2).await;
    engine.set_rest(RestView {
        again_after: Some(Duration::from_secs(16)),
        trouble: "the memory is taken".to_owned(),
        ..RestView::default()
    });
    for request in engine.take() {
        let end = finished(FinishReason::NotWoken, 1, 0);
        request.events.try_send(end).unwrap();
    }
    let refused = |answer: Response| async {
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()["retry-after"], "16");
        let error = json(answer).await;
        assert_eq!(error["error"]["code"], "engine_asleep");
        let words = error["error"]["message"].as_str().unwrap().to_owned();
        assert!(words.contains("the memory is taken"), "{words}");
    };
    for one in all {
        refused(one.await.unwrap()).await;
    }
    // Who comes until it is tried again is told at once.
    refused(post(&app, CHAT, HELLO).await).await;
    assert_eq!(
        (get(&app, "/readyz").await.status(), engine.taken()),
        (503.try_into().unwrap(), 0)
    );
}

#[tokio::test]
async fn who_waited_long_enough_leaves_the_queue_with_a_503_and_so_does_who_hangs_up() {
    let limits = HttpLimits {
        wake_timeout: Duration::from_millis(20),
        ..HttpLimits::default()
    };
    let (app, engine) = app_with(Script::Hold, limits);
    falls_asleep(&engine, true);
    for body in [HELLO, STREAM] {
        let answer = post(&app, CHAT, body).await;
        assert_eq!(answer.status(), 503);
        assert!(answer.headers().contains_key("retry-after"));
        let error = json(answer).await;
        assert_eq!(error["error"]["code"], "engine_waking", "{error}");
    }
    let ids: Vec<u64> = engine.take().iter().map(|request| request.id).collect();
    assert_eq!(engine.cancelled(), ids);

    let (app, engine) = crate::http::testing::app(Script::Hold);
    falls_asleep(&engine, true);
    let one = ask(&app, HELLO).await;
    until(|| engine.taken() == 1).await;
    one.abort();
    assert!(one.await.unwrap_err().is_cancelled());
    let ids: Vec<u64> = engine.take().iter().map(|request| request.id).collect();
    assert_eq!(engine.cancelled(), ids);
}

/// The engine goes by what its newest target says, and is not commanded for it.
#[tokio::test]
async fn a_target_hands_its_engine_the_clock() {
    let (app, engine) = app(Script::Hold);
    let held = Held::new(idle(3, 90, false));
    lead(&app, &held);
    let clock = |seconds, wake_on_request| {
        let after = (Duration::from_secs(seconds), SleepLevel::One);
        Some(IdlePolicy {
            after: Some(after),
            wake_on_request,
        })
    };
    assert_eq!(engine.policy(), clock(90, false));
    app.identity.target.set(held).unwrap();
    let put = |target: plimsoll_crds::v1alpha1::Target| {
        let app = Arc::clone(&app);
        async move {
            use hyper::service::Service;
            let router = admin::router(app, None);
            let service = hyper_util::service::TowerToHyperService::new(router);
            let body = Body::from(serde_json::to_string(&target).unwrap());
            let request = Request::builder().method("PUT").uri("/target").body(body);
            json(service.call(request.unwrap()).await.unwrap()).await["outcome"].clone()
        }
    };
    assert_eq!(put(idle(4, 5, true)).await, "Applied");
    assert_eq!(engine.policy(), clock(5, true));
    assert!(engine.obeyed().is_empty());
    assert_eq!(put(asleep(5, 1)).await, "Deferred");
    assert_eq!(engine.policy(), Some(IdlePolicy::default()));
    until(|| !engine.obeyed().is_empty()).await;
    assert_eq!(put(target(6, 1000)).await, "Deferred");
}
