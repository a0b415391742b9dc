//! `/target` of the admin port: what the operator tells this engine, and what became of it; and
//! `/target/sleep`, its sleep alone.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use plimsoll_crds::v1alpha1::target::SleepOrder;
use plimsoll_crds::v1alpha1::{Target, TargetReport};
use serde::de::DeserializeOwned;

use super::app::App;
use super::control::sent::SentBody;
use super::error::ApiError;
use super::generator::Generator;
use super::quota;
use crate::engine::clock;
use crate::engine::control::{ControlError, Reply, Woken};
use crate::engine::rest::{Cause, PauseMode, Tags};
use crate::target::wish::deep;
use crate::target::{Change, Held, Older};

/// 16 ranks with 8 accounts each take about 12 KB.
const BODY_BYTES: usize = 64 * 1024;
/// An engine that takes no command yet is asked again so soon.
const AGAIN: Duration = Duration::from_secs(1);
const OVERTAKEN: &str = "something newer was asked for";

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/target", get(read).put(tell))
        .route("/target/sleep", get(read_sleep).put(tell_sleep))
}

async fn read(State(app): State<Arc<App>>) -> Result<Json<TargetReport>, ApiError> {
    Ok(Json(held(&app)?.report()))
}

async fn read_sleep(State(app): State<Arc<App>>) -> Result<Json<TargetReport>, ApiError> {
    Ok(Json(held(&app)?.sleep_report()))
}

/// 200 with what became of it, refused or not; 409 for one older than what was told already.
async fn tell(State(app): State<Arc<App>>, body: SentBody) -> Result<Json<TargetReport>, ApiError> {
    let held = held(&app)?;
    let target: Target = told(&app, body, "target").await?;
    let (_, change) = held.tell(target).map_err(older)?;
    // Whoever told it may leave before it is answered: it is taken already.
    let followed = tokio::spawn(async move { follow(&app, change).await }).await;
    followed.map_err(|error| ApiError::engine(error.to_string()))?
}

/// As [`tell`], of its sleep alone: memory stays what it is.
async fn tell_sleep(
    State(app): State<Arc<App>>,
    body: SentBody,
) -> Result<Json<TargetReport>, ApiError> {
    let held = held(&app)?;
    let order: SleepOrder = told(&app, body, "sleep").await?;
    let (report, change) = held.tell_sleep(order).map_err(older)?;
    tracing::info!(
        generation = report.generation,
        outcome = ?report.outcome,
        message = report.message,
        "told a sleep"
    );
    lead(&app, held);
    if let Some(change) = change {
        carry_out(&app, change);
    }
    Ok(Json(report))
}

/// The document in a body.
async fn told<T: DeserializeOwned>(app: &App, body: SentBody, what: &str) -> Result<T, ApiError> {
    let patience = app.limits.body_timeout;
    let bytes = body.bytes(BODY_BYTES, patience).await?;
    serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::invalid(None, format!("the body is no {what}: {error}")))
}

fn older(older: Older) -> ApiError {
    ApiError {
        status: StatusCode::CONFLICT,
        ..ApiError::invalid(Some("generation"), older.to_string()).with_code("older_target")
    }
}

/// Has a target that was taken carried out; what became of it by now.
async fn follow(app: &Arc<App>, change: Option<Change>) -> Result<Json<TargetReport>, ApiError> {
    let held = held(app)?;
    // Memory first: a wake takes what is wanted by then.
    quota::carry_out(app).await;
    let report = held.report();
    tracing::info!(
        generation = report.generation,
        outcome = ?report.outcome,
        message = report.message,
        "told a target"
    );
    lead(app, held);
    if let Some(change) = change {
        carry_out(app, change);
    }
    Ok(Json(report))
}

/// Hands the engine what its newest target leaves to itself, once there is an engine.
pub fn lead(app: &App, held: &Held) {
    if let Some(loaded) = app.peek() {
        held.lead(|policy| loaded.engine.follow(policy));
    }
}

/// Puts the engine to sleep or wakes it, beside who asked: a wake may take minutes. Requests that are
/// under way are kept for after the sleep.
pub fn carry_out(app: &Arc<App>, change: Change) {
    let app = Arc::clone(app);
    tokio::spawn(async move {
        let Ok(held) = held(&app) else { return };
        let outcome = carried_out(&app, held, change).await;
        tracing::info!(sleep = ?change.sleep, ?outcome, "a target's sleep");
        held.settle(change, outcome);
    });
}

/// Ends once the engine answers, ends itself, or something newer is asked for. A wake that failed, or
/// cannot be now (an update is open), is repeated for ever, after ever longer pauses.
async fn carried_out(app: &App, held: &Held, change: Change) -> Result<(), String> {
    let mut failures = 0;
    loop {
        let refused = match app.peek() {
            None => ControlError::Loading,
            // Queued while nothing newer can be asked for: commands come in the order of targets.
            Some(loaded) => match held.while_wanted(change, || command(&*loaded.engine, change)) {
                None => return Err(OVERTAKEN.to_owned()),
                Some(Asked::Sleep(reply)) => match reply.answer().await {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                },
                Some(Asked::Wake(reply)) => match reply.answer().await {
                    Ok(_) => return Ok(()),
                    Err(error) => error,
                },
            },
        };
        match refused {
            ControlError::Loading | ControlError::QueueFull { .. } if held.wants(change) => {
                tokio::time::sleep(AGAIN).await;
            }
            ControlError::NotWoken { message } | ControlError::WrongState { message }
                if change.sleep.is_none() && held.wants(change) =>
            {
                failures += 1;
                held.repeats(change, &message);
                tokio::time::sleep(clock::pause(failures)).await;
            }
            error => return Err(error.to_string()),
        }
    }
}

/// A command in the engine's queue.
enum Asked {
    Sleep(Reply<()>),
    Wake(Reply<Woken>),
}

fn command(engine: &(dyn Generator + 'static), change: Change) -> Asked {
    match change.sleep {
        Some(sleep) => {
            let level = deep(sleep.level);
            Asked::Sleep(engine.sleep_for(Cause::Target, level, PauseMode::Keep))
        }
        None => Asked::Wake(engine.wake_for(Cause::Target, Tags::ALL)),
    }
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
