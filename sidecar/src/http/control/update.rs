//! Other weights from files, under vLLM's, prime-rl's and SGLang's names; and what they are called.
//!
//! A folder is named by whoever controls the engine, so it must lie under a `--weights-root`, links
//! resolved, and so must its files.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::refused::pushed;
use super::roots::{WEIGHTS, allowed, unopened};
use super::sent::SentBody;
use super::{done, loaded};
use crate::engine::rest::PauseMode;
use crate::engine::weights::{Updated, WeightsInForce};
use crate::http::app::App;
use crate::http::error::ApiError;
use crate::http::generator::uncontrolled;
use crate::model::Replacement;

type Answer = Result<Json<Value>, ApiError>;

pub(super) async fn info(State(app): State<Arc<App>>) -> Answer {
    let WeightsInForce { version, .. } = loaded(&app)?.engine.weights();
    Ok(Json(json!({"weight_version": version})))
}

pub(super) async fn name(State(app): State<Arc<App>>, body: SentBody) -> Answer {
    let mut fields = body.fields().await?;
    let version = version(&mut fields, "new_version")?;
    done(&fields)?;
    let version = version.ok_or_else(|| missing("new_version"))?;
    let named = loaded(&app)?.engine.name_weights(version.clone()).answer();
    named.await.map_err(|error| uncontrolled(&error))?;
    Ok(Json(json!({"success": true, "new_version": version})))
}

/// `{"update_info": {"path"}}`, or prime-rl's `{"weight_dir"}`; requests are held meanwhile.
pub(super) async fn vllm(app: Arc<App>, body: SentBody) -> Answer {
    let mut fields = body.fields().await?;
    if let Some(folder) = text(&mut fields, "weight_dir")? {
        done(&fields)?;
        replace(&app, folder, "weight_dir", None, PauseMode::Keep).await?;
        return Ok(Json(json!({"status": "ok"})));
    }
    let folder = match fields.remove("update_info") {
        Some(Value::Object(mut info)) => {
            let folder = text(&mut info, "path")?;
            if folder.is_some() {
                done(&info)?;
            }
            folder
        }
        _ => None,
    };
    // Names, types and shapes of what NCCL would bring.
    let folder = folder.ok_or_else(|| pushed("update_info without a path"))?;
    done(&fields)?;
    replace(&app, folder, "update_info.path", None, PauseMode::Keep).await?;
    Ok(Json(json!({"message": "Weights updated"})))
}

/// What comes of it is told in SGLang's words whatever it is.
pub(super) async fn sglang(State(app): State<Arc<App>>, body: SentBody) -> Response {
    let answer = |status: StatusCode, success: bool, message: String, held: usize| {
        let body = json!({"success": success, "message": message, "num_paused_requests": held});
        (status, Json(body)).into_response()
    };
    match from_disk(&app, body).await {
        Ok(Updated { held, .. }) => {
            let message = "Succeeded to update model weights.".to_owned();
            answer(StatusCode::OK, true, message, held)
        }
        Err(error) => answer(error.status, false, error.message, 0),
    }
}

async fn from_disk(app: &App, body: SentBody) -> Result<Updated, ApiError> {
    let mut fields = body.fields().await?;
    let folder = text(&mut fields, "model_path")?;
    let version = version(&mut fields, "weight_version")?;
    match text(&mut fields, "load_format")?.as_deref() {
        None | Some("auto" | "safetensors" | "gguf") => {}
        Some(_) => {
            let why = "the files say what they are: leave it out, or auto";
            return Err(ApiError::unsupported("load_format", why));
        }
    }
    let mode = match flag(&mut fields, "abort_all_requests", false)? {
        true => PauseMode::Abort,
        false => PauseMode::Keep,
    };
    // What was paused stays paused, and there is nothing to empty or to capture.
    for name in ["keep_pause", "torch_empty_cache", "recapture_cuda_graph"] {
        flag(&mut fields, name, false)?;
    }
    fields.remove("token_step");
    if flag(&mut fields, "is_async", false)? {
        let why = "the answer comes when the weights are in force";
        return Err(ApiError::unsupported("is_async", why));
    }
    if !flag(&mut fields, "flush_cache", true)? {
        let why = "what old weights computed is never used with new ones";
        return Err(ApiError::unsupported("flush_cache", why));
    }
    done(&fields)?;
    let folder = folder.ok_or_else(|| missing("model_path"))?;
    replace(app, folder, "model_path", version, mode).await
}

/// The files that were read last, once more, under the name that they had, or that tells of their
/// adapters: of the weights in force, or, where an update comes in between or weights were pushed since,
/// of older ones.
pub(super) async fn reload(app: &App) -> Result<Updated, ApiError> {
    let before = loaded(app)?.engine.weights();
    let path = before.path.clone();
    let called = |opened: &_| Some(before.called_after(&before.source_version, opened));
    read(app, path, "", called, PauseMode::Keep).await
}

async fn replace(
    app: &App,
    folder: String,
    param: &str,
    version: Option<String>,
    mode: PauseMode,
) -> Result<Updated, ApiError> {
    let (roots, param_of) = (app.weights_roots.clone(), param.to_owned());
    let checked = move || allowed(WEIGHTS, &roots, &folder, &param_of);
    let path = blocking(checked).await??;
    read(app, path, param, |_| version, mode).await
}

async fn read(
    app: &App,
    path: PathBuf,
    param: &str,
    version: impl FnOnce(&Replacement) -> Option<String>,
    mode: PauseMode,
) -> Result<Updated, ApiError> {
    let loaded = loaded(app)?;
    let engine = Arc::clone(&loaded.engine);
    let opened = blocking(move || engine.open_weights(&path)).await?;
    let opened = opened.map_err(|error| {
        if let Some(refused) = unopened(&error, param) {
            return refused;
        }
        let message = format!("nothing was changed: {error}");
        ApiError::invalid(Some(param).filter(|param| !param.is_empty()), message)
            .with_code("weights_refused")
    })?;
    let version = version(&opened);
    let updated = loaded.engine.update(Arc::new(opened), version, mode);
    updated.answer().await.map_err(|error| uncontrolled(&error))
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ApiError::engine(error.to_string()))
}

fn missing(name: &str) -> ApiError {
    ApiError::invalid(Some(name), format!("{name}: is missing"))
}

pub(super) fn text(
    fields: &mut Map<String, Value>,
    name: &str,
) -> Result<Option<String>, ApiError> {
    match fields.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => {
            let message = format!("{name}: must be a string");
            Err(ApiError::invalid(Some(name), message))
        }
    }
}

pub(super) fn flag(
    fields: &mut Map<String, Value>,
    name: &str,
    default: bool,
) -> Result<bool, ApiError> {
    match fields.remove(name) {
        None | Some(Value::Null) => Ok(default),
        Some(Value::Bool(flag)) => Ok(flag),
        Some(_) => {
            let message = format!("{name}: must be true or false");
            Err(ApiError::invalid(Some(name), message))
        }
    }
}

pub(super) fn version(
    fields: &mut Map<String, Value>,
    name: &str,
) -> Result<Option<String>, ApiError> {
    let version = text(fields, name)?;
    if let Some(version) = &version {
        let refuse = |why| ApiError::invalid(Some(name), format!("{name}: {why}"));
        WeightsInForce::check_version(version).map_err(refuse)?;
    }
    Ok(version)
}
