//! Connections: accepted as long as there are places, each with its timeouts, all told when to end.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::Request;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use plimsoll_planner::host::HEAD_BYTES;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use super::app::HttpLimits;
use super::control::loopback::Peer;
use super::places::{Place, Places, Working};
use super::unsent::Share;

/// Serves until `stop` turns true, then lets requests in flight end and returns.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: HttpLimits,
    places: Arc<Places>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stop) => break,
        };
        match stream {
            Ok((stream, peer)) => {
                // Accepted first: nobody makes way for a client that does not come.
                let place = tokio::select! {
                    place = places.enter() => place,
                    () = stopped(&mut stop) => break,
                };
                tokio::spawn(connection(
                    (stream, Peer(peer)),
                    router.clone(),
                    limits,
                    place,
                    stop.clone(),
                ));
            }
            Err(error) => {
                // Out of file descriptors, most likely: closing connections will help, spinning
                // will not.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    places.emptied().await;
}

/// Until `stop` is true, or nobody is left who could make it so.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn connection(
    (stream, peer): (TcpStream, Peer),
    router: Router,
    limits: HttpLimits,
    place: Arc<Place>,
    mut stop: watch::Receiver<bool>,
) {
    // Tokens go out one by one; waiting to fill a packet would delay each.
    let _ = stream.set_nodelay(true);
    let guarded = Guarded::new(stream, limits.write_timeout);
    let service = {
        let (router, place) = (TowerToHyperService::new(router), Arc::clone(&place));
        service_fn(move |mut request: Request<Incoming>| {
            let working = place.working();
            request.extensions_mut().insert(Arc::clone(&place));
            request.extensions_mut().insert(peer);
            let answer = router.call(request);
            let place = Arc::clone(&place);
            async move {
                let mut answer = answer.await?;
                // From here on a reader that takes nothing is all that keeps it.
                if let Some(share) = answer.extensions_mut().remove::<Arc<Share>>() {
                    share.sent_on(&place);
                }
                Ok::<_, Infallible>(answer.map(|body| Answer {
                    body,
                    _working: working,
                }))
            }
        })
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(HEAD_BYTES as usize)
        .serve_connection(TokioIo::new(guarded), service);
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return log(ended),
        () = place.told_to_close() => return,
        () = stopped(&mut stop) => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        ended = connection => log(ended),
        () = place.told_to_close() => {}
    }
}

fn log(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// A body that keeps its connection's place at work until it is sent.
#[derive(Debug)]
struct Answer {
    body: Body,
    _working: Working,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// At the end a connection waits this long for more of what its client still sends.
const LINGER_IDLE: Duration = Duration::from_secs(2);
/// And this long in all.
const LINGER_MOST: Duration = Duration::from_secs(60);

/// A stream whose writes fail once nothing was taken for `timeout`: a reader that stopped reading
/// must not hold a sequence, and with it KV blocks, for ever.
///
/// Its end is a slow one: after our last byte it takes what the client still sends, and drops it.
/// A connection closed with bytes unread is reset, and the reset overtakes the answer.
#[derive(Debug)]
struct Guarded {
    stream: TcpStream,
    timeout: Duration,
    /// Set while a write is pending.
    deadline: Option<Pin<Box<Sleep>>>,
    linger: Option<Linger>,
}

/// Our side is closed, the client's not yet.
#[derive(Debug)]
struct Linger {
    until: Instant,
    idle: Pin<Box<Sleep>>,
}

impl Guarded {
    fn new(stream: TcpStream, timeout: Duration) -> Guarded {
        Guarded {
            stream,
            timeout,
            deadline: None,
            linger: None,
        }
    }

    fn guard<T>(
        &mut self,
        context: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.deadline = None;
            return result;
        }
        let timeout = self.timeout;
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + timeout)));
        match deadline.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("the client took nothing for {} s", timeout.as_secs()),
            ))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.guard(context, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.guard(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(context);
        self.guard(context, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
        }
        let linger = this.linger.get_or_insert_with(|| Linger {
            until: Instant::now() + LINGER_MOST,
            idle: Box::pin(tokio::time::sleep(LINGER_IDLE)),
        });
        let mut dropped = [0; 8 << 10];
        loop {
            let now = Instant::now();
            if now >= linger.until || linger.idle.as_mut().poll(context).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut buffer = ReadBuf::new(&mut dropped);
            match ready!(Pin::new(&mut this.stream).poll_read(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {
                    linger.idle.as_mut().reset(now + LINGER_IDLE);
                }
                // The client's end, or its reset: nothing is left to wait for.
                Ok(()) | Err(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}
