//! The three ports from their first to their last byte.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_planner::host::{ADMIN_CONNECTIONS, PROBE_CONNECTIONS, SOCKET_BYTES};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::admin;
use super::app::{App, HttpLimits};
use super::places::Places;
use super::token::Token;
use super::{api_router, probe_router, server};
use crate::args::HttpArgs;
use crate::error::BootError;

/// What connections get to take their answers after the last request ended.
const LAST_BYTES: Duration = Duration::from_secs(3);
/// Connections that the kernel takes before we do; each may hold a socket full of bytes.
const BACKLOG: u32 = 128;

/// The ports, being served.
#[derive(Debug)]
pub struct Ports {
    stop: watch::Sender<bool>,
    api: JoinHandle<()>,
}

impl Ports {
    /// Listens on all and serves from now on.
    ///
    /// # Errors
    /// [`BootError::Listen`] when an address is not to be had.
    pub async fn listen(
        app: &Arc<App>,
        http: &HttpArgs,
        token: Option<Token>,
    ) -> Result<Ports, BootError> {
        let (stop, stopping) = watch::channel(false);
        let api = bind("--port", SocketAddr::new(http.host, http.port))?;
        let admin = bind("--admin-port", SocketAddr::new(http.host, http.admin_port))?;
        let probes = bind("--probe-port", SocketAddr::new(http.host, http.probe_port))?;
        tracing::info!(
            api = %api.local_addr()?,
            admin = %admin.local_addr()?,
            probes = %probes.local_addr()?,
            admin_token = token.is_some(),
            "listening"
        );
        let limits = app.limits;
        let routes = api_router(Arc::clone(app), &http.cors_allow_origin, http.control_api);
        let places = Places::new(limits.connections);
        let api = server::serve(api, routes, limits, places, stopping.clone());
        let api = tokio::spawn(api);
        let routes = admin::router(Arc::clone(app), token);
        // The operator, and people who look: watchers are fewer still.
        let places = Places::new(ADMIN_CONNECTIONS as usize);
        tokio::spawn(server::serve(admin, routes, limits, places, stopping));
        answer_probes(app, probes)?;
        Ok(Ports { stop, api })
    }

    /// Closes the API port and the admin port; answers on their way get a moment to arrive. Probes
    /// are answered as long as the process lives.
    pub async fn finish(self) {
        self.stop.send_replace(true);
        // Streams of /memory/watch have no end of their own: only the API port is waited for.
        if tokio::time::timeout(LAST_BYTES, self.api).await.is_err() {
            tracing::warn!("some connections did not take their answers in time");
        }
    }
}

/// Serves probes and metrics on a thread of their own, with places of their own: whatever fills
/// the other ports or keeps their threads busy, a kubelet that asks is answered.
fn answer_probes(app: &Arc<App>, listener: TcpListener) -> Result<(), BootError> {
    /// Those who ask are a kubelet and a few scrapers, and they ask at once.
    const CONNECTIONS: usize = PROBE_CONNECTIONS as usize;
    const HEAD: Duration = Duration::from_secs(5);
    let listener = listener.into_std()?;
    let routes = probe_router(Arc::clone(app));
    let limits = HttpLimits {
        connections: CONNECTIONS,
        header_timeout: HEAD,
        ..app.limits
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        // A scrape reads files of /proc, one at a time.
        .max_blocking_threads(1)
        .enable_all()
        .build()?;
    let serve = move || {
        runtime.block_on(async {
            match TcpListener::from_std(listener) {
                Ok(listener) => {
                    // The sender lives as long as this does: it is never told to stop.
                    let (_never, stop) = watch::channel(false);
                    server::serve(listener, routes, limits, Places::new(CONNECTIONS), stop).await;
                }
                Err(error) => tracing::error!(%error, "probes cannot be answered"),
            }
        });
    };
    std::thread::Builder::new()
        .name("probes".to_owned())
        .spawn(serve)?;
    Ok(())
}

/// Listens with sockets whose buffers are what the host's reserve counts: the kernel's own would
/// grow to megabytes for a client that sends faster than it is read.
fn bind(flag: &'static str, address: SocketAddr) -> Result<TcpListener, BootError> {
    let listen = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.set_recv_buffer_size(SOCKET_BYTES)?;
        socket.set_send_buffer_size(SOCKET_BYTES)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|source| BootError::Listen {
        flag,
        address: address.to_string(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_is_taken_is_named_by_its_flag_with_a_way_out() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind("--probe-port", address).unwrap_err().to_string();
        let start = format!("--probe-port: cannot listen on {address}: ");
        assert!(error.starts_with(&start), "{error}");
        assert!(error.contains("0 picks a free one"), "{error}");
    }
}
