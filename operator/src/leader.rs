//! Leader election by Lease: only its holder reconciles.

use std::time::Duration;

use kube::Client;
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A holder that is silent for this long has lost the Lease.
const LEASE_SECONDS: u64 = 15;
/// It is renewed this long before it ends.
const GRACE_SECONDS: u64 = 5;
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_CONTACT_PAUSE: Duration = Duration::from_secs(1);

/// Whether this process leads.
#[derive(Debug)]
pub(crate) struct Leadership {
    leads: watch::Receiver<bool>,
    task: Option<JoinHandle<Result<LeaseManager, LeaseManagerError>>>,
}

impl Leadership {
    /// Without an election this process leads for ever.
    pub(crate) fn alone() -> (Leadership, watch::Sender<bool>) {
        let (sender, leads) = watch::channel(true);
        (Leadership { leads, task: None }, sender)
    }

    /// Takes part in the election. Waits for the API server for as long as it takes.
    pub(crate) async fn elect(
        client: Client,
        lease: &str,
        namespace: &str,
        candidate: Option<&str>,
    ) -> Leadership {
        loop {
            let mut builder = LeaseManagerBuilder::new(client.clone(), lease)
                .with_namespace(namespace)
                .with_duration(LEASE_SECONDS)
                .with_grace(GRACE_SECONDS);
            // A restarted container is the same candidate, and leads again at once.
            if let Some(candidate) = candidate {
                builder = builder.with_identity(candidate);
            }
            match builder.build().await {
                Ok(manager) => {
                    let (leads, task) = manager.watch().await;
                    return Leadership {
                        leads,
                        task: Some(task),
                    };
                }
                Err(error) => {
                    tracing::warn!(lease, namespace, %error, "the Lease cannot be reached");
                    tokio::time::sleep(FIRST_CONTACT_PAUSE).await;
                }
            }
        }
    }

    /// Resolves once this process leads, or does not.
    pub(crate) async fn wait_for(&mut self, leads: bool) {
        if self.leads.wait_for(|now| *now == leads).await.is_err() {
            // The election itself ended: nobody is led any more.
            std::future::pending::<()>().await;
        }
    }

    /// Another look at the same election.
    pub(crate) fn observer(&self) -> watch::Receiver<bool> {
        self.leads.clone()
    }

    /// Gives the Lease back, so that another need not wait for its end.
    pub(crate) async fn release(self) {
        let Leadership { leads, task } = self;
        drop(leads);
        let Some(task) = task else { return };
        match timeout(RELEASE_TIMEOUT, task).await {
            Ok(Ok(Ok(_))) => tracing::info!("the Lease is released"),
            Ok(Ok(Err(error))) => tracing::warn!(%error, "the Lease was not released"),
            Ok(Err(error)) => tracing::warn!(%error, "the election ended early"),
            Err(_) => tracing::warn!("the Lease was not released in time"),
        }
    }
}
