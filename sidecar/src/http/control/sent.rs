//! Bodies of the admin port's routes and of control routes: bounded in size and time; one that takes long
//! makes way for others that wait, as on every route.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequest, Request};
use futures::StreamExt;
use serde_json::{Map, Value};

use crate::http::body::{in_time, unread};
use crate::http::error::{ApiError, shown};
use crate::http::json;
use crate::http::places::Place;

/// Bytes of a body: names of requests, or the checksums of some ten thousand tensors.
const BODY_BYTES: usize = 1 << 20;

/// For a whole body.
const PATIENCE: Duration = Duration::from_secs(60);

/// A body that has yet to come.
#[derive(Debug)]
pub(in crate::http) struct SentBody {
    body: Body,
    place: Option<Arc<Place>>,
}

impl<S: Sync> FromRequest<S> for SentBody {
    type Rejection = Infallible;

    async fn from_request(request: Request, _: &S) -> Result<SentBody, Infallible> {
        let place = request.extensions().get::<Arc<Place>>().cloned();
        let body = request.into_body();
        Ok(SentBody { body, place })
    }
}

impl SentBody {
    /// All of it.
    ///
    /// # Errors
    /// 413 for more than `limit` bytes, at once where the request announces them; 408, 503 when it takes
    /// too long; 400 when it ends early or is framed wrongly.
    pub(in crate::http) async fn bytes(
        self,
        limit: usize,
        patience: Duration,
    ) -> Result<Bytes, ApiError> {
        let SentBody { body, place } = self;
        if body.size_hint().lower() > limit as u64 {
            return Err(ApiError::too_large(limit));
        }
        let read = async {
            let mut bytes = Vec::new();
            let mut chunks = body.into_data_stream();
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk.map_err(|error| unread(&error))?;
                if bytes.len() + chunk.len() > limit {
                    return Err(ApiError::too_large(limit));
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(bytes.into())
        };
        in_time(place.as_ref(), patience, read).await
    }

    /// A body of fields: a JSON object, or nothing, which is an empty one.
    ///
    /// # Errors
    /// As [`SentBody::bytes`]; 400 for what is no object.
    pub(in crate::http) async fn fields(self) -> Result<Map<String, Value>, ApiError> {
        let bytes = self.bytes(BODY_BYTES, PATIENCE).await?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Map::new());
        }
        match json::parse(&bytes) {
            Ok(Value::Object(fields)) => Ok(fields),
            Ok(Value::Null) => Ok(Map::new()),
            Ok(_) => Err(ApiError::invalid(None, "the body must be a JSON object")),
            Err(error) => {
                let message = format!("the body is not JSON: {error}");
                Err(ApiError::invalid(None, message))
            }
        }
    }

    /// For a route whose parameters are in its address: a body is empty, or has no fields.
    ///
    /// # Errors
    /// As [`SentBody::fields`]; 400 that names a field and where it belongs.
    pub(in crate::http) async fn nothing(self) -> Result<(), ApiError> {
        let fields = self.fields().await?;
        let Some(name) = fields.keys().next() else {
            return Ok(());
        };
        let message = format!(
            "{}: this route takes its parameters in the address (?name=value), and no field of a body",
            shown(name)
        );
        let name: String = name.chars().take(64).collect();
        Err(ApiError::invalid(Some(&name), message))
    }
}
