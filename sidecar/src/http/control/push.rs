//! Weights pushed as safetensors, in vLLM's phases: start, tensors in any number of bodies, finish. A
//! body is never held whole: rows go to the engine as they come.
//!
//! What is sent is looked at before any of it is written: names, shapes and types when a body's header
//! is there, numbers piece by piece. Until a first piece is written the engine serves on.

use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::Json;
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::abandoned::{abandoned, says};
use super::query::Query;
use super::receiving::{self, Sent};
use super::sent::SentBody;
use super::{done, loaded, update};
use crate::engine::rest::PauseMode;
use crate::engine::weights::{Abandoned, Updated};
use crate::http::app::App;
use crate::http::error::ApiError;
use crate::http::generator::uncontrolled;
use crate::http::updates::{self, How, Overdue};
use crate::metrics::Phase;

type Answer = Result<Json<Value>, ApiError>;

/// How long an update may stand with nobody at work, where it does not say.
const PATIENCE_SECONDS: u64 = 120;
const PATIENCE_SECONDS_MAX: u64 = 3600;

/// Opens an update. The engine hears of it with the first tensor.
pub(super) async fn start(State(app): State<Arc<App>>, body: SentBody) -> Answer {
    let _counted = app.metrics.updating(Phase::Start);
    let mut fields = body.fields().await?;
    // Older clients of vLLM send it; names are always those of checkpoints.
    fields.remove("is_checkpoint_format");
    let how = How {
        version: update::version(&mut fields, "weight_version")?,
        mode: mode(&mut fields)?,
        whole: !update::flag(&mut fields, "partial", false)?,
        patience: patience(&mut fields)?,
    };
    done(&fields)?;
    let updating = loaded(&app)?.engine.rest().updating;
    let id = app.updates.begin(how, updating)?;
    tokio::spawn(watch(Arc::downgrade(&app), id));
    Ok(Json(
        json!({"message": "Weight update started", "update_id": id.to_string()}),
    ))
}

fn mode(fields: &mut Map<String, Value>) -> Result<PauseMode, ApiError> {
    let known = [PauseMode::Abort, PauseMode::Wait, PauseMode::Keep];
    let Some(word) = update::text(fields, "mode")? else {
        return Ok(PauseMode::Keep);
    };
    let found = known.into_iter().find(|mode| mode.name() == word);
    found.ok_or_else(|| ApiError::invalid(Some("mode"), "mode: must be abort, wait or keep"))
}

fn patience(fields: &mut Map<String, Value>) -> Result<Duration, ApiError> {
    let name = "idle_timeout_seconds";
    let seconds = match fields.remove(name) {
        None | Some(Value::Null) => Some(PATIENCE_SECONDS),
        Some(value) => value.as_u64(),
    };
    let seconds = seconds.filter(|seconds| (1..=PATIENCE_SECONDS_MAX).contains(seconds));
    seconds.map(Duration::from_secs).ok_or_else(|| {
        let message = format!("{name}: must be a whole number, 1 to {PATIENCE_SECONDS_MAX}");
        ApiError::invalid(Some(name), message)
    })
}

/// Ends the update when nobody works on it for too long.
pub(in crate::http) async fn watch(app: Weak<App>, id: u64) {
    loop {
        let Some(overdue) = app.upgrade().map(|app| app.updates.overdue(id)) else {
            return;
        };
        match overdue {
            Overdue::Gone => return,
            Overdue::In(time) => tokio::time::sleep(time).await,
            Overdue::Now { told, after } => {
                let Some(app) = app.upgrade().filter(|_| told) else {
                    return;
                };
                if let Some(loaded) = app.peek() {
                    let why = format!("nobody sent anything for {} s", after.as_secs());
                    // Whatever comes of it is the engine's to say.
                    let _ = abandoned(&app.updates, &loaded.engine, why).await;
                }
                return;
            }
        }
    }
}

/// Tensors, or the name of a folder that has some.
pub(super) async fn update_weights(State(app): State<Arc<App>>, request: Request) -> Response {
    if !sends_tensors(request.headers()) {
        return folder(app, request).await.into_response();
    }
    match tensors(app, request).await {
        Ok(answer) => answer.into_response(),
        Err(error) => {
            let mut response = error.into_response();
            // The rest of the body, which nobody reads, is no next request.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
            response
        }
    }
}

async fn folder(app: Arc<App>, request: Request) -> Answer {
    Query::parse(request.uri().query().unwrap_or_default()).done()?;
    let Ok(body) = SentBody::from_request(request, &()).await;
    update::vllm(app, body).await
}

fn sends_tensors(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let kind = kind
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default();
    let kinds = [
        "application/octet-stream",
        "application/safetensors",
        "application/x-safetensors",
    ];
    kinds
        .iter()
        .any(|known| kind.trim().eq_ignore_ascii_case(known))
}

async fn tensors(app: Arc<App>, request: Request) -> Answer {
    let _counted = app.metrics.updating(Phase::Update);
    let mut query = Query::parse(request.uri().query().unwrap_or_default());
    let id = query.only("update_id")?;
    query.done()?;
    let engine = Arc::clone(&loaded(&app)?.engine);
    let work = app.updates.work(id.as_deref())?;
    let Sent { tensors, bytes } = receiving::receive(&app, engine, work, request).await?;
    Ok(Json(
        json!({"message": "Weights updated", "tensors": tensors, "bytes": bytes}),
    ))
}

pub(super) async fn finish(
    State(app): State<Arc<App>>,
    mut query: Query,
    body: SentBody,
) -> Answer {
    let _counted = app.metrics.updating(Phase::Finish);
    let id = query.only("update_id")?;
    query.done()?;
    let mut fields = body.fields().await?;
    let version = update::version(&mut fields, "weight_version")?;
    done(&fields)?;
    let engine = Arc::clone(&loaded(&app)?.engine);
    let mut work = app.updates.work(id.as_deref())?;
    if !work.told {
        return Err(updates::conflict(
            "no tensor has come: push some first".to_owned(),
        ));
    }
    let version = version.or_else(|| work.how.version.clone());
    let closed = work.ask(|| engine.close_push(version))?.answer().await;
    // Where something is missing it stays open.
    if closed.is_ok() || !engine.rest().updating {
        work.close();
    }
    let Updated { version, .. } = closed.map_err(|error| uncontrolled(&error))?;
    Ok(Json(
        json!({"message": "Weight update finished", "weight_version": version}),
    ))
}

/// Whoever is at work on it.
pub(super) async fn abort(State(app): State<Arc<App>>, mut query: Query) -> Answer {
    let id = query.only("update_id")?;
    query.done()?;
    let engine = Arc::clone(&loaded(&app)?.engine);
    let told = match app.updates.end(id.as_deref()) {
        // One that the engine has, and nobody here any more, is ended, too.
        Err(_) if id.is_none() && engine.rest().updating => true,
        told => told? || engine.rest().updating,
    };
    let left = match told {
        false => Ok(Abandoned::Unharmed),
        true => {
            let why = "it was aborted by hand".to_owned();
            abandoned(&app.updates, &engine, why).await
        }
    };
    let what = says(&left);
    left.map_err(|error| uncontrolled(&error))?;
    Ok(Json(
        json!({"message": format!("Weight update aborted: {what}")}),
    ))
}
