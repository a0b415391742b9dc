//! `/target` of the admin port: what the operator tells this engine, and what became of it.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use plimsoll_crds::v1alpha1::{Target, TargetReport};

use super::app::App;
use super::error::ApiError;
use crate::target::Held;

/// 16 ranks with 8 accounts each take about 12 KB.
const BODY_BYTES: usize = 64 * 1024;

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new().route("/target", get(read).put(tell))
}

async fn read(State(app): State<Arc<App>>) -> Result<Json<TargetReport>, ApiError> {
    Ok(Json(held(&app)?.report()))
}

/// 200 with what became of it, refused or not; 409 for one older than what was told already.
async fn tell(State(app): State<Arc<App>>, body: Body) -> Result<Json<TargetReport>, ApiError> {
    let held = held(&app)?;
    let patience = app.limits.body_timeout;
    let bytes = tokio::time::timeout(patience, to_bytes(body, BODY_BYTES)).await;
    let bytes = bytes
        .map_err(|_| ApiError::body_timeout(patience.as_secs()))?
        .map_err(|_| ApiError::too_large(BODY_BYTES))?;
    let target: Target = serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::invalid(None, format!("the body is no target: {error}")))?;
    let report = held.tell(target).map_err(|older| ApiError {
        status: StatusCode::CONFLICT,
        ..ApiError::invalid(Some("generation"), older.to_string()).with_code("older_target")
    })?;
    tracing::info!(
        generation = report.generation,
        outcome = ?report.outcome,
        message = report.message,
        "told a target"
    );
    Ok(Json(report))
}

fn held(app: &App) -> Result<&Held, ApiError> {
    match app.identity.target.get() {
        Some(held) => Ok(held),
        None if app.identity.revision.is_empty() => Err(ApiError {
            status: StatusCode::NOT_FOUND,
            ..ApiError::invalid(
                None,
                "this engine was started with flags: it has no target, and changes with a restart",
            )
            .with_code("no_target")
        }),
        None => Err(ApiError::unavailable(
            "model_loading",
            "the model is being opened",
        )),
    }
}
