//! Clients that take and give nothing back, over a socket: what they hold, they lose to others.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::connections::{ask, listen, read_until, until};
use super::*;
use crate::http::app::HttpLimits;
use crate::http::testing::{Script, app, app_with};

fn places(connections: usize) -> HttpLimits {
    HttpLimits {
        connections,
        ..HttpLimits::default()
    }
}

async fn connect(address: SocketAddr, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

async fn is_open(stream: &mut TcpStream) -> bool {
    let mut bytes = [0; 4096];
    loop {
        let read = stream.read(&mut bytes);
        match tokio::time::timeout(Duration::from_millis(50), read).await {
            Err(_) => return true,
            Ok(Ok(0) | Err(_)) => return false,
            // The rest of an answer.
            Ok(Ok(_)) => {}
        }
    }
}

/// The head of a request whose body has `length` bytes, and `sent` of them.
fn begun(length: usize, sent: usize) -> String {
    format!(
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{}",
        " ".repeat(sent)
    )
}

#[tokio::test]
async fn idle_and_half_open_connections_make_way_and_busy_ones_stay() {
    let (app, engine) = app_with(Script::Hold, places(4));
    let (address, _stop) = listen(crate::http::router(Arc::clone(&app), &[]), app.limits).await;
    let mut busy = ask(address, r#"{"model": "tiny", "prompt": "a"}"#).await;
    until("the request is submitted", || engine.taken() == 1).await;
    let mut idle = Vec::new();
    for text in ["", "GET /livez HTTP/1.1\r\nx: ", ""] {
        idle.push(connect(address, text).await);
    }
    // Four are there; twenty more come, and each is answered.
    for _ in 0..20 {
        let mut honest = connect(address, "GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n").await;
        read_until(&mut honest, "200 OK").await;
        idle.push(honest);
    }
    let mut open = 0;
    for stream in &mut idle {
        open += usize::from(is_open(stream).await);
    }
    assert_eq!(open, 3, "as many as there are places");
    assert!(
        is_open(&mut busy).await,
        "a request in flight lost its place"
    );
    assert!(engine.cancelled().is_empty());
}

#[tokio::test]
async fn slow_bodies_make_way_with_an_answer_that_says_so() {
    let (app, _) = app_with(Script::Say("ok"), places(3));
    let (address, _stop) = listen(crate::http::router(Arc::clone(&app), &[]), app.limits).await;
    let mut slow = Vec::new();
    // Each is told to go on, which happens when its body is asked for: before that it would be one
    // that has said nothing yet, and make way without words.
    let head = begun(1000, 0).replace("host: x\r\n", "host: x\r\nexpect: 100-continue\r\n");
    for _ in 0..3 {
        let mut stream = connect(address, &head).await;
        read_until(&mut stream, "100 Continue").await;
        slow.push(stream);
    }
    let mut honest = ask(address, r#"{"model": "tiny", "prompt": "a"}"#).await;
    read_until(&mut honest, "200 OK").await;
    let mut told = 0;
    // The last words may come after the honest answer. Once they are there, one more round shows
    // that the others still wait.
    for round in 0..100 {
        let ends = told > 0;
        for stream in &mut slow {
            let mut bytes = vec![0; 4096];
            let read = stream.read(&mut bytes);
            let read = tokio::time::timeout(Duration::from_millis(50), read).await;
            let Ok(Ok(length @ 1..)) = read else { continue };
            let answer = String::from_utf8_lossy(&bytes[..length]);
            assert!(
                answer.contains("503") && answer.contains("takes long"),
                "round {round}: {answer}"
            );
            assert!(answer.contains("retry-after"), "{answer}");
            told += 1;
        }
        if ends {
            break;
        }
    }
    assert_eq!(told, 1, "one had to go, not all");
}

/// Sixty times 4 MB announced and most of it sent: the budget holds six of them.
#[tokio::test]
async fn half_sent_bodies_hold_no_more_than_their_budget_and_small_ones_are_answered() {
    let (app, _) = app(Script::Say("ok"));
    let (address, _stop) = listen(crate::http::router(Arc::clone(&app), &[]), app.limits).await;
    let mut slow = Vec::new();
    for _ in 0..60 {
        slow.push(connect(address, &begun(4 << 20, 1000)).await);
    }
    for _ in 0..10 {
        let mut honest = ask(address, r#"{"model": "tiny", "prompt": "a"}"#).await;
        read_until(&mut honest, "200 OK").await;
    }
    // A large honest one gets its turn too: those before it made way.
    let pad = " ".repeat(1 << 20);
    let mut large = ask(
        address,
        &format!(r#"{{"model": "tiny", {pad}"prompt": "a"}}"#),
    )
    .await;
    let answer = read_until(&mut large, "\r\n\r\n").await;
    assert!(
        answer.contains("200 OK") || answer.contains("retry-after"),
        "{answer}"
    );
    let mut refused = 0;
    for stream in &mut slow {
        refused += usize::from(!is_open(stream).await);
    }
    assert!(refused > 0, "nobody made way");
}

/// 70 MB, far beyond the limit, from a client that reads only after it has sent all.
#[tokio::test]
async fn a_client_that_is_still_sending_gets_its_413() {
    let (app, _) = app(Script::Say("ok"));
    let (address, _stop) = listen(crate::http::router(Arc::clone(&app), &[]), app.limits).await;
    let length = 70_000_000;
    let mut stream = connect(address, &begun(length, 0)).await;
    let piece = vec![b' '; 100_000];
    for _ in 0..length / piece.len() {
        stream.write_all(&piece).await.unwrap();
    }
    let answer = read_until(&mut stream, "request_too_large").await;
    assert!(
        answer.contains("413") && answer.contains("connection: close"),
        "{answer}"
    );
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
}

/// The same without a length: the limit is met on the way.
#[tokio::test]
async fn a_client_that_sends_pieces_gets_its_413_too() {
    let (app, _) = app_with(
        Script::Say("ok"),
        HttpLimits {
            body_bytes: 100_000,
            ..HttpLimits::default()
        },
    );
    let (address, _stop) = listen(crate::http::router(Arc::clone(&app), &[]), app.limits).await;
    let head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                transfer-encoding: chunked\r\n\r\n";
    let mut stream = connect(address, head).await;
    let piece = format!("{:x}\r\n{}\r\n", 10_000, " ".repeat(10_000));
    for _ in 0..1000 {
        stream.write_all(piece.as_bytes()).await.unwrap();
    }
    read_until(&mut stream, "request_too_large").await;
}

#[tokio::test]
async fn many_values_in_few_bytes_are_refused_before_they_are_made() {
    let (app, _) = app(Script::Say("ok"));
    let maps = vec!["{}"; 100_000].join(",");
    let response = post(&app, "/v1/completions", &format!(r#"{{"x": [{maps}]}}"#)).await;
    assert_eq!(response.status(), 413);
    let text = text(response).await;
    assert!(text.contains("values") && text.contains("fewer"), "{text}");
}
