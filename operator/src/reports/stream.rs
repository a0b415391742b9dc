//! One stream: plain HTTP to one pod's admin port, with its token.

use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use plimsoll_crds::v1alpha1::MemoryReport;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::lines::{LineError, Lines};

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
    connection: JoinHandle<()>,
}

impl Drop for ReportStream {
    fn drop(&mut self) {
        self.connection.abort();
    }
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

    async fn connect((ip, port): (&str, u16), token: &str) -> Result<ReportStream, StreamError> {
        let socket = TcpStream::connect((ip, port)).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
        // Its errors come out of the body, too.
        let connection = tokio::spawn(async move {
            let _ = connection.await;
        });
        let host = match ip.contains(':') {
            true => format!("[{ip}]"),
            false => ip.to_owned(),
        };
        let request = Request::get("/memory/watch")
            .header(header::HOST, format!("{host}:{port}"))
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .header(header::ACCEPT, "application/x-ndjson")
            .body(Empty::<Bytes>::new())?;
        let answer = sender.send_request(request).await;
        let stream = |body| ReportStream {
            body,
            lines: Lines::default(),
            connection,
        };
        let answer = answer?;
        match answer.status() {
            StatusCode::OK => Ok(stream(answer.into_body())),
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
