//! The control routes of vLLM and SGLang, with their bodies and codes: pause, sleep, wake, release,
//! abort, other weights. They live on the admin port behind its token; `--control-api loopback` serves them on the
//! API port, too, to this machine alone (`loopback`).

mod abandoned;
pub mod loopback;
pub(in crate::http) mod lora;
pub(in crate::http) mod push;
mod query;
mod receiving;
mod refused;
mod sglang;
mod update;
mod vllm;
pub mod weights;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::routing::{any, get, post};
use serde_json::{Map, Value};

use super::app::{App, Loaded};
use super::error::ApiError;

/// Bytes of a body: names of requests, or the checksums of some ten thousand tensors.
const BODY_BYTES: usize = 1 << 20;

/// For a whole body.
const BODY_PATIENCE: Duration = Duration::from_secs(60);

pub fn routes() -> Router<Arc<App>> {
    let routes = Router::new()
        .route("/sleep", post(vllm::sleep))
        .route("/wake_up", post(vllm::wake_up))
        .route("/is_sleeping", get(vllm::is_sleeping))
        .route("/release_kv_cache_memory", post(vllm::release_kv_cache))
        .route("/pause", post(vllm::pause))
        .route("/resume", post(vllm::resume))
        .route("/is_paused", get(vllm::is_paused))
        .route("/abort_requests", post(vllm::abort_requests))
        .route("/reset_prefix_cache", post(vllm::reset_prefix_cache))
        .route("/reset_mm_cache", post(vllm::reset_nothing))
        .route("/reset_encoder_cache", post(vllm::reset_nothing))
        .route("/get_world_size", get(vllm::world_size))
        .route("/server_info", get(vllm::server_info))
        .route("/collective_rpc", post(vllm::collective_rpc))
        .route("/weight_checker", post(vllm::weight_checker))
        .route("/weight_info", get(update::info))
        .route("/update_weight_version", post(update::name))
        .route("/start_weight_update", post(push::start))
        .route("/update_weights", post(push::update_weights))
        .route("/finish_weight_update", post(push::finish))
        .route("/abort_weight_update", post(push::abort))
        .route("/update_weights_from_disk", post(update::sglang))
        .route(lora::PATHS[0], post(lora::load))
        .route(lora::PATHS[1], post(lora::unload))
        .route(lora::PATHS[2], post(lora::load_sglang))
        .route(lora::PATHS[3], post(lora::unload_sglang))
        .route("/release_memory_occupation", post(sglang::release))
        .route("/resume_memory_occupation", post(sglang::resume))
        .route("/pause_generation", post(sglang::pause))
        .route("/continue_generation", post(sglang::go_on))
        .route("/flush_cache", get(sglang::flush).post(sglang::flush))
        .route("/abort_request", post(sglang::abort))
        .route("/weights_checker", post(sglang::check))
        .route(
            "/health_generate",
            get(sglang::health_generate).post(sglang::health_generate),
        );
    refused::PATHS.iter().fold(routes, |routes, path| {
        routes.route(path, any(refused::refuse))
    })
}

/// The model, whatever its state, once it is open.
fn loaded(app: &App) -> Result<Arc<Loaded>, ApiError> {
    app.tokenizing()
}

/// A body of fields: a JSON object, or nothing, which is an empty one.
pub(super) async fn fields(body: Body) -> Result<Map<String, Value>, ApiError> {
    let bytes = tokio::time::timeout(BODY_PATIENCE, to_bytes(body, BODY_BYTES)).await;
    let bytes = bytes
        .map_err(|_| ApiError::body_timeout(BODY_PATIENCE.as_secs()))?
        .map_err(|_| ApiError::too_large(BODY_BYTES))?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(Value::Null) => Ok(Map::new()),
        Ok(_) => Err(ApiError::invalid(None, "the body must be a JSON object")),
        Err(error) => Err(ApiError::invalid(
            None,
            format!("the body is not JSON: {error}"),
        )),
    }
}

/// A list of texts in a field; None when it is absent or null.
fn texts(fields: &mut Map<String, Value>, name: &str) -> Result<Option<Vec<String>>, ApiError> {
    let wrong = || ApiError::invalid(Some(name), format!("{name}: must be a list of strings"));
    match fields.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(items)) => {
            let text = |item: Value| match item {
                Value::String(text) => Ok(text),
                _ => Err(wrong()),
            };
            items
                .into_iter()
                .map(text)
                .collect::<Result<_, _>>()
                .map(Some)
        }
        Some(_) => Err(wrong()),
    }
}

/// What is left was not taken: it is named, not passed over.
pub(super) fn done(fields: &Map<String, Value>) -> Result<(), ApiError> {
    match fields.iter().find(|(_, value)| !value.is_null()) {
        None => Ok(()),
        Some((name, _)) => Err(ApiError::unsupported(name, "this route does not know it")),
    }
}
