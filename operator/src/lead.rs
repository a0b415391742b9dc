//! What a process does while it leads: it reads the key, runs the controllers, and ends when it is
//! told to, when the key is replaced, or at once when the Lease is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kube::Client;
use tokio::sync::watch as signalling;

use crate::abilities;
use crate::args::Args;
use crate::controller::{self, Shared};
use crate::key::KeySource;
use crate::leader::{Candidate, Leadership};
use crate::mandate::Mandate;
use crate::metrics::Metrics;
use crate::stores::Watches;
use crate::turns::Turns;

/// Passes that run when the process is told to stop may end within this.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(8);

/// What a process needs to lead.
pub(crate) struct Leader {
    /// Writes only with the mandate.
    pub(crate) client: Client,
    /// Gives up soon, and takes part in the election.
    pub(crate) election: Client,
    pub(crate) mandate: Mandate,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) watches: Arc<Watches>,
    pub(crate) args: Arc<Args>,
    pub(crate) ready: Arc<AtomicBool>,
}

impl Leader {
    /// Reconciles once this process leads, until it is told to stop.
    pub(crate) async fn run(self, stop: signalling::Receiver<bool>) -> anyhow::Result<()> {
        let mut stopped = stop.clone();
        let mut leadership = tokio::select! {
            leadership = self.candidacy() => leadership?,
            _ = stopped.wait_for(|stop| *stop) => return Ok(()),
        };
        // Who stands by is ready too.
        self.ready.store(true, Ordering::Relaxed);
        tokio::select! {
            () = leadership.won() => {}
            _ = stopped.wait_for(|stop| *stop) => {
                leadership.release().await;
                return Ok(());
            }
        }
        tracing::info!("this process leads");
        self.metrics.leader.set(1);
        tokio::select! {
            outcome = self.work(stop) => outcome?,
            () = leadership.lost() => lost(),
        }
        self.metrics.leader.set(0);
        leadership.release().await;
        Ok(())
    }

    async fn candidacy(&self) -> anyhow::Result<Leadership> {
        if !self.args.leader_election {
            return Ok(Leadership::alone());
        }
        let candidate = Candidate {
            lease: self.args.lease_name.clone(),
            namespace: self.args.own_namespace(&self.client),
            name: match &self.args.pod_name {
                Some(pod) => pod.clone(),
                None => crate::key::random_name()?,
            },
        };
        let (mandate, metrics) = (self.mandate.clone(), Arc::clone(&self.metrics));
        Ok(Leadership::stand(self.election.clone(), candidate, mandate, metrics).await)
    }

    /// Runs the controllers until the process is told to stop or the key is replaced.
    async fn work(&self, stop: signalling::Receiver<bool>) -> anyhow::Result<()> {
        let source = KeySource::of(&self.args, &self.client);
        // Without its key a leader can do nothing.
        self.ready.store(false, Ordering::Relaxed);
        let mut stopped = stop.clone();
        let (key, fingerprint) = tokio::select! {
            key = source.read() => key?,
            _ = stopped.wait_for(|stop| *stop) => return Ok(()),
        };
        let resize = tokio::select! {
            resize = abilities::resizes(&self.client) => resize,
            _ = stopped.wait_for(|stop| *stop) => return Ok(()),
        };
        self.ready.store(true, Ordering::Relaxed);
        let shared = Shared {
            client: self.client.clone(),
            metrics: Arc::clone(&self.metrics),
            watches: Arc::clone(&self.watches),
            turns: Arc::new(Turns::new(self.args.max_concurrent_rollouts.into())),
            mandate: self.mandate.clone(),
            key,
            args: Arc::clone(&self.args),
            resize,
        };
        let (end, ended) = signalling::channel(false);
        let mut controllers = tokio::task::JoinSet::new();
        let scopes = self.args.scopes();
        shared.turns.begin(scopes.len());
        for scope in scopes {
            let mut ended = ended.clone();
            let end = async move {
                // The sender lives until the controllers have ended.
                let _ = ended.wait_for(|end| *end).await;
            };
            controllers.spawn(controller::run(shared.clone(), scope, end));
        }
        tokio::select! {
            () = async { while controllers.join_next().await.is_some() {} } => return Ok(()),
            _ = stopped.wait_for(|stop| *stop) => {}
            () = source.replaced(&fingerprint) => {
                tracing::warn!("the key was replaced: this process ends, the next takes the new one");
            }
        }
        end.send_replace(true);
        let all = async { while controllers.join_next().await.is_some() {} };
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, all).await.is_err() {
            tracing::warn!("passes were cut short");
        }
        Ok(())
    }
}

/// Another process may write by now: nothing is brought to its end here.
fn lost() {
    tracing::error!("the Lease is lost: this process ends at once");
    std::process::exit(1);
}
