//! SGLang's routes of memory and generation: its fields, bodies and codes.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::query::{Query, tags};
use super::refused::not_implemented;
use super::sent::SentBody;
use super::{done, loaded, texts, weights};
use crate::engine::request::{FinishReason, GenerateRequest, SamplingParams, TokenEvent};
use crate::engine::rest::{PauseMode, SleepLevel, Tags};
use crate::http::app::App;
use crate::http::error::ApiError;
use crate::http::generator::{Generator, aborted, not_woken, refusal, uncontrolled};

/// How long a token may take whose coming says that the engine is well.
const HEALTH_PATIENCE: Duration = Duration::from_secs(20);

/// Tags of a body; graphs hold no memory here. None are all.
fn tags_of(fields: &mut Map<String, Value>) -> Result<Option<Tags>, ApiError> {
    let named = texts(fields, "tags")?.unwrap_or_default();
    let all = named.is_empty();
    let named: Vec<String> = named
        .into_iter()
        .filter(|tag| tag != "cuda_graph")
        .collect();
    match all {
        false if named.is_empty() => Ok(None),
        _ => tags(&named, "tags").map(Some),
    }
}

/// Requests there are are kept. The weights go with the cache.
pub(super) async fn release(
    State(app): State<Arc<App>>,
    body: SentBody,
) -> Result<Json<()>, ApiError> {
    let mut fields = body.fields().await?;
    let tags = tags_of(&mut fields)?;
    done(&fields)?;
    let loaded = loaded(&app)?;
    let level = match tags {
        None => return Ok(Json(())),
        Some(Tags { weights: true, .. }) => SleepLevel::Two,
        Some(Tags { weights: false, .. }) => SleepLevel::One,
    };
    let slept = loaded.engine.sleep(level, PauseMode::Keep).answer().await;
    slept.map(Json).map_err(|error| uncontrolled(&error))
}

pub(super) async fn resume(
    State(app): State<Arc<App>>,
    body: SentBody,
) -> Result<Json<()>, ApiError> {
    let mut fields = body.fields().await?;
    let tags = tags_of(&mut fields)?;
    done(&fields)?;
    let loaded = loaded(&app)?;
    let Some(tags) = tags else {
        return Ok(Json(()));
    };
    let woken = loaded.engine.wake(tags).answer().await;
    woken
        .map(|_| Json(()))
        .map_err(|error| uncontrolled(&error))
}

pub(super) async fn pause(
    State(app): State<Arc<App>>,
    body: SentBody,
) -> Result<Json<Value>, ApiError> {
    let mut fields = body.fields().await?;
    let (mode, clear_cache) = match fields.remove("mode") {
        None | Some(Value::Null) => (PauseMode::Abort, false),
        Some(Value::String(mode)) if mode == "abort" => (PauseMode::Abort, false),
        // Requests go back to the queue and are computed again.
        Some(Value::String(mode)) if mode == "retract" => (PauseMode::Keep, true),
        Some(Value::String(mode)) if mode == "in_place" => (PauseMode::Keep, false),
        Some(_) => {
            let message = "mode: must be abort, retract or in_place";
            return Err(ApiError::invalid(Some("mode"), message));
        }
    };
    done(&fields)?;
    let paused = loaded(&app)?.engine.pause(mode, clear_cache).answer().await;
    paused.map_err(|error| uncontrolled(&error))?;
    Ok(told("Generation paused successfully."))
}

pub(super) async fn go_on(
    State(app): State<Arc<App>>,
    body: SentBody,
) -> Result<Json<Value>, ApiError> {
    let mut fields = body.fields().await?;
    fields.remove("torch_empty_cache");
    done(&fields)?;
    let resumed = loaded(&app)?.engine.resume().answer().await;
    resumed.map_err(|error| uncontrolled(&error))?;
    Ok(told("Generation continued successfully."))
}

fn told(message: &str) -> Json<Value> {
    Json(json!({"message": message, "status": "ok"}))
}

/// Running requests do not keep it from being flushed, so `timeout` has nothing to wait for.
pub(super) async fn flush(
    State(app): State<Arc<App>>,
    mut query: Query,
) -> Result<&'static str, ApiError> {
    query.only("timeout")?;
    query.done()?;
    let reset = loaded(&app)?.engine.reset_prefix_cache(false).answer();
    reset.await.map_err(|error| uncontrolled(&error))?;
    Ok("Cache flushed.\n")
}

pub(super) async fn abort(
    State(app): State<Arc<App>>,
    body: SentBody,
) -> Result<StatusCode, ApiError> {
    let mut fields = body.fields().await?;
    let all = match fields.remove("abort_all") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(all)) => all,
        Some(_) => {
            let message = "abort_all: must be true or false";
            return Err(ApiError::invalid(Some("abort_all"), message));
        }
    };
    let rid = match fields.remove("rid") {
        None | Some(Value::Null) => None,
        Some(Value::String(rid)) => Some(rid),
        Some(_) => return Err(ApiError::invalid(Some("rid"), "rid: must be a string")),
    };
    done(&fields)?;
    let loaded = loaded(&app)?;
    match (all, rid) {
        (true, _) => app.abort(&*loaded.engine, None),
        (false, Some(rid)) if !rid.is_empty() => app.abort(&*loaded.engine, Some(&[rid])),
        (false, _) => {
            let message = "rid: must name a request where abort_all is not set";
            return Err(ApiError::invalid(Some("rid"), message));
        }
    };
    Ok(StatusCode::OK)
}

/// Checksums of the load are the snapshot.
pub(super) async fn check(
    State(app): State<Arc<App>>,
    body: SentBody,
) -> Result<Json<Value>, ApiError> {
    let mut fields = body.fields().await?;
    let action = fields.remove("action");
    done(&fields)?;
    match action.as_ref().and_then(Value::as_str) {
        Some("snapshot") => {
            loaded(&app)?;
            Ok(Json(json!({"success": true, "message": "The load's checksums are the snapshot."})))
        }
        Some("compare") => {
            let checks = weights::checks(&*loaded(&app)?).await?;
            let changed: Vec<&str> = checks
                .iter()
                .flat_map(|check| check.changed.iter().map(String::as_str))
                .collect();
            let message = match changed.is_empty() {
                true => "Success.".to_owned(),
                false => format!("not as loaded: {}", changed.join(", ")),
            };
            Ok(Json(json!({"success": changed.is_empty(), "message": message})))
        }
        Some("reset_tensors") => Err(not_implemented(
            "action: reset_tensors overwrites the weights, which only the model's files can do here"
                .to_owned(),
        )),
        _ => Err(ApiError::invalid(
            Some("action"),
            "action: must be snapshot, compare or reset_tensors",
        )),
    }
}

/// Generates one token. A prober wakes nobody: an engine that sleeps and would wake for a request is
/// as well as it can be seen to be.
pub(super) async fn health_generate(State(app): State<Arc<App>>) -> Result<StatusCode, ApiError> {
    let loaded = app.serving()?;
    if loaded.engine.rest().is_out() {
        return Ok(StatusCode::OK);
    }
    let (events, mut heard) = mpsc::channel(4);
    let id = app.next_id();
    let request = GenerateRequest {
        id,
        prompt: vec![0],
        sampling: SamplingParams::default(),
        eos: Vec::new(),
        max_tokens: 1,
        min_tokens: 0,
        bias: Vec::new(),
        prompt_logprobs: None,
        adapter: None,
        cache_salt: None,
        events: events.into(),
    };
    loaded
        .engine
        .submit(request)
        .map_err(|refused| refusal(refused, "prompt"))?;
    // A prober that hangs up leaves no request behind.
    let _cancels = Cancel(&*loaded.engine, id);
    let finished = async {
        while let Some(event) = heard.recv().await {
            if let TokenEvent::Finished(finished) = event {
                return Some(finished);
            }
        }
        None
    };
    match tokio::time::timeout(HEALTH_PATIENCE, finished).await {
        Ok(Some(finished)) => match finished.reason {
            FinishReason::Stop | FinishReason::Length => Ok(StatusCode::OK),
            FinishReason::Abort => Err(aborted()),
            FinishReason::Error => Err(ApiError::engine(finished.message.unwrap_or_default())),
            FinishReason::NoAdapter | FinishReason::NotWoken => {
                Err(not_woken(finished.message.unwrap_or_default(), None))
            }
        },
        Ok(None) => Err(aborted()),
        Err(_) => {
            let seconds = HEALTH_PATIENCE.as_secs();
            Err(ApiError::unavailable(
                "health_timed_out",
                format!("no token came within {seconds} s"),
            ))
        }
    }
}

/// Cancels a request when nobody waits for it any more; one that has ended is not there to cancel.
struct Cancel<'a>(&'a dyn Generator, u64);

impl Drop for Cancel<'_> {
    fn drop(&mut self) {
        self.0.cancel(self.1);
    }
}
