//! The admin port: who holds which bytes, once or as a stream, behind a bearer token.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures::Stream;
use plimsoll_crds::v1alpha1::MemoryReport;
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use super::app::App;
use super::error::ApiError;
use super::prompt;
use crate::engine::handle::EngineState;
use crate::report::worth_sending;

/// How often figures are looked at; states are seen at once.
const TICK: Duration = Duration::from_secs(2);
/// A report is sent at least this often: a little under the promised 30 s.
const HEARTBEAT: Duration = Duration::from_secs(28);

/// The token, as its hash: comparing hashes takes the same time wherever they differ, and the
/// token itself is not kept.
#[derive(Clone, Copy, Debug)]
pub struct Token([u8; 32]);

impl Token {
    pub fn new(token: &str) -> Token {
        Token(Sha256::digest(token.as_bytes()).into())
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map_or("", |(_, token)| token.trim());
        let given: [u8; 32] = Sha256::digest(given.as_bytes()).into();
        given
            .iter()
            .zip(self.0)
            .fold(0, |differs, (a, b)| differs | (a ^ b))
            == 0
    }
}

#[derive(Clone, Debug)]
struct Admin {
    app: Arc<App>,
    watchers: Arc<Semaphore>,
}

/// `token` None: open, which `args` allows on loopback only.
pub fn router(app: Arc<App>, token: Option<Token>) -> Router {
    let watchers = Arc::new(Semaphore::new(app.limits.watchers));
    let routes = Router::new()
        .route("/memory", get(memory))
        .route("/memory/watch", get(watch_memory))
        .fallback(super::not_found)
        .method_not_allowed_fallback(super::method_not_allowed)
        .with_state(Admin { app, watchers });
    match token {
        Some(token) => routes.layer(middleware::from_fn_with_state(token, authorize)),
        None => routes,
    }
}

async fn authorize(State(token): State<Token>, request: Request, next: Next) -> Response {
    if !token.admits(request.headers()) {
        return ApiError::unauthorized().into_response();
    }
    next.run(request).await
}

async fn memory(State(admin): State<Admin>) -> Result<Json<MemoryReport>, ApiError> {
    let app = admin.app;
    Ok(Json(prompt::blocking(move || Ok(app.report())).await?))
}

async fn watch_memory(State(admin): State<Admin>) -> Result<Response, ApiError> {
    let limit = admin.app.limits.watchers;
    let permit = Arc::clone(&admin.watchers)
        .try_acquire_owned()
        .map_err(|_| ApiError {
            status: axum::http::StatusCode::TOO_MANY_REQUESTS,
            retry_after: Some(30),
            ..ApiError::unavailable(
                "too_many_watchers",
                format!("{limit} streams are open already"),
            )
        })?;
    let body = Body::from_stream(lines(Watcher::new(admin.app, permit)));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

struct Watcher {
    app: Arc<App>,
    state: Option<watch::Receiver<EngineState>>,
    last: Option<(MemoryReport, Instant)>,
    /// Held as long as the stream lives.
    _permit: OwnedSemaphorePermit,
}

/// One JSON document per line, the first at once.
fn lines(watcher: Watcher) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
    futures::stream::unfold(watcher, |mut watcher| async move {
        let line = watcher.next().await?;
        Some((Ok(line), watcher))
    })
}

impl Watcher {
    fn new(app: Arc<App>, permit: OwnedSemaphorePermit) -> Watcher {
        Watcher {
            app,
            state: None,
            last: None,
            _permit: permit,
        }
    }

    /// Waits until there is news, at most a heartbeat. None ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.last.is_some() {
                self.pause().await;
            }
            let app = Arc::clone(&self.app);
            let report = tokio::task::spawn_blocking(move || app.report())
                .await
                .ok()?;
            let send = self
                .last
                .as_ref()
                .is_none_or(|(last, at)| worth_sending(last, &report) || at.elapsed() >= HEARTBEAT);
            if send {
                let mut line = serde_json::to_vec(&report).ok()?;
                line.push(b'\n');
                self.last = Some((report, Instant::now()));
                return Some(Bytes::from(line));
            }
        }
    }

    /// Until the engine's state changes, at most one tick.
    async fn pause(&mut self) {
        if self.state.is_none() {
            self.state = self.app.peek().map(|loaded| loaded.engine.subscribe());
        }
        let tick = tokio::time::sleep(TICK);
        match &mut self.state {
            None => tick.await,
            Some(state) => {
                tokio::select! {
                    changed = state.changed() => if changed.is_err() {
                        // The engine is gone; its last report stays true.
                        self.state = None;
                        tokio::time::sleep(TICK).await;
                    },
                    () = tick => {}
                }
            }
        }
    }
}
