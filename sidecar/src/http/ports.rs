//! The two ports from their first to their last byte.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::admin::{self, Token};
use super::app::App;
use super::{router, server};
use crate::args::HttpArgs;
use crate::error::BootError;

/// What connections get to take their answers after the last request ended.
const LAST_BYTES: Duration = Duration::from_secs(3);

/// The API port and the admin port, being served.
#[derive(Debug)]
pub struct Ports {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Ports {
    /// Listens on both and serves from now on.
    ///
    /// # Errors
    /// [`BootError::Listen`] when an address is not to be had.
    pub async fn listen(
        app: &Arc<App>,
        http: &HttpArgs,
        token: Option<Token>,
    ) -> Result<Ports, BootError> {
        let (stop, stopping) = watch::channel(false);
        let api = bind(SocketAddr::new(http.host, http.port)).await?;
        let admin = bind(SocketAddr::new(http.host, http.admin_port)).await?;
        tracing::info!(
            api = %api.local_addr()?,
            admin = %admin.local_addr()?,
            admin_token = token.is_some(),
            "listening"
        );
        let limits = app.limits;
        let tasks = vec![
            tokio::spawn(server::serve(
                api,
                router(Arc::clone(app)),
                limits,
                stopping.clone(),
            )),
            tokio::spawn(server::serve(
                admin,
                admin::router(Arc::clone(app), token),
                limits,
                stopping,
            )),
        ];
        Ok(Ports { stop, tasks })
    }

    /// Closes both ports; answers on their way get a moment to arrive.
    pub async fn finish(mut self) {
        self.stop.send_replace(true);
        // Streams of /memory/watch have no end of their own: only the API port is waited for.
        let api = self.tasks.swap_remove(0);
        if tokio::time::timeout(LAST_BYTES, api).await.is_err() {
            tracing::warn!("some connections did not take their answers in time");
        }
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, BootError> {
    let listen = |source| BootError::Listen {
        address: address.to_string(),
        source,
    };
    TcpListener::bind(address).await.map_err(listen)
}
