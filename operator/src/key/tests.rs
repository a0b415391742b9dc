//! The key against a small API server that has one Secret or none.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use kube::client::ClientBuilder;
use serde_json::{Value, json};

use super::*;
use crate::mandate::Mandate;

#[derive(Default)]
struct Server {
    secret: Option<Value>,
    requests: Vec<String>,
}

async fn answer(
    State(server): State<Arc<Mutex<Server>>>,
    method: Method,
    uri: Uri,
    body: String,
) -> Response {
    let mut server = server.lock().unwrap();
    server.requests.push(format!("{method} {}", uri.path()));
    let status = |code: u16, reason: &str| {
        let body = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason,
            "reason": reason, "code": code,
        });
        (StatusCode::from_u16(code).unwrap(), body.to_string()).into_response()
    };
    match (method, &server.secret) {
        (Method::GET, Some(secret)) => secret.to_string().into_response(),
        (Method::GET, None) => status(404, "NotFound"),
        (Method::POST, Some(_)) => status(409, "AlreadyExists"),
        (Method::POST, None) => {
            server.secret = Some(serde_json::from_str(&body).unwrap());
            body.into_response()
        }
        _ => status(405, "MethodNotAllowed"),
    }
}

async fn source(secret: Option<Value>, make: bool) -> (KeySource, Arc<Mutex<Server>>) {
    guarded(secret, make, &Mandate::forever()).await
}

/// A source whose client writes with a mandate only.
async fn guarded(
    secret: Option<Value>,
    make: bool,
    mandate: &Mandate,
) -> (KeySource, Arc<Mutex<Server>>) {
    let server = Arc::new(Mutex::new(Server {
        secret,
        requests: Vec::new(),
    }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new()
        .fallback(answer)
        .with_state(Arc::clone(&server));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let builder = ClientBuilder::try_from(kube::Config::new(uri.parse().unwrap())).unwrap();
    let client = builder.with_layer(&mandate.layer()).build();
    let source = KeySource::Secret {
        secrets: Box::new(Api::namespaced(client, "system")),
        name: "plimsoll-key".to_owned(),
        make,
    };
    (source, server)
}

fn secret(key: &str) -> Value {
    let data = serde_json::to_value(ByteString(key.as_bytes().to_vec())).unwrap();
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "plimsoll-key"},
        "data": {"key": data},
    })
}

#[tokio::test]
async fn a_key_that_is_not_there_is_made_once_and_then_read() {
    let (source, server) = source(None, true).await;
    let (key, first) = source.read().await.unwrap();
    let (again, second) = source.read().await.unwrap();
    assert_eq!(first, second);
    assert_eq!(key.token("uid"), again.token("uid"));
    let server = server.lock().unwrap();
    let made = server.secret.as_ref().unwrap();
    assert_eq!(made["type"], "Opaque");
    let requests: Vec<&str> = server.requests.iter().map(String::as_str).collect();
    let get = "GET /api/v1/namespaces/system/secrets/plimsoll-key";
    let post = "POST /api/v1/namespaces/system/secrets";
    assert_eq!(requests, [get, post, get, get]);
}

#[tokio::test]
async fn a_key_of_somebodys_is_taken_as_it_is_and_a_short_one_refused() {
    let (source, _) = source_of(secret("a key that somebody made")).await;
    let (key, _) = source.read().await.unwrap();
    let same = AdminKey::new(b"a key that somebody made".to_vec()).unwrap();
    assert_eq!(key.token("uid"), same.token("uid"));
    let (short, _) = source_of(secret("short")).await;
    let refused = short.read().await.unwrap_err().to_string();
    assert!(
        refused.contains("--key-secret plimsoll-key: 5 bytes"),
        "{refused}"
    );
}

async fn source_of(secret: Value) -> (KeySource, Arc<Mutex<Server>>) {
    source(Some(secret), false).await
}

#[tokio::test]
async fn one_that_is_not_to_be_made_is_not() {
    let (source, server) = source(None, false).await;
    let refused = source.make().await.unwrap_err();
    assert!(refused.contains("--make-key=false"), "{refused}");
    assert!(server.lock().unwrap().secret.is_none());
    assert!(!source.makes());
}

#[tokio::test]
async fn a_key_that_was_replaced_or_deleted_is_told_from_the_same() {
    let (source, server) = source(Some(secret("a key that somebody made")), true).await;
    let (_, known) = source.read().await.unwrap();
    let same = source.found().await.unwrap().unwrap();
    assert_eq!(fingerprint(&same), known);
    server.lock().unwrap().secret = Some(secret("another key that is as long"));
    let other = source.found().await.unwrap().unwrap();
    assert_ne!(fingerprint(&other), known);
    server.lock().unwrap().secret = None;
    assert_eq!(source.found().await.unwrap(), None);
}

#[tokio::test]
async fn without_a_mandate_no_write_leaves_the_client_and_reads_do() {
    let mandate = Mandate::none();
    let (source, server) = guarded(None, true, &mandate).await;
    assert_eq!(source.found().await.unwrap(), None);
    let refused = source.make().await.unwrap_err();
    assert!(refused.contains("does not hold the Lease"), "{refused}");
    assert_eq!(server.lock().unwrap().requests.len(), 1, "only the read");
    mandate.extend(tokio::time::Instant::now() + Duration::from_secs(60));
    source.make().await.unwrap();
    assert!(server.lock().unwrap().secret.is_some());
}
