//! The HTTP APIs: OpenAI's on one port, admin on another. The only place that knows JSON of
//! requests; it never names a device.
//!
//! A request's way: `server` (connection) → `body` (bounded JSON) → `fields` and `params` (every
//! parameter honoured or refused by name) → `prompt` (token ids) → `generation` (sequences in the
//! engine) → `choice` (ids to text, stop strings) → `answers` and `sse` (OpenAI's objects).

pub mod admin;
pub mod answers;
pub mod app;
pub mod body;
pub mod choice;
pub mod error;
pub mod fields;
pub mod generation;
pub mod generator;
pub mod health;
pub mod openai;
pub mod params;
pub mod ports;
pub mod prompt;
pub mod server;
pub mod sse;
pub mod stop;
pub mod tokenize;
pub mod types;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};

use app::App;
use error::{ApiError, shown};

/// The API port.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/models", get(openai::models))
        // Names may contain slashes, as `org/model` does.
        .route("/v1/models/{*id}", get(openai::model))
        .route("/v1/completions", post(openai::completions))
        .route("/v1/chat/completions", post(openai::chat))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .route("/health", get(health::health))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/version", get(health::version))
        .route("/metrics", get(health::metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(
            Arc::clone(&app),
            count_refusals,
        ))
        .with_state(app)
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

/// Counts answers of `/v1` that are errors, by status: what a client did wrong is in its body.
async fn count_refusals(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let counted = request.uri().path().starts_with("/v1/");
    let response = next.run(request).await;
    if counted && (response.status().is_client_error() || response.status().is_server_error()) {
        app.metrics.refused(response.status().as_str());
    }
    response
}
