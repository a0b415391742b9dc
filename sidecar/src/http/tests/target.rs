//! `/target` of the admin port.

use std::time::Duration;

use super::*;
use crate::http::admin;
use crate::http::app::HttpLimits;
use crate::http::testing::empty_app;
use crate::target::{Held, tests::target};

async fn ask(app: &Arc<App>, method: &str, body: Body) -> (u16, Value) {
    use hyper::service::Service;
    let service =
        hyper_util::service::TowerToHyperService::new(admin::router(Arc::clone(app), None));
    let request = Request::builder().method(method).uri("/target").body(body);
    let response = service.call(request.unwrap()).await.unwrap();
    (response.status().as_u16(), json(response).await)
}

async fn put(app: &Arc<App>, target: &impl serde::Serialize) -> (u16, Value) {
    let body = serde_json::to_string(target).unwrap();
    ask(app, "PUT", Body::from(body)).await
}

fn told_app() -> Arc<App> {
    let app = empty_app(HttpLimits {
        body_timeout: Duration::from_millis(50),
        ..HttpLimits::default()
    });
    app.identity.target.set(Held::new(target(3, 1000))).unwrap();
    app
}

#[tokio::test]
async fn a_target_is_answered_with_what_became_of_it_and_reports_repeat_that() {
    let app = told_app();
    let (status, answer) = put(&app, &target(4, 1000)).await;
    assert_eq!((status, &answer["outcome"]), (200, &"Applied".into()));
    assert_eq!(answer["generation"], 4);
    assert_eq!(answer["overageBytes"], 0);
    let (status, answer) = put(&app, &target(5, 2000)).await;
    assert_eq!((status, &answer["outcome"]), (200, &"Refused".into()));
    let words = answer["message"].as_str().unwrap();
    assert!(words.contains("needs a restart"), "{words}");
    assert_eq!(ask(&app, "GET", Body::empty()).await, (200, answer.clone()));
    let report = serde_json::to_value(app.report()).unwrap();
    assert_eq!(report["target"], answer);
    let (status, error) = put(&app, &target(4, 1000)).await;
    assert_eq!(
        (status, &error["error"]["code"]),
        (409, &"older_target".into())
    );
    assert_eq!(ask(&app, "GET", Body::empty()).await, (200, answer));
}

#[tokio::test]
async fn what_is_no_target_changes_nothing() {
    let app = told_app();
    let mut newer = serde_json::to_value(target(4, 1000)).unwrap();
    newer["sleep"] = 1.into();
    for (body, part) in [
        (Body::empty(), "no target: EOF"),
        (Body::from("{"), "no target: EOF"),
        (Body::from("[]"), "no target"),
        (Body::from(newer.to_string()), "unknown field `sleep`"),
    ] {
        let (status, error) = ask(&app, "PUT", body).await;
        let message = error["error"]["message"].as_str().unwrap();
        assert_eq!(status, 400, "{part}");
        assert!(message.contains(part), "{part}: {message}");
    }
    let large = " ".repeat(65 * 1024);
    assert_eq!(ask(&app, "PUT", Body::from(large)).await.0, 413);
    let never = futures::stream::pending::<Result<Vec<u8>, std::io::Error>>();
    assert_eq!(ask(&app, "PUT", Body::from_stream(never)).await.0, 408);
    assert_eq!(ask(&app, "POST", Body::empty()).await.0, 405);
    assert_eq!(ask(&app, "GET", Body::empty()).await.1["generation"], 3);
}

#[tokio::test]
async fn an_engine_without_a_target_says_why() {
    let opening = empty_app(HttpLimits::default());
    let (status, error) = put(&opening, &target(1, 1000)).await;
    assert_eq!(
        (status, &error["error"]["code"]),
        (503, &"model_loading".into())
    );
    assert_eq!(opening.report().target, None);
    let mut by_flags = empty_app(HttpLimits::default());
    Arc::get_mut(&mut by_flags)
        .unwrap()
        .identity
        .revision
        .clear();
    let (status, error) = put(&by_flags, &target(1, 1000)).await;
    assert_eq!(
        (status, &error["error"]["code"]),
        (404, &"no_target".into())
    );
}
