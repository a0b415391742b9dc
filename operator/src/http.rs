//! The operator's own HTTP: `/metrics`, `/healthz`, `/readyz`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::metrics::Metrics;
use crate::stores::Watches;

/// What the endpoints read.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    pub(crate) metrics: Arc<Metrics>,
    /// The process has reached the API server and either leads or stands by.
    pub(crate) ready: Arc<AtomicBool>,
    /// What a leader watches.
    pub(crate) watches: Arc<Watches>,
}

/// Serves until `stop` resolves.
///
/// # Errors
/// The address cannot be bound.
pub(crate) async fn serve(
    address: SocketAddr,
    health: Health,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    axum::serve(listener, router(health))
        .with_graceful_shutdown(stop)
        .await
}

fn router(health: Health) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .with_state(health)
}

async fn metrics(State(health): State<Health>) -> Response {
    match health.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// A restart would not open closed eyes, so `/healthz` does not ask for the watches.
async fn readyz(State(health): State<Health>) -> Response {
    let trouble = match health.ready.load(Ordering::Relaxed) {
        true => health.watches.trouble(),
        false => Some("not yet".to_owned()),
    };
    match trouble {
        None => "ok\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_leader_is_ready_once_its_watches_have_listed_everything() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let health = Health {
            metrics: Arc::clone(&metrics),
            ready: Arc::new(AtomicBool::new(false)),
            watches: Arc::new(Watches::new(metrics)),
        };
        let status = async || readyz(State(health.clone())).await.status();
        assert_eq!(status().await, StatusCode::SERVICE_UNAVAILABLE);
        health.ready.store(true, Ordering::Relaxed);
        assert_eq!(status().await, StatusCode::OK);
        let pods = health.watches.begin("Pod", None);
        assert_eq!(status().await, StatusCode::SERVICE_UNAVAILABLE);
        pods.listed();
        assert_eq!(status().await, StatusCode::OK);
    }
}
