//! Over a socket: disconnects, slow readers, streams that go on, the end.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::*;
use crate::engine::handle::EngineState;
use crate::engine::request::{FinishReason, TokenEvent};
use crate::http::app::HttpLimits;
use crate::http::places::Places;
use crate::http::testing::{Script, Scripted, app, app_with, finished};
use crate::http::{admin, server};

fn router(app: Arc<App>) -> axum::Router {
    crate::http::router(app, &[])
}

const WAIT: Duration = Duration::from_secs(20);

pub(super) async fn listen(
    router: axum::Router,
    limits: HttpLimits,
) -> (SocketAddr, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopping) = watch::channel(false);
    let places = Places::new(limits.connections);
    tokio::spawn(server::serve(listener, router, limits, places, stopping));
    (address, stop)
}

pub(super) async fn ask(address: SocketAddr, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// Polls until `claim` holds.
pub(super) async fn until(what: &str, claim: impl Fn() -> bool) {
    let waited = tokio::time::timeout(WAIT, async {
        while !claim() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}: not within {WAIT:?}");
}

pub(super) async fn read_until(stream: &mut TcpStream, part: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains(part) {
        let read = tokio::time::timeout(WAIT, stream.read(&mut buffer)).await;
        assert!(read.is_ok(), "no {part:?} in {text:?}");
        let read = read.unwrap().unwrap();
        assert_ne!(read, 0, "the end came before {part:?}: {text:?}");
        text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    text
}

async fn disconnect_cancels(more: &str) {
    let (app, engine) = app(Script::Hold);
    let (address, _stop) = listen(router(Arc::clone(&app)), app.limits).await;
    let body = format!(r#"{{"model": "tiny", "prompt": "a", "n": 2{more}}}"#);
    let stream = ask(address, &body).await;
    until("both sequences are submitted", || engine.taken() == 2).await;
    assert!(engine.cancelled().is_empty());
    drop(stream);
    until("both sequences are cancelled", || {
        engine.cancelled().len() == 2
    })
    .await;
    assert!(
        app.scrape()
            .contains(r#"finished_reason="abort",model_name="tiny"} 2"#)
    );
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_sequences() {
    disconnect_cancels("").await;
    disconnect_cancels(r#", "stream": true"#).await;
}

fn say(engine: &Scripted, ids: &[u32]) {
    // The requests stay where they are: their senders must live.
    for request in engine.take() {
        for (index, id) in (0..).zip(ids) {
            let token = TokenEvent::Token {
                index,
                id: *id,
                logprob: None,
            };
            request.events.try_send(token).unwrap();
        }
        request
            .events
            .try_send(finished(FinishReason::Length, 1, ids.len()))
            .unwrap();
    }
}

#[tokio::test]
async fn a_reader_that_stops_reading_is_cut_off() {
    let limits = HttpLimits {
        write_timeout: Duration::from_millis(300),
        ..HttpLimits::default()
    };
    let (app, engine) = app_with(Script::Hold, limits);
    let (address, _stop) = listen(router(Arc::clone(&app)), limits).await;
    // Enough chunks to fill every buffer between us: 200 choices of 500 tokens.
    let body = r#"{"model": "tiny", "prompt": [[5],[5],[5],[5],[5],[5],[5],[5],[5],[5],
        [5],[5],[5],[5],[5],[5],[5],[5],[5],[5],[5],[5],[5],[5],[5]],
        "n": 8, "max_tokens": 500, "stream": true}"#;
    let stream = ask(address, body).await;
    until("all sequences are submitted", || engine.taken() == 200).await;
    let tokens: Vec<u32> = vec![40; 400];
    let requests = engine.take();
    for request in &requests {
        for (index, id) in (0..).zip(&tokens) {
            let token = TokenEvent::Token {
                index,
                id: *id,
                logprob: None,
            };
            request.events.try_send(token).unwrap();
        }
    }
    until("the sequences are cancelled", || {
        engine.cancelled().len() == 200
    })
    .await;
    drop(stream);
}

#[tokio::test]
async fn requests_in_flight_end_before_the_server_does() {
    let (app, engine) = app(Script::Hold);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopping) = watch::channel(false);
    let server = tokio::spawn(server::serve(
        listener,
        router(Arc::clone(&app)),
        app.limits,
        Places::new(4),
        stopping,
    ));
    let mut stream = ask(address, r#"{"model": "tiny", "prompt": "a"}"#).await;
    until("the request is submitted", || engine.taken() == 1).await;
    stop.send(true).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!server.is_finished());
    say(&engine, &[40]);
    let answer = read_until(&mut stream, "finish_reason").await;
    assert!(
        answer.contains("200 OK") && answer.contains("\"length\""),
        "{answer}"
    );
    drop(stream);
    tokio::time::timeout(WAIT, server).await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn headers_that_never_end_are_cut_off() {
    let limits = HttpLimits {
        header_timeout: Duration::from_millis(100),
        ..HttpLimits::default()
    };
    let (app, _) = app_with(Script::Hold, limits);
    let (address, _stop) = listen(router(app), limits).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET /livez HTTP/1.1\r\nx: ")
        .await
        .unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(WAIT, stream.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_body_that_never_comes_is_408() {
    let limits = HttpLimits {
        body_timeout: Duration::from_millis(100),
        ..HttpLimits::default()
    };
    let (app, _) = app_with(Script::Hold, limits);
    let (address, _stop) = listen(router(app), limits).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\
                 content-type: application/json\r\n\r\n{";
    stream.write_all(head).await.unwrap();
    assert!(
        read_until(&mut stream, "request_timeout")
            .await
            .contains("408")
    );
}

#[tokio::test]
async fn watchers_hear_of_states_at_once_and_are_bounded() {
    let limits = HttpLimits {
        watchers: 1,
        ..HttpLimits::default()
    };
    let (app, engine) = app_with(Script::Hold, limits);
    let (address, _stop) = listen(admin::router(app, None), limits).await;
    let watch = "GET /memory/watch HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut first = TcpStream::connect(address).await.unwrap();
    first.write_all(watch.as_bytes()).await.unwrap();
    let head = read_until(&mut first, "\"state\":\"Serving\"").await;
    assert!(head.contains("application/x-ndjson"), "{head}");
    let mut second = TcpStream::connect(address).await.unwrap();
    second.write_all(watch.as_bytes()).await.unwrap();
    let refused = read_until(&mut second, "too_many_watchers").await;
    assert!(
        refused.contains("429") && refused.contains("retry-after"),
        "{refused}"
    );
    engine.state.send_replace(EngineState::Draining);
    read_until(&mut first, "\"state\":\"Draining\"").await;
}
