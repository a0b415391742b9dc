//! The admin port: who holds which bytes, once or as a stream, whether weights are what they were,
//! and the control routes, behind a bearer token.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures::Stream;
use plimsoll_crds::v1alpha1::MemoryReport;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use super::app::App;
use super::control::{self, query, weights};
use super::error::ApiError;
use super::prompt;
use super::token::Token;
use super::types::{RankWeights, WeightChecks};
use crate::engine::handle::EngineState;
use crate::report::worth_sending;

/// How often figures are looked at; states are seen at once.
const TICK: Duration = Duration::from_secs(2);
/// A report is sent at least this often: a little under the promised 30 s.
const HEARTBEAT: Duration = Duration::from_secs(28);

#[derive(Clone, Debug)]
struct Admin {
    app: Arc<App>,
    watchers: Arc<Semaphore>,
    checks: Arc<Semaphore>,
}

/// `token` None: open, which `args` allows on loopback only.
pub fn router(app: Arc<App>, token: Option<Token>) -> Router {
    let watchers = Arc::new(Semaphore::new(app.limits.watchers));
    let routes = Router::new()
        .route("/memory", get(memory))
        .route("/memory/watch", get(watch_memory))
        .route("/weight_checker", get(check_weights))
        .with_state(Admin {
            app: Arc::clone(&app),
            watchers,
            checks: Arc::new(Semaphore::new(1)),
        });
    let own = super::target::routes().merge(super::quota::routes());
    let own = own.with_state(Arc::clone(&app)).merge(routes);
    let routes = control::routes()
        .with_state(app)
        .merge(own.route_layer(middleware::from_fn(query::none)))
        .fallback(super::not_found)
        .method_not_allowed_fallback(super::method_not_allowed);
    match token {
        Some(token) => routes.layer(middleware::from_fn_with_state(token, authorize)),
        None => routes,
    }
}

async fn authorize(State(token): State<Token>, request: Request, next: Next) -> Response {
    if !token.admits(request.headers()).await {
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

/// Changed tensors that are named; where many changed, these show where it began.
const CHANGED_SHOWN: usize = 16;

/// Compares all weights with what was loaded. Nothing is generated meanwhile (each rank reads all
/// its weights once), so one check runs at a time here.
async fn check_weights(State(admin): State<Admin>) -> Result<Json<WeightChecks>, ApiError> {
    let unavailable = |code, message: String| Err(ApiError::unavailable(code, message));
    let Some(loaded) = admin.app.peek() else {
        return unavailable("model_loading", "the model is being opened".to_owned());
    };
    let Ok(_one) = admin.checks.try_acquire() else {
        return Err(ApiError {
            status: axum::http::StatusCode::TOO_MANY_REQUESTS,
            ..ApiError::unavailable("check_under_way", "a check of the weights is under way")
        });
    };
    let checks = weights::checks(&loaded).await?;
    let ranks: Vec<RankWeights> = (0..)
        .zip(checks)
        .map(|(rank, check)| RankWeights {
            rank,
            tensors: check.tensors,
            bytes: check.bytes,
            checksum: format!("{:016x}", check.checksum),
            unchanged: check.changed.is_empty(),
            changed: check.changed.into_iter().take(CHANGED_SHOWN).collect(),
        })
        .collect();
    let unchanged = ranks.iter().all(|rank| rank.unchanged);
    Ok(Json(WeightChecks { unchanged, ranks }))
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
