//! What a web page can make a visitor's browser do to a server on the visitor's own machine.

use axum::http::{HeaderMap, HeaderValue};

use super::*;
use crate::http::testing::{Script, app};

const CHAT: &str = "/v1/chat/completions";
const PAGE: &str = "https://page.example.org";

/// Sends a request as a browser does for a page of [`PAGE`], to a server that allows `origins`.
async fn send(
    app: &Arc<App>,
    origins: &[&'static str],
    request: axum::http::request::Builder,
    body: &str,
) -> Response {
    use hyper::service::Service;
    let origins: Vec<_> = origins
        .iter()
        .map(|o| HeaderValue::from_static(o))
        .collect();
    let router = crate::http::router(Arc::clone(app), &origins);
    let request = request.header("origin", PAGE);
    let request = request.body(Body::from(body.to_owned())).unwrap();
    let service = hyper_util::service::TowerToHyperService::new(router);
    service.call(request).await.unwrap()
}

fn preflight() -> axum::http::request::Builder {
    Request::builder()
        .method("OPTIONS")
        .uri(CHAT)
        .header("access-control-request-method", "POST")
        .header(
            "access-control-request-headers",
            "authorization,content-type",
        )
}

fn allowed<'a>(headers: &'a HeaderMap, what: &str) -> Option<&'a str> {
    let name = format!("access-control-allow-{what}");
    headers.get(name).map(|value| value.to_str().unwrap())
}

/// The types that a browser sends to other sites without asking, and no type at all.
#[tokio::test]
async fn only_what_says_that_it_is_json_is_taken() {
    let (app, engine) = app(Script::Say("ok"));
    let chat = r#"{"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}"#;
    for path in [CHAT, "/v1/completions", "/tokenize", "/detokenize"] {
        for kind in [
            "text/plain",
            "text/plain; charset=application/json",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/jsonp",
            "",
        ] {
            let request = Request::builder().method("POST").uri(path);
            let request = request.header("content-type", kind);
            let response = send(&app, &[], request, chat).await;
            assert_eq!(response.status(), 415, "{path} {kind}");
            let error = json(response).await["error"].take();
            assert_eq!(error["code"], "unsupported_media_type");
            let message = error["message"].as_str().unwrap();
            assert!(
                message.contains("Content-Type: application/json"),
                "{message}"
            );
        }
        let request = Request::builder().method("POST").uri(path);
        assert_eq!(send(&app, &[], request, chat).await.status(), 415, "none");
    }
    assert_eq!(engine.taken(), 0);
    for kind in ["application/json", "Application/JSON; charset=utf-8"] {
        let request = Request::builder().method("POST").uri(CHAT);
        let request = request.header("content-type", kind);
        assert_eq!(send(&app, &[], request, chat).await.status(), 200, "{kind}");
    }
}

#[tokio::test]
async fn a_browser_hears_no_yes_unless_the_origin_was_named() {
    let (app, _) = app(Script::Say("ok"));
    for origins in [&[][..], &["https://other.example.org"]] {
        let response = send(&app, origins, preflight(), "").await;
        assert_eq!(allowed(response.headers(), "origin"), None);
        let models = Request::builder().uri("/v1/models");
        let response = send(&app, origins, models, "").await;
        assert_eq!(response.status(), 200);
        assert_eq!(allowed(response.headers(), "origin"), None);
    }
}

#[tokio::test]
async fn pages_of_named_origins_may_call_and_read() {
    let (app, _) = app(Script::Say("ok"));
    for (origins, answer) in [
        (&["https://other.example.org", PAGE][..], PAGE),
        (&["*"], "*"),
    ] {
        let response = send(&app, origins, preflight(), "").await;
        assert!(response.status().is_success());
        let headers = response.headers();
        assert_eq!(allowed(headers, "origin"), Some(answer));
        assert_eq!(
            allowed(headers, "headers"),
            Some("authorization,content-type")
        );
        assert!(allowed(headers, "methods").unwrap().contains("POST"));
        assert_eq!(allowed(headers, "credentials"), None);
        // Refusals can be read too.
        let request = Request::builder().method("POST").uri(CHAT);
        let request = request.header("content-type", "application/json");
        let response = send(&app, origins, request, "{}").await;
        assert_eq!(response.status(), 400);
        assert_eq!(allowed(response.headers(), "origin"), Some(answer));
    }
}
