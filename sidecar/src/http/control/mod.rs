//! The control routes of vLLM and SGLang, with their bodies and codes: pause, sleep, wake, release,
//! abort, other weights. They live on the admin port behind its token; `--control-api loopback` serves them on the
//! API port, too, to this machine alone (`loopback`).

mod abandoned;
pub(in crate::http) mod loopback;
pub(in crate::http) mod lora;
pub(in crate::http) mod push;
pub(in crate::http) mod query;
mod receiving;
mod refused;
mod roots;
pub(in crate::http) mod sent;
mod sglang;
mod update;
mod vllm;
pub mod weights;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, Uri};
use axum::middleware::{Next, from_fn};
use axum::routing::{any, get, post};
use serde_json::{Map, Value};

use super::app::{App, Loaded};
use super::error::{ApiError, shown};
use super::method_not_allowed;
use crate::args::ControlApi;

/// All of them, for anybody: who may use them is the port's to say ([`on_api_port`], `admin`).
pub fn routes() -> Router<Arc<App>> {
    let routes = with_parameters().merge(with_none().route_layer(from_fn(query::none)));
    refused::PATHS.iter().fold(routes, |routes, path| {
        routes.route(path, any(refused::refuse))
    })
}

/// The same on the API port. Off, nobody may, and is told where.
pub fn on_api_port(app: Arc<App>, who: ControlApi) -> Router {
    // The routes alone: what is none of them stays the API port's own to refuse.
    let routes = routes()
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(app);
    match who {
        ControlApi::Loopback => routes.route_layer(from_fn(loopback::only_this_machine)),
        ControlApi::Off => routes.route_layer(from_fn(elsewhere)),
    }
}

async fn elsewhere(uri: Uri, _: Request, _: Next) -> ApiError {
    let message = format!(
        "{} is not on this port: it is on the admin port, behind its token; to serve it here, too, to \
         clients on this machine, start with --control-api loopback",
        shown(uri.path())
    );
    ApiError {
        status: StatusCode::NOT_FOUND,
        ..ApiError::invalid(None, message).with_code("not_found")
    }
}

fn with_parameters() -> Router<Arc<App>> {
    Router::new()
        .route("/sleep", post(vllm::sleep))
        .route("/wake_up", post(vllm::wake_up))
        .route("/release_kv_cache_memory", post(vllm::release_kv_cache))
        .route("/pause", post(vllm::pause))
        .route("/resume", post(vllm::resume))
        .route("/reset_prefix_cache", post(vllm::reset_prefix_cache))
        .route("/get_world_size", get(vllm::world_size))
        .route("/server_info", get(vllm::server_info))
        .route("/update_weights", post(push::update_weights))
        .route("/finish_weight_update", post(push::finish))
        .route("/abort_weight_update", post(push::abort))
        .route("/flush_cache", get(sglang::flush).post(sglang::flush))
}

fn with_none() -> Router<Arc<App>> {
    Router::new()
        .route("/is_sleeping", get(vllm::is_sleeping))
        .route("/is_paused", get(vllm::is_paused))
        .route("/abort_requests", post(vllm::abort_requests))
        .route("/reset_mm_cache", post(vllm::reset_nothing))
        .route("/reset_encoder_cache", post(vllm::reset_nothing))
        .route("/collective_rpc", post(vllm::collective_rpc))
        .route("/weight_checker", post(vllm::weight_checker))
        .route("/weight_info", get(update::info))
        .route("/update_weight_version", post(update::name))
        .route("/start_weight_update", post(push::start))
        .route("/update_weights_from_disk", post(update::sglang))
        .route("/v1/load_lora_adapter", post(lora::load))
        .route("/v1/unload_lora_adapter", post(lora::unload))
        .route("/load_lora_adapter", post(lora::load_sglang))
        .route("/unload_lora_adapter", post(lora::unload_sglang))
        .route("/release_memory_occupation", post(sglang::release))
        .route("/resume_memory_occupation", post(sglang::resume))
        .route("/pause_generation", post(sglang::pause))
        .route("/continue_generation", post(sglang::go_on))
        .route("/abort_request", post(sglang::abort))
        .route("/weights_checker", post(sglang::check))
        .route(
            "/health_generate",
            get(sglang::health_generate).post(sglang::health_generate),
        )
}

/// The model, whatever its state, once it is open.
fn loaded(app: &App) -> Result<Arc<Loaded>, ApiError> {
    app.tokenizing()
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
