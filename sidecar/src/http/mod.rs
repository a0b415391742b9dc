//! The HTTP APIs: OpenAI's on one port, admin on another. The only place that knows JSON of
//! requests; it never names a device.
//!
//! A request's way: `server` (connection, with one of the `places`) → `body` (JSON, within the bytes
//! of all `bodies`) → `fields`, `decisions` and `params` (every parameter honoured or refused by
//! name) → `prompt` (token ids, by the threads of `encoders`) → `generation` (sequences in the
//! engine, within the bytes of all `unsent` answers) → `choice` (ids to text, stop strings) →
//! `whole`, or `answers` and `sse` (OpenAI's objects).

pub mod adapters;
pub mod admin;
pub mod answers;
pub mod app;
pub mod bodies;
pub mod body;
pub mod bounds;
pub mod chat_options;
pub mod choice;
pub mod control;
pub mod decisions;
pub mod effort;
pub mod encoders;
pub mod error;
pub mod fields;
pub mod generation;
pub mod generator;
pub mod health;
pub mod json;
pub mod listed;
mod loaded;
pub mod openai;
pub mod params;
pub mod places;
pub mod ports;
pub mod messages;
pub mod named;
pub mod prompt;
pub mod quota;
mod reads;
pub mod requests;
pub mod server;
pub mod sse;
pub mod stop;
pub mod target;
pub mod token;
pub mod tokenize;
pub mod types;
pub mod unsent;
pub mod updates;
pub mod whole;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use tower_http::cors::{AllowHeaders, Any, CorsLayer};

use app::App;
use error::{ApiError, shown};

use crate::args::ControlApi;

/// What the weights are called that an answer is of.
pub const WEIGHT_VERSION: HeaderName = HeaderName::from_static("x-plimsoll-weight-version");

/// The API port with its control routes. `origins`: whose pages may call it from a browser.
pub fn api_router(app: Arc<App>, origins: &[HeaderValue], who: ControlApi) -> Router {
    router(Arc::clone(&app), origins).merge(control::on_api_port(app, who))
}

/// The API port but for those.
pub fn router(app: Arc<App>, origins: &[HeaderValue]) -> Router {
    let routes = probes()
        .route("/v1/models", get(openai::models))
        // Names may contain slashes, as `org/model` does.
        .route("/v1/models/{*id}", get(openai::model))
        .route("/v1/completions", post(openai::completions))
        .route("/v1/chat/completions", post(openai::chat))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(
            Arc::clone(&app),
            count_refusals,
        ))
        .with_state(app);
    match origins {
        [] => routes,
        origins => routes.layer(cors(origins)),
    }
}

/// The port of probes and metrics.
pub fn probe_router(app: Arc<App>) -> Router {
    probes()
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(app)
}

/// The API port answers these too, for gateways that know no other port.
fn probes() -> Router<Arc<App>> {
    Router::new()
        .route("/health", get(health::health))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/version", get(health::version))
        .route("/metrics", get(health::metrics))
}

/// What a browser is told about pages of other origins.
fn cors(origins: &[HeaderValue]) -> CorsLayer {
    const A_DAY: Duration = Duration::from_secs(86_400);
    let layer = CorsLayer::new()
        .allow_methods([Method::GET, Method::POST])
        // Clients send headers of their own (authorization, x-stainless-lang); none is a secret
        // here.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([header::RETRY_AFTER, WEIGHT_VERSION])
        .max_age(A_DAY);
    match origins.iter().any(|origin| origin == "*") {
        true => layer.allow_origin(Any),
        false => layer.allow_origin(origins.to_vec()),
    }
}

pub(crate) async fn not_found(uri: Uri) -> ApiError {
    let message = format!("there is no {}", shown(uri.path()));
    ApiError {
        status: StatusCode::NOT_FOUND,
        ..ApiError::invalid(None, message).with_code("not_found")
    }
}

pub(crate) async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    let message = format!("{} does not take {method}", shown(uri.path()));
    ApiError {
        status: StatusCode::METHOD_NOT_ALLOWED,
        ..ApiError::invalid(None, message).with_code("method_not_allowed")
    }
}

/// Counts answers of `/v1` that are errors, by status: what a client did wrong is in its body. Others
/// say which weights they are of: those in force when the answer, or its stream, begins.
async fn count_refusals(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let counted = request.uri().path().starts_with("/v1/");
    let mut response = next.run(request).await;
    if let Some(loaded) = app
        .peek()
        .filter(|_| counted && response.status().is_success())
    {
        let version = loaded.engine.weights().version;
        // A version has no control characters; where there is none, there is no header.
        if let Ok(version) = HeaderValue::from_bytes(version.as_bytes())
            && !version.is_empty()
        {
            response.headers_mut().insert(WEIGHT_VERSION, version);
        }
    }
    if counted && (response.status().is_client_error() || response.status().is_server_error()) {
        app.metrics.refused(response.status().as_str());
    }
    response
}
