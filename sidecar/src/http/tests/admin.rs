//! The admin port: its token, and what a check of the weights tells.

use super::*;
use crate::engine::handle::EngineState;
use crate::http::admin;
use crate::http::app::HttpLimits;
use crate::http::testing::{Script, app, empty_app};
use crate::http::token::Token;

async fn admin_answer(
    app: &Arc<App>,
    path: &str,
    token: Option<&str>,
    header: Option<&str>,
) -> Response {
    use hyper::service::Service;
    let mut request = Request::builder().uri(path);
    if let Some(header) = header {
        request = request.header("authorization", header);
    }
    let router = admin::router(Arc::clone(app), token.map(Token::fixed));
    let service = hyper_util::service::TowerToHyperService::new(router);
    let request = request.body(Body::empty()).unwrap();
    service.call(request).await.unwrap()
}

async fn admin_get(app: &Arc<App>, token: Option<&str>, header: Option<&str>) -> u16 {
    let memory = admin_answer(app, "/memory", token, header).await.status();
    let weights = admin_answer(app, "/weight_checker", token, header).await;
    assert_eq!(weights.status(), memory, "{header:?}");
    memory.as_u16()
}

#[tokio::test]
async fn weights_that_changed_are_told_per_rank_with_some_names() {
    let (app, engine) = app(Script::Hold);
    let check = || admin_answer(&app, "/weight_checker", None, None);
    let told = json(check().await).await;
    assert_eq!(told["unchanged"], false);
    assert_eq!(
        told["ranks"][0],
        serde_json::json!({"rank": 0, "tensors": 3, "bytes": 700, "unchanged": true,
            "checksum": "00000000000000ab", "changed": []})
    );
    assert_eq!(told["ranks"][1]["unchanged"], false);
    assert_eq!(told["ranks"][1]["changed"].as_array().unwrap().len(), 16);
    for (state, code) in [
        (EngineState::Loading, "model_loading"),
        (EngineState::Drained, "engine_ended"),
    ] {
        engine.state.send_replace(state);
        let response = check().await;
        assert_eq!(response.status(), 503);
        assert_eq!(json(response).await["error"]["code"], code);
    }
    let empty = empty_app(HttpLimits::default());
    let response = admin_answer(&empty, "/weight_checker", None, None).await;
    assert_eq!(response.status(), 503);
}

#[tokio::test]
async fn the_admin_port_wants_its_token() {
    let (app, _) = app(Script::Hold);
    let token = Some("s3cret");
    assert_eq!(admin_get(&app, token, None).await, 401);
    for (header, status) in [
        ("Bearer s3cret", 200),
        ("bearer s3cret", 200),
        ("Bearer s3cre", 401),
        ("Bearer s3cret2", 401),
        ("Basic s3cret", 401),
        ("s3cret", 401),
        ("Bearer ", 401),
    ] {
        assert_eq!(
            admin_get(&app, token, Some(header)).await,
            status,
            "{header}"
        );
    }
    assert_eq!(admin_get(&app, None, None).await, 200);
}

#[tokio::test]
async fn one_check_of_the_weights_runs_at_a_time() {
    use hyper::service::Service;
    let (app, engine) = app(Script::Hold);
    engine.state.send_replace(EngineState::Draining);
    let router = admin::router(Arc::clone(&app), None);
    let check = || {
        let service = hyper_util::service::TowerToHyperService::new(router.clone());
        let request = Request::builder().uri("/weight_checker");
        service.call(request.body(Body::empty()).unwrap())
    };
    let first = tokio::spawn(check());
    let mut waiting = engine.take_commands();
    while waiting.is_empty() {
        tokio::task::yield_now().await;
        waiting = engine.take_commands();
    }
    let second = check().await.unwrap();
    assert_eq!(second.status(), 429);
    assert!(second.headers().contains_key("retry-after"));
    assert_eq!(json(second).await["error"]["code"], "check_under_way");
    drop(waiting);
    assert_eq!(first.await.unwrap().unwrap().status(), 503);
}

#[tokio::test]
async fn a_check_that_nobody_answers_ends_and_lets_the_next_one_in() {
    let (app, engine) = app(Script::Hold);
    engine.state.send_replace(EngineState::Draining);
    let router = admin::router(Arc::clone(&app), None);
    for _ in 0..2 {
        use hyper::service::Service;
        let service = hyper_util::service::TowerToHyperService::new(router.clone());
        let request = Request::builder().uri("/weight_checker");
        let check = service.call(request.body(Body::empty()).unwrap());
        let limit = std::time::Duration::from_secs(20);
        let answer = tokio::time::timeout(limit, check).await;
        let answer = answer.expect("the check ends").unwrap();
        assert_eq!(answer.status(), 503);
        let error = json(answer).await["error"].take();
        assert_eq!(error["code"], "check_timed_out");
        assert!(
            error["message"].as_str().unwrap().contains("0.3 s"),
            "{error}"
        );
    }
    // Nobody waits for these any more: an engine that comes to them leaves them.
    assert!(
        engine
            .take_commands()
            .iter()
            .all(|check| check.is_unheard())
    );
}
