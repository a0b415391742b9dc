//! Server-sent events: one `data:` line per chunk, `[DONE]` at the end.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures::Stream;
use serde::Serialize;

use super::error::ApiError;

/// One event.
pub fn event<T: Serialize>(chunk: &T) -> Bytes {
    let mut line = b"data: ".to_vec();
    match serde_json::to_writer(&mut line, chunk) {
        Ok(()) => {}
        // Our own types always serialise; a client must still see an event, not half a line.
        Err(error) => {
            return failure(&ApiError::engine(format!(
                "the answer is not JSON: {error}"
            )));
        }
    }
    line.extend_from_slice(b"\n\n");
    Bytes::from(line)
}

/// The last event of a stream that fails: the error object, which clients raise.
pub fn failure(error: &ApiError) -> Bytes {
    Bytes::from(format!("data: {}\n\n", error.body()))
}

pub const DONE: &[u8] = b"data: [DONE]\n\n";

/// A 200 answer of events. `events` is polled only as fast as the client reads.
pub fn response<S>(events: S) -> Response
where
    S: Stream<Item = Bytes> + Send + 'static,
{
    use futures::StreamExt;
    let body = Body::from_stream(events.map(Ok::<_, Infallible>));
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies that buffer would turn the stream into one late answer.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
