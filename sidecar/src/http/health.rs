//! Probes, version and metrics. Cheap, and answered in every state.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use plimsoll_crds::names;
use serde_json::{Value, json};

use super::app::App;
use super::error::ApiError;
use super::generator::memory_pending;
use super::prompt;
use crate::engine::handle::EngineState;

/// `/livez`: the process works. 503 only once the engine has failed, so that a long load or
/// drain is no reason to be killed.
pub async fn livez(State(app): State<Arc<App>>) -> Result<&'static str, ApiError> {
    if let Some(loaded) = app.peek()
        && let EngineState::Failed { message } = &*loaded.engine.subscribe().borrow()
    {
        return Err(ApiError::unavailable(
            "engine_failed",
            format!("the engine failed: {message}"),
        ));
    }
    Ok("ok\n")
}

/// `/readyz`: requests are taken and computed now.
pub async fn readyz(State(app): State<Arc<App>>) -> Result<&'static str, ApiError> {
    app.serving()?;
    Ok("ok\n")
}

/// `/health`, as vLLM has it: 200 and no body while the engine works, a drain and a sleep included:
/// who puts it to sleep asks this to see whether it is still there. `?memory=whole` waits until all of
/// the KV cache is taken, too: a pod has started when nothing of it can fail for want of memory any more.
pub async fn health(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> Result<StatusCode, ApiError> {
    if query.as_deref() == Some(names::HEALTH_WHOLE) && app.is_filling() {
        return Err(memory_pending());
    }
    match app.ready() {
        Err(error) if !matches!(error.code, Some("draining" | "engine_asleep")) => Err(error),
        _ => livez(State(app)).await.map(|_| StatusCode::OK),
    }
}

pub async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

pub async fn metrics(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let text = prompt::blocking(move || Ok(app.scrape())).await?;
    Ok(([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response())
}
