//! The HTTP layer over the scripted engine: answers, streams, refusals, disconnects.

mod admin;
mod answers;
mod browsers;
mod chats;
mod clients;
mod connections;
mod control;
mod hostile;
mod idle;
mod listed;
mod quota;
mod refusals;
mod target;
mod unsent;

use std::sync::Arc;

use axum::body::Body;
use axum::http::Request;
use axum::response::Response;
use serde_json::Value;

use super::app::App;

/// Sends one request to the API router, without a socket.
async fn send(app: &Arc<App>, method: &str, path: &str, body: &str) -> Response {
    use hyper::service::Service;
    let request = Request::builder().method(method).uri(path);
    let request = request.header("content-type", "application/json");
    let request = request.body(Body::from(body.to_owned())).unwrap();
    let service =
        hyper_util::service::TowerToHyperService::new(super::router(Arc::clone(app), &[]));
    service.call(request).await.unwrap()
}

async fn post(app: &Arc<App>, path: &str, body: &str) -> Response {
    send(app, "POST", path, body).await
}

async fn get(app: &Arc<App>, path: &str) -> Response {
    send(app, "GET", path, "").await
}

async fn text(response: Response) -> String {
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 24)
        .await
        .unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn json(response: Response) -> Value {
    serde_json::from_str(&text(response).await).unwrap()
}

/// The payloads of a stream's events, and whether it ended with `[DONE]`.
async fn events(response: Response) -> (Vec<Value>, bool) {
    let text = text(response).await;
    let mut payloads: Vec<&str> = text
        .split("\n\n")
        .filter(|event| !event.is_empty())
        .map(|event| event.strip_prefix("data: ").unwrap())
        .collect();
    let done = payloads.pop_if(|last| *last == "[DONE]").is_some();
    (
        payloads
            .into_iter()
            .map(|payload| serde_json::from_str(payload).unwrap())
            .collect(),
        done,
    )
}
