//! Streams against a small engine that answers over a real socket.

use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::time::timeout;

use super::*;
use crate::testing::report;

type Pieces = mpsc::Receiver<Result<Vec<u8>, Infallible>>;
type Engine = Arc<AsyncMutex<Vec<Pieces>>>;

async fn watch(State(engine): State<Engine>, headers: HeaderMap) -> Response {
    if headers["authorization"] != "Bearer secret" {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    // Each connection streams what one sender gives, in order.
    let Some(pieces) = engine.lock().await.pop() else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let stream = futures::stream::unfold(pieces, async |mut pieces| {
        pieces.recv().await.map(|piece| (piece, pieces))
    });
    Body::from_stream(stream).into_response()
}

struct Setup {
    reports: Reports,
    nudged: mpsc::Receiver<ObjectRef<InferenceDeployment>>,
    /// One per connection that the engine accepts, in order.
    streams: Vec<mpsc::Sender<Result<Vec<u8>, Infallible>>>,
    port: u16,
    metrics: Arc<Metrics>,
}

impl Setup {
    async fn new(connections: usize, stale_after: Duration) -> Setup {
        let (mut streams, mut pieces) = (Vec::new(), Vec::new());
        for _ in 0..connections {
            let (sender, receiver) = mpsc::channel(16);
            streams.push(sender);
            pieces.insert(0, receiver);
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let engine: Engine = Arc::new(AsyncMutex::new(pieces));
        let router = Router::new()
            .route("/memory/watch", get(watch))
            .with_state(engine);
        tokio::spawn(async move { axum::serve(listener, router).await });
        let (nudges, nudged) = mpsc::channel(16);
        let metrics = Arc::new(Metrics::new().unwrap());
        let reports = Reports::new(nudges, Arc::clone(&metrics), stale_after);
        Setup {
            reports,
            nudged,
            streams,
            port,
            metrics,
        }
    }

    fn listen(&self, token: &str) {
        let listener = Listener {
            resource: ObjectRef::new("chat").within("team"),
            pod: "chat-1".to_owned(),
            pod_uid: "p".to_owned(),
            ip: "127.0.0.1".to_owned(),
            port: self.port,
        };
        self.reports.listen("uid", token, vec![listener]);
    }

    async fn send(&self, connection: usize, report: &MemoryReport) {
        let mut line = serde_json::to_vec(report).unwrap();
        line.push(b'\n');
        self.streams[connection].send(Ok(line)).await.unwrap();
    }

    async fn nudge(&mut self) -> bool {
        timeout(Duration::from_secs(20), self.nudged.recv())
            .await
            .is_ok()
    }

    /// Whether no nudge comes while `during` happens elsewhere.
    async fn quiet(&mut self) -> bool {
        timeout(Duration::from_millis(300), self.nudged.recv())
            .await
            .is_err()
    }

    fn last(&self) -> ReportFacts {
        self.reports.of("uid")["chat-1"].clone()
    }
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn news_nudge_the_controller_and_heartbeats_do_not() {
    let mut setup = Setup::new(1, LONG).await;
    setup.listen("secret");
    setup.send(0, &report(500)).await;
    assert!(setup.nudge().await);
    assert_eq!(setup.last().report.unwrap().ranks[0].driver_bytes, 500);
    assert_eq!(setup.metrics.streams.get(), 1);
    let mut heartbeat = report(510);
    heartbeat.time.0 = crate::testing::at(99);
    setup.send(0, &heartbeat).await;
    assert!(setup.quiet().await);
    assert_eq!(setup.last().report.unwrap().ranks[0].driver_bytes, 510);
    setup.send(0, &report(700)).await;
    assert!(setup.nudge().await);
}

#[tokio::test]
async fn a_broken_stream_is_opened_again() {
    let mut setup = Setup::new(2, LONG).await;
    setup.listen("secret");
    setup.streams[0]
        .send(Ok(b"not a report\n".to_vec()))
        .await
        .unwrap();
    setup.send(1, &report(500)).await;
    assert!(setup.nudge().await);
    assert!(setup.last().report.is_some());
}

#[tokio::test]
async fn silence_makes_the_last_report_stale_and_a_word_makes_it_fresh() {
    let mut setup = Setup::new(2, Duration::from_millis(400)).await;
    setup.listen("secret");
    setup.send(0, &report(500)).await;
    assert!(setup.nudge().await);
    assert!(!setup.last().stale);
    assert!(setup.nudge().await, "silence is news");
    assert!(setup.last().stale);
    assert_eq!(setup.last().report.unwrap().ranks[0].driver_bytes, 500);
    setup.send(1, &report(500)).await;
    assert!(setup.nudge().await);
    assert!(!setup.last().stale);
}

#[tokio::test]
async fn a_pod_that_never_answers_turns_stale_too() {
    let mut setup = Setup::new(0, Duration::from_millis(300)).await;
    setup.listen("secret");
    assert!(setup.nudge().await);
    let last = setup.last();
    assert!(last.stale && last.report.is_none() && !last.refused);
}

#[tokio::test]
async fn a_pod_that_refuses_the_token_says_so_at_once_and_is_asked_again() {
    let mut setup = Setup::new(1, LONG).await;
    setup.listen("wrong");
    assert!(setup.nudge().await, "a refusal is news");
    assert!(setup.last().refused && !setup.last().stale);
    assert!(setup.metrics.refused_streams.get() >= 1);
    assert_eq!(setup.metrics.streams.get(), 0);
    // It was brought the token: the next attempt is let in.
    setup.reports.listen("uid", "wrong", Vec::new());
    setup.listen("secret");
    setup.send(0, &report(500)).await;
    assert!(setup.nudge().await);
    assert!(!setup.last().refused);
}

#[tokio::test]
async fn a_pod_that_is_gone_is_forgotten() {
    let mut setup = Setup::new(1, LONG).await;
    setup.listen("secret");
    setup.send(0, &report(500)).await;
    assert!(setup.nudge().await);
    setup.reports.listen("uid", "secret", Vec::new());
    assert!(setup.reports.of("uid").is_empty());
}
