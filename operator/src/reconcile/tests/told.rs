//! Passes that tell an engine, over a real socket, what it should do.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::Uri;
use axum::routing::{get, put};
use plimsoll_crds::names;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::resizes::with_pod;
use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// An engine that was told generation 3, hears, and follows nothing: it says what it is told.
async fn engine() -> (String, mpsc::Receiver<(String, Value)>) {
    // Every engine has the same port, so each process of tests has an address of its own.
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let ip = format!("127.{}.{b}.{c}", 1 + a % 250);
    let (calls, told) = mpsc::channel(16);
    let take = async move |uri: Uri, body: Bytes| {
        let body: Value = serde_json::from_slice(&body).unwrap();
        let mut answer = json!({"outcome": "Deferred", "overageBytes": 0});
        answer["generation"] = body["generation"].clone();
        calls.send((uri.path().to_owned(), body)).await.unwrap();
        answer.to_string()
    };
    let watch = async || {
        let line = serde_json::to_string(&report(300)).unwrap() + "\n";
        let first = futures::stream::iter([Ok::<_, std::convert::Infallible>(line)]);
        Body::from_stream(futures::StreamExt::chain(first, futures::stream::pending()))
    };
    let router = Router::new()
        .route("/memory/watch", get(watch))
        .route("/target", put(take.clone()))
        .route("/target/sleep", put(take));
    let listener = tokio::net::TcpListener::bind((ip.as_str(), names::PORT_ADMIN)).await;
    let listener = listener.expect("the address is this process's");
    tokio::spawn(async move { axum::serve(listener, router).await });
    (ip, told)
}

/// Passes until the engine was told something.
async fn until_told(
    story: &mut Story,
    told: &mut mpsc::Receiver<(String, Value)>,
) -> (String, Value) {
    let passes = async {
        loop {
            // Whether the rest of it goes well is the test's matter.
            let _ = story.pass().await;
            if let Ok(call) = told.try_recv() {
                return call;
            }
        }
    };
    timeout(PATIENCE, passes).await.expect("it is told")
}

/// Whatever becomes of the rest: a spec that is refused, a file that cannot be written.
#[tokio::test]
async fn an_engine_is_told_its_target_and_where_that_is_not_its_own_its_sleep_alone() {
    let (mut story, _) = with_pod(SMOLLM2).await;
    let (ip, mut told) = engine().await;
    story
        .cluster
        .edit("pods/a", |pod| pod["status"]["podIP"] = json!(ip));
    let sleep = |object: &mut InferenceDeployment| {
        object.spec.sleep = Some(serde_json::from_value(json!({"state": "Sleeping"})).unwrap());
    };
    story.ask(sleep);
    let (path, body) = until_told(&mut story, &mut told).await;
    assert_eq!((path.as_str(), &body["generation"]), ("/target", &json!(4)));
    assert!(body["ranks"].is_array(), "{body}");
    // Refused: it is told the sleep alone, and its answer counts: once.
    story.quotas(["1Mi", "1Mi"]);
    let (path, body) = until_told(&mut story, &mut told).await;
    let alone = |generation| json!({"generation": generation, "sleep": {"level": 1}});
    assert_eq!((path.as_str(), body), ("/target/sleep", alone(5)));
    for _ in 0..3 {
        story.pass().await.unwrap();
    }
    assert!(told.try_recv().is_err(), "it answered");
    // The file cannot be written, nor anything else be done.
    story.cluster.refuse(|asked| {
        let refused = asked.starts_with("apply") || asked.starts_with("scale");
        refused.then(|| (500, failure(500, "no")))
    });
    story.ask(|object| object.spec.sleep.as_mut().unwrap().level = 2);
    let (path, body) = until_told(&mut story, &mut told).await;
    let deep = json!({"generation": 6, "sleep": {"level": 2}});
    assert_eq!((path.as_str(), body), ("/target/sleep", deep));
    assert!(
        story.pass().await.is_err(),
        "the file is still to be written"
    );
    // It fits again: the whole target, once its file is there.
    story.quotas(["300Mi", "700Mi"]);
    assert!(story.pass().await.is_err());
    assert!(told.try_recv().is_err(), "the file comes first");
    story.cluster.refuse(|_| None);
    let (path, body) = until_told(&mut story, &mut told).await;
    assert_eq!((path.as_str(), &body["generation"]), ("/target", &json!(7)));
}
