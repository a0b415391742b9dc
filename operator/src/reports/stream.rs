//! One stream: plain HTTP to one pod's admin port, with its token.

use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{StatusCode, header};
use plimsoll_crds::v1alpha1::MemoryReport;
use tokio::time::timeout;

use super::lines::{LineError, Lines};
use crate::admin_port::{self, Carrier};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    #[error("connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("http: {0}")]
    Http(#[from] hyper::Error),
    #[error("the request could not be made: {0}")]
    Request(#[from] hyper::http::Error),
    #[error("the engine answered {0}")]
    Status(StatusCode),
    #[error("{0}")]
    Line(#[from] LineError),
    #[error("nothing came for {} s", .0.as_secs_f32())]
    Silent(Duration),
    #[error("the engine closed the stream")]
    Closed,
}

/// An open stream of reports.
#[derive(Debug)]
pub(crate) struct ReportStream {
    body: Incoming,
    lines: Lines,
    /// The stream ends with it.
    _carrier: Carrier,
}

impl ReportStream {
    /// Connects to the pod at an address (IP and port).
    ///
    /// # Errors
    /// No connection within five seconds, or another answer than 200.
    pub(crate) async fn open(at: (&str, u16), token: &str) -> Result<ReportStream, StreamError> {
        timeout(CONNECT_TIMEOUT, ReportStream::connect(at, token))
            .await
            .unwrap_or(Err(StreamError::Silent(CONNECT_TIMEOUT)))
    }

    async fn connect(at: (&str, u16), token: &str) -> Result<ReportStream, StreamError> {
        let (mut sender, carrier) = admin_port::connect::<_, StreamError>(at).await?;
        let request = admin_port::request(at, token)
            .uri("/memory/watch")
            .header(header::ACCEPT, "application/x-ndjson")
            .body(Empty::<Bytes>::new())?;
        let answer = sender.send_request(request).await?;
        match answer.status() {
            StatusCode::OK => Ok(ReportStream {
                body: answer.into_body(),
                lines: Lines::default(),
                _carrier: carrier,
            }),
            status => Err(StreamError::Status(status)),
        }
    }

    /// The newest report of those that came next.
    ///
    /// # Errors
    /// The stream ended, said what is no report, or was silent for `patience`.
    pub(crate) async fn next(&mut self, patience: Duration) -> Result<MemoryReport, StreamError> {
        let last = async {
            loop {
                let frame = self.body.frame().await.ok_or(StreamError::Closed)??;
                let Some(bytes) = frame.data_ref() else {
                    continue;
                };
                if let Some(newest) = self.lines.take(bytes)?.pop() {
                    return Ok(newest);
                }
            }
        };
        timeout(patience, last)
            .await
            .unwrap_or(Err(StreamError::Silent(patience)))
    }
}
