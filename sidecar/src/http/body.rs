//! Reads a request's body: JSON by its own word, bounded in size, bytes held and time.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use futures::StreamExt;

use super::app::App;
use super::bodies::{Held, parsed_bytes};
use super::error::{ApiError, shown};
use super::fields::Fields;
use super::places::Place;

/// A JSON object as the body.
#[derive(Debug)]
pub struct JsonBody(pub Fields);

impl FromRequest<Arc<App>> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<JsonBody, ApiError> {
        expect_json(request.headers())?;
        let place = request.extensions().get::<Arc<Place>>().cloned();
        let limit = app.limits.body_timeout;
        in_time(place.as_ref(), limit, read(request, app, place.as_deref())).await
    }
}

/// Reads a body within a time, and while nobody else needs its place.
///
/// # Errors
/// 408, 503; what `read` refuses.
pub(super) async fn in_time<T>(
    place: Option<&Arc<Place>>,
    limit: Duration,
    read: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    let _reading = place.map(Place::reading);
    let give_up = async {
        match place {
            Some(place) => place.told_to_give_up().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        read = tokio::time::timeout(limit, read) => {
            read.map_err(|_| ApiError::body_timeout(limit.as_secs()))?
        }
        () = give_up => Err(ApiError::busy("others wait, and this body takes long")),
    }
}

/// 400: a body that ended before its length, or whose chunks are none.
pub(super) fn unread(error: &axum::Error) -> ApiError {
    let mut message = format!("the request body could not be read: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let words = error.to_string();
        if !message.ends_with(&words) {
            message = format!("{message}: {words}");
        }
        cause = error.source();
    }
    ApiError::invalid(None, message).with_code("body_unreadable")
}

/// A browser asks before it sends this type to another site; any other it would send at once, and
/// any page could spend a local server's time.
fn expect_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else {
        return Err(ApiError::not_json("none"));
    };
    let kind = String::from_utf8_lossy(kind.as_bytes());
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(ApiError::not_json(&shown(essence)))
}

async fn read(request: Request, app: &App, place: Option<&Place>) -> Result<JsonBody, ApiError> {
    let limit = app.limits.body_bytes;
    let places = place.map(Place::places);
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    // The answer does not wait for the rest: the connection takes and drops it afterwards.
    if announced.is_some_and(|length| length > limit) {
        return Err(ApiError::too_large(limit));
    }
    let mut held = Held::default();
    let mut room = announced.unwrap_or(0);
    // The text stands there twice while it is parsed; taken at once, so that bodies which have
    // begun do not wait for each other.
    let text = room;
    app.bodies.take(&mut held, room + text, places).await?;
    let mut bytes = Vec::with_capacity(room);
    let mut chunks = request.into_body().into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| unread(&error))?;
        let length = bytes.len() + chunk.len();
        if length > limit {
            return Err(ApiError::too_large(limit));
        }
        if length > room {
            app.bodies.take(&mut held, length - room, places).await?;
            room = length;
        }
        bytes.extend_from_slice(&chunk);
    }
    let more = parsed_bytes(&bytes).saturating_sub(text);
    app.bodies.take(&mut held, more, places).await?;
    Ok(JsonBody(Fields::parse(&bytes)?.holding(held)))
}
