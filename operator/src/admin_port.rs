//! The admin port of an engine's pod: one connection, and what every request to it says of itself.

use hyper::body::Body;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::http::request::Builder;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// Carries a connection's bytes; the connection ends with it.
#[derive(Debug)]
pub(crate) struct Carrier(JoinHandle<()>);

impl Drop for Carrier {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Connects to an address (IP and port). Takes as long as the network does: callers bound it.
///
/// # Errors
/// No connection.
pub(crate) async fn connect<B, E>(at: (&str, u16)) -> Result<(SendRequest<B>, Carrier), E>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    E: From<std::io::Error> + From<hyper::Error>,
{
    let socket = TcpStream::connect(at).await?;
    let (sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
    // Its errors come out of the request, too.
    let carrier = tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok((sender, Carrier(carrier)))
}

/// A request with the address and the resource's token in its head.
pub(crate) fn request((ip, port): (&str, u16), token: &str) -> Builder {
    let host = match ip.contains(':') {
        true => format!("[{ip}]"),
        false => ip.to_owned(),
    };
    Request::builder()
        .header(header::HOST, format!("{host}:{port}"))
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
}
