//! Reads a request's body: bounded in size and time, then as a JSON object.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::header;
use futures::StreamExt;

use super::app::App;
use super::error::ApiError;
use super::fields::Fields;

/// A JSON object as the body.
#[derive(Debug)]
pub struct JsonBody(pub Fields);

impl FromRequest<Arc<App>> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<JsonBody, ApiError> {
        let timeout = app.limits.body_timeout;
        let bytes = tokio::time::timeout(timeout, read(request, app.limits.body_bytes))
            .await
            .map_err(|_| ApiError::body_timeout(timeout.as_secs()))??;
        Ok(JsonBody(Fields::parse(&bytes)?))
    }
}

async fn read(request: Request, limit: usize) -> Result<Bytes, ApiError> {
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let mut chunks = request.into_body().into_data_stream();
    if announced.is_some_and(|length| length > limit as u64) {
        discard(chunks, limit).await;
        return Err(ApiError::too_large(limit));
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| {
            ApiError::invalid(None, format!("the request body could not be read: {error}"))
        })?;
        if bytes.len() + chunk.len() > limit {
            discard(chunks, limit).await;
            return Err(ApiError::too_large(limit));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Bytes::from(bytes))
}

/// Reads on without keeping anything: a client that is still sending when the connection closes
/// would see a reset instead of the 413. Bounded, so that it is no way to keep us busy.
async fn discard(
    mut chunks: impl StreamExt<Item = Result<Bytes, axum::Error>> + Unpin,
    limit: usize,
) {
    let mut left = limit.saturating_mul(8);
    while let Some(Ok(chunk)) = chunks.next().await {
        let Some(rest) = left.checked_sub(chunk.len()) else {
            return;
        };
        left = rest;
    }
}
