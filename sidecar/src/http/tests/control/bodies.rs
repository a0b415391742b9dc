//! Bodies of control routes over a socket: cut off, badly framed, too large, stalled, with a field twice.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::*;
use crate::args::ControlApi;
use crate::http::api_router;
use crate::http::testing::app_with;
use crate::http::tests::connections::{listen, read_until};
use crate::http::tests::quota::told_app;

async fn begin(address: SocketAddr, method: &str, path: &str, rest: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head =
        format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{rest}");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

const ROUTES: [(&str, &str); 4] = [
    ("POST", "/v1/load_lora_adapter"),
    ("POST", "/update_weights"),
    ("POST", "/quota"),
    ("PUT", "/target"),
];

#[tokio::test]
async fn a_body_that_breaks_off_or_is_framed_badly_is_told_so_and_a_large_one_is_not_waited_for() {
    let (app, _) = told_app();
    let (address, _stop) = listen(admin::router(Arc::clone(&app), None), app.limits).await;
    for (method, path) in ROUTES {
        for (rest, ends, status, says) in [
            (
                "content-length: 900\r\n\r\n{",
                true,
                "400",
                "could not be read",
            ),
            (
                "transfer-encoding: chunked\r\n\r\n2\r\n{}\r\nzz\r\n",
                false,
                "400",
                "could not be read",
            ),
            (
                "content-length: 99999999\r\n\r\n",
                false,
                "413",
                "larger than",
            ),
        ] {
            let mut stream = begin(address, method, path, rest).await;
            if ends {
                stream.shutdown().await.unwrap();
            }
            let told = read_until(&mut stream, says).await;
            let what = format!("{method} {path} {rest:?}: {told}");
            assert!(told.starts_with(&format!("HTTP/1.1 {status}")), "{what}");
        }
    }
}

/// Connections whose bodies stall hold all places: who comes then is answered, and the first of them told.
#[tokio::test]
async fn a_stalled_body_of_a_control_route_makes_way_for_others() {
    let limits = HttpLimits {
        connections: 2,
        ..HttpLimits::default()
    };
    let (app, _) = app_with(Script::Say("x"), limits);
    let router = api_router(Arc::clone(&app), &[], ControlApi::Loopback);
    let (address, _stop) = listen(router, limits).await;
    let stall = "content-length: 900\r\n\r\n{";
    let mut stalled = Vec::new();
    for path in ["/v1/load_lora_adapter", "/start_weight_update"] {
        stalled.push(begin(address, "POST", path, stall).await);
    }
    let mut asked = begin(address, "GET", "/v1/models", "\r\n").await;
    let answered = read_until(&mut asked, "\"tiny\"");
    let within = tokio::time::timeout(Duration::from_secs(15), answered).await;
    within.expect("who waits gets a place");
    let told = read_until(&mut stalled[0], "this body takes long").await;
    assert!(told.starts_with("HTTP/1.1 503"), "{told}");
}

#[tokio::test]
async fn a_field_that_is_there_twice_is_refused_by_name() {
    let (app, engine) = told_app();
    for (path, body) in [
        (
            "/v1/load_lora_adapter",
            r#"{"lora_name": "a", "lora_path": "/x", "lora_name": "b"}"#,
        ),
        (
            "/update_weights",
            r#"{"update_info": {"path": "/a", "path": "/b"}}"#,
        ),
        (
            "/quota",
            r#"{"ranks": [{"rank": 0, "rank": 0, "limit": "1Gi"}]}"#,
        ),
        (
            "/abort_requests",
            r#"{"request_ids": ["a"], "request_ids": null}"#,
        ),
    ] {
        let (status, told) = control(&app, "POST", path, body).await;
        assert_eq!(status, 400, "{path}: {told}");
        assert!(told.contains("is there twice"), "{path}: {told}");
    }
    assert!(engine.obeyed().is_empty());
    let body = r#"{"model": "tiny", "prompt": "a", "prompt": "b"}"#;
    let answer = post(&app, "/v1/completions", body).await;
    assert_eq!(answer.status(), 400);
    let told = text(answer).await;
    assert!(
        told.contains(r#"the field \"prompt\" is there twice"#),
        "{told}"
    );
}
