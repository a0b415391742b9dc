//! One call: `PUT /target` or `PUT /target/sleep` to one pod's admin port, with its token. The peer is
//! not trusted: its answer is bounded in bytes, and the whole call in time.

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, StatusCode, header};
use plimsoll_crds::v1alpha1::TargetReport;
use serde_json::Value;
use tokio::time::timeout;

use crate::admin_port;
use crate::mandate::{Mandate, NoMandate};

/// A report takes about a kilobyte.
const ANSWER_BYTES: usize = 64 * 1024;
/// Characters of an engine's own words that are repeated.
const WORDS: usize = 300;

/// Why a pod was not told.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error(transparent)]
    NoMandate(#[from] NoMandate),
    #[error("connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("http: {0}")]
    Http(#[from] hyper::Error),
    #[error("the request could not be made: {0}")]
    Request(#[from] hyper::http::Error),
    #[error("the engine answered {status}: {words}")]
    Status { status: StatusCode, words: String },
    #[error("the engine's answer is no report: {0}")]
    Answer(String),
    #[error("the engine was told generation {told} and answers of {answered}")]
    Generation { told: i64, answered: i64 },
    #[error("no answer within {} s", .0.as_secs_f32())]
    Silent(Duration),
}

/// Tells the engine at an address (IP and port) a document at its path, and gives what it says became of
/// it.
///
/// # Errors
/// No answer in time, another than 200 with a report, or this process may not write.
pub(super) async fn put(
    at: (&str, u16),
    token: &str,
    document: (&str, Bytes),
    (mandate, patience): (&Mandate, Duration),
) -> Result<TargetReport, CallError> {
    timeout(patience, exchange(at, token, document, mandate))
        .await
        .unwrap_or(Err(CallError::Silent(patience)))
}

async fn exchange(
    at: (&str, u16),
    token: &str,
    (path, document): (&str, Bytes),
    mandate: &Mandate,
) -> Result<TargetReport, CallError> {
    let (mut sender, _carrier) = admin_port::connect::<_, CallError>(at).await?;
    let request = admin_port::request(at, token)
        .method(Method::PUT)
        .uri(path)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(document))?;
    // It is a write, and the last moment to ask.
    if !mandate.holds() {
        return Err(NoMandate.into());
    }
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES)
        .collect()
        .await;
    let body = body.map_err(|error| CallError::Answer(error.to_string()))?;
    let body = body.to_bytes();
    match status {
        StatusCode::OK => {
            serde_json::from_slice(&body).map_err(|error| CallError::Answer(error.to_string()))
        }
        status => Err(CallError::Status {
            status,
            words: words(&body),
        }),
    }
}

/// The message of an error as the engine writes it, or the beginning of whatever came.
fn words(body: &[u8]) -> String {
    let json: Option<Value> = serde_json::from_slice(body).ok();
    let message = json.and_then(|json| Some(json["error"]["message"].as_str()?.to_owned()));
    let text = message.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    text.chars().take(WORDS).collect()
}
