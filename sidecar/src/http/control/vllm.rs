//! vLLM's control routes: its parameters, bodies and codes.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::query::{Query, tags};
use super::refused::not_implemented;
use super::sent::SentBody;
use super::{done, loaded, texts, update, weights};
use crate::engine::rest::{PauseMode, SleepLevel, Tags};
use crate::forward::WeightCheck;
use crate::http::app::App;
use crate::http::error::{ApiError, shown};
use crate::http::generator::uncontrolled;
use crate::http::prompt::blocking;

type Answer = Result<Json<Value>, ApiError>;

/// `tags` instead of `level`, as an older form of this route had it: the weights go with the cache.
pub(super) async fn sleep(State(app): State<Arc<App>>, mut query: Query, body: SentBody) -> Answer {
    body.nothing().await?;
    let levels = [
        ("0", SleepLevel::Zero),
        ("1", SleepLevel::One),
        ("2", SleepLevel::Two),
    ];
    let mut level = query.one_of("level", SleepLevel::One, &levels)?;
    let mode = query.mode()?;
    let named = query.all("tags");
    query.done()?;
    if !named.is_empty() {
        let Tags { weights, .. } = tags(&named, "query.tags")?;
        level = if weights {
            SleepLevel::Two
        } else {
            SleepLevel::One
        };
    }
    let slept = loaded(&app)?.engine.sleep(level, mode).answer().await;
    slept.map_err(|error| uncontrolled(&error))?;
    Ok(Json(json!({"status": "sleeping", "level": level.number()})))
}

pub(super) async fn wake_up(
    State(app): State<Arc<App>>,
    mut query: Query,
    body: SentBody,
) -> Answer {
    body.nothing().await?;
    let named = query.all("tags");
    query.done()?;
    let woken = loaded(&app)?.engine.wake(tags(&named, "query.tags")?);
    let woken = woken.answer().await.map_err(|error| uncontrolled(&error))?;
    let status = if woken.asleep { "sleeping" } else { "awake" };
    let tags = Some(named).filter(|named| !named.is_empty());
    Ok(Json(json!({"status": status, "tags_woken": tags})))
}

pub(super) async fn is_sleeping(State(app): State<Arc<App>>) -> Answer {
    let rest = loaded(&app)?.engine.rest();
    Ok(Json(json!({"is_sleeping": rest.is_sleeping()})))
}

pub(super) async fn release_kv_cache(
    State(app): State<Arc<App>>,
    query: Query,
    body: SentBody,
) -> Answer {
    body.nothing().await?;
    query.done()?;
    let released = loaded(&app)?.engine.release_kv_cache().answer().await;
    released.map_err(|error| uncontrolled(&error))?;
    Ok(Json(json!({"status": "kv_cache_released"})))
}

/// A bad value is a plain `{"error"}` here.
pub(super) async fn pause(
    State(app): State<Arc<App>>,
    query: Query,
    body: SentBody,
) -> Result<Response, ApiError> {
    body.nothing().await?;
    let (mode, clear_cache) = match pause_parameters(query) {
        Ok(parameters) => parameters,
        Err(error) => {
            let body = Json(json!({"error": error.message}));
            return Ok((StatusCode::BAD_REQUEST, body).into_response());
        }
    };
    let paused = loaded(&app)?.engine.pause(mode, clear_cache).answer().await;
    paused.map_err(|error| uncontrolled(&error))?;
    Ok(Json(json!({"status": "paused"})).into_response())
}

fn pause_parameters(mut query: Query) -> Result<(PauseMode, bool), ApiError> {
    let mode = query.mode()?;
    // The older name of `mode=wait`.
    let waits = query.flag("wait_for_inflight_requests", false)?;
    let clear_cache = query.flag("clear_cache", true)?;
    query.done()?;
    Ok((if waits { PauseMode::Wait } else { mode }, clear_cache))
}

pub(super) async fn resume(State(app): State<Arc<App>>, query: Query, body: SentBody) -> Answer {
    body.nothing().await?;
    query.done()?;
    let resumed = loaded(&app)?.engine.resume().answer().await;
    resumed.map_err(|error| uncontrolled(&error))?;
    Ok(Json(json!({"status": "resumed"})))
}

pub(super) async fn is_paused(State(app): State<Arc<App>>) -> Answer {
    Ok(Json(
        json!({"is_paused": loaded(&app)?.engine.rest().paused}),
    ))
}

/// Ids as answers have them, or all requests.
pub(super) async fn abort_requests(State(app): State<Arc<App>>, body: SentBody) -> Answer {
    let mut fields = body.fields().await?;
    let names = texts(&mut fields, "request_ids")?;
    done(&fields)?;
    let aborted = app.abort(&*loaded(&app)?.engine, names.as_deref());
    Ok(Json(json!({"status": "aborted", "aborted": aborted})))
}

pub(super) async fn reset_prefix_cache(
    State(app): State<Arc<App>>,
    mut query: Query,
    body: SentBody,
) -> Result<StatusCode, ApiError> {
    body.nothing().await?;
    let running = query.flag("reset_running_requests", false)?;
    // There is no cache outside the engine.
    query.flag("reset_external", false)?;
    query.done()?;
    let reset = loaded(&app)?.engine.reset_prefix_cache(running).answer();
    reset.await.map_err(|error| uncontrolled(&error))?;
    Ok(StatusCode::OK)
}

/// Caches of images and encoders: this server has none, so they are empty.
pub(super) async fn reset_nothing(State(app): State<Arc<App>>) -> Result<StatusCode, ApiError> {
    loaded(&app).map(|_| StatusCode::OK)
}

/// One data-parallel group, so `include_dp` changes nothing.
pub(super) async fn world_size(State(app): State<Arc<App>>, mut query: Query) -> Answer {
    query.flag("include_dp", true)?;
    query.done()?;
    let ranks = loaded(&app)?.engine.facts().ranks;
    Ok(Json(json!({"world_size": ranks})))
}

pub(super) async fn server_info(State(app): State<Arc<App>>, mut query: Query) -> Answer {
    let as_text = query.one_of("config_format", true, &[("text", true), ("json", false)])?;
    query.done()?;
    let loaded = loaded(&app)?;
    let ranks = loaded.engine.facts().ranks;
    let effective = blocking(move || Ok(loaded.effective(&loaded.engine.memory()))).await?;
    let mut config = serde_json::to_value(effective).unwrap_or_default();
    config["model"] = json!(app.root);
    config["served_model_name"] = json!(app.served);
    config["tensor_parallel_size"] = json!(ranks);
    let config = if as_text {
        json!(config.to_string())
    } else {
        config
    };
    let version = env!("CARGO_PKG_VERSION");
    Ok(Json(json!({
        "vllm_config": config,
        "vllm_env": {},
        "system_env": {"plimsoll_version": version},
    })))
}

/// `reload_weights` alone: the files of the weights in force are read again.
pub(super) async fn collective_rpc(State(app): State<Arc<App>>, body: SentBody) -> Answer {
    let mut fields = body.fields().await?;
    let method = fields.remove("method");
    let Some(Value::String(method)) = method else {
        let message = "method: must be a string".to_owned();
        return Err(ApiError::invalid(Some("method"), message));
    };
    if method != "reload_weights" {
        return Err(not_implemented(format!(
            "method: {} names a function of a Python worker, and there is none; reload_weights is \
             known",
            shown(&method)
        )));
    }
    fields.remove("timeout");
    for name in ["args", "kwargs"] {
        let is_empty = |value: &Value| match value {
            Value::Array(items) => items.is_empty(),
            Value::Object(items) => items.is_empty(),
            value => value.is_null(),
        };
        if fields.remove(name).is_some_and(|value| !is_empty(&value)) {
            let why = "reload_weights reads the files of the weights in force and takes nothing; others are for \
                 /update_weights";
            return Err(ApiError::unsupported(name, why));
        }
    }
    done(&fields)?;
    update::reload(&app).await?;
    let ranks = loaded(&app)?.engine.facts().ranks as usize;
    Ok(Json(json!({"results": vec![Value::Null; ranks]})))
}

/// `POST /weight_checker`: one checksum per rank and tensor, as the ranks have them in memory.
pub(super) async fn weight_checker(State(app): State<Arc<App>>, body: SentBody) -> Answer {
    let mut fields = body.fields().await?;
    let action = fields.remove("action");
    let baseline = fields.remove("baseline");
    done(&fields)?;
    let sums = |checks: &[WeightCheck]| -> Map<String, Value> {
        let of = |(rank, check): (usize, &WeightCheck)| {
            let sum = |(tensor, sum): &(String, u64)| {
                let key = format!("dp0:pp0:pcp0:tp{rank}:{tensor}");
                (key, json!(format!("{sum:016x}")))
            };
            check.sums.iter().map(sum).collect::<Vec<_>>()
        };
        checks.iter().enumerate().flat_map(of).collect()
    };
    match action.as_ref().and_then(Value::as_str) {
        Some("checksum") => {
            let checks = weights::checks(&*loaded(&app)?).await?;
            Ok(Json(json!({"checksums": sums(&checks)})))
        }
        Some("compare") => {
            let Some(Value::Object(baseline)) = baseline else {
                let message = "baseline: must be the checksums to compare with".to_owned();
                return Err(ApiError::invalid(Some("baseline"), message));
            };
            let now = sums(&weights::checks(&*loaded(&app)?).await?);
            let keys = now.keys().chain(baseline.keys());
            let mut differ: Vec<&String> =
                keys.filter(|k| now.get(*k) != baseline.get(*k)).collect();
            differ.sort_unstable();
            differ.dedup();
            Ok(Json(
                json!({"match": differ.is_empty(), "mismatches": differ}),
            ))
        }
        Some("reset") => Err(not_implemented(
            "action: reset overwrites the weights, which only the model's files can do here"
                .to_owned(),
        )),
        _ => Err(ApiError::invalid(
            Some("action"),
            "action: must be checksum, compare or reset",
        )),
    }
}
