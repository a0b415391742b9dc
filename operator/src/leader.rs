//! Leader election by Lease: only its holder reconciles, and only while it can prove that it is
//! the holder. The crate takes part in the election; whether the Lease still is ours is read by a
//! watch of our own, since the crate says nothing while the API server cannot be reached.
#![expect(
    clippy::disallowed_methods,
    reason = "the one file that reads the Lease"
)]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::{Api, Client};
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::mandate::Mandate;
use crate::metrics::Metrics;

/// A holder that is silent for this long has lost the Lease.
const LEASE: Duration = Duration::from_secs(20);
/// It is renewed this long before it ends: every six seconds.
const GRACE: Duration = Duration::from_secs(14);
/// Writes end this long before the Lease does: what is on its way then arrives in time.
const MARGIN: Duration = Duration::from_secs(2);
/// How often the Lease is read while this process leads, and how long an answer may take.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const LOOK_TIMEOUT: Duration = Duration::from_secs(3);
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_CONTACT_PAUSE: Duration = Duration::from_secs(1);
const FIRST_LOOK_PAUSE: Duration = Duration::from_millis(200);

/// Whose Lease it is, and who wants it.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) lease: String,
    pub(crate) namespace: String,
    /// A restarted container is the same candidate, and leads again at once.
    pub(crate) name: String,
}

/// A process that leads, or waits to.
#[derive(Debug)]
pub(crate) struct Leadership {
    mandate: Mandate,
    elected: Option<Elected>,
}

#[derive(Debug)]
struct Elected {
    leads: watch::Receiver<bool>,
    election: JoinHandle<Result<LeaseManager, LeaseManagerError>>,
    lease: Api<Lease>,
    candidate: Candidate,
    metrics: Arc<Metrics>,
}

impl Leadership {
    /// Without an election this process leads for ever.
    pub(crate) fn alone() -> Leadership {
        Leadership {
            mandate: Mandate::forever(),
            elected: None,
        }
    }

    /// Takes part in the election. Waits for the API server for as long as it takes. The client
    /// must give up soon: a renewal that hangs is none.
    pub(crate) async fn stand(
        client: Client,
        candidate: Candidate,
        mandate: Mandate,
        metrics: Arc<Metrics>,
    ) -> Leadership {
        let Candidate {
            lease,
            namespace,
            name,
        } = &candidate;
        let (leads, election) = loop {
            let builder = LeaseManagerBuilder::new(client.clone(), lease)
                .with_namespace(namespace)
                .with_identity(name)
                .with_duration(LEASE.as_secs())
                .with_grace(GRACE.as_secs());
            match builder.build().await {
                Ok(manager) => break manager.watch().await,
                Err(error) => {
                    tracing::warn!(lease, namespace, %error, "the Lease cannot be reached");
                    tokio::time::sleep(FIRST_CONTACT_PAUSE).await;
                }
            }
        };
        let lease = Api::namespaced(client, namespace);
        Leadership {
            mandate,
            elected: Some(Elected {
                leads,
                election,
                lease,
                candidate,
                metrics,
            }),
        }
    }

    /// Resolves once this process leads and may write.
    pub(crate) async fn won(&mut self) {
        let Some(elected) = &mut self.elected else {
            return;
        };
        if elected.leads.wait_for(|leads| *leads).await.is_err() {
            // The election itself ended: nobody is led any more.
            std::future::pending::<()>().await;
        }
        loop {
            elected.look(&self.mandate).await;
            if self.mandate.holds() {
                return;
            }
            tokio::time::sleep(FIRST_LOOK_PAUSE).await;
        }
    }

    /// Resolves once the Lease is lost: somebody else holds it, or might.
    pub(crate) async fn lost(&self) {
        let Some(elected) = &self.elected else {
            return std::future::pending().await;
        };
        let mut leads = elected.leads.clone();
        loop {
            let ends = self.mandate.ends().unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(ends) => if !self.mandate.holds() {
                    return;
                },
                _ = leads.wait_for(|leads| !*leads) => {
                    self.mandate.end();
                    return;
                }
                () = tokio::time::sleep(LOOK_EVERY) => elected.look(&self.mandate).await,
            }
        }
    }

    /// Gives the Lease back, so that another need not wait for its end. Nothing is written
    /// afterwards.
    pub(crate) async fn release(self) {
        let Some(elected) = self.elected else { return };
        self.mandate.end();
        drop(elected.leads);
        match timeout(RELEASE_TIMEOUT, elected.election).await {
            Ok(Ok(Ok(_))) => tracing::info!("the Lease is released"),
            Ok(Ok(Err(error))) => tracing::warn!(%error, "the Lease was not released"),
            Ok(Err(error)) => tracing::warn!(%error, "the election ended early"),
            Err(_) => tracing::warn!("the Lease was not released in time"),
        }
    }
}

impl Elected {
    /// Reads the Lease and moves the end of the mandate. No answer moves nothing.
    async fn look(&self, mandate: &Mandate) {
        let asked = Instant::now();
        let Candidate { lease, name, .. } = &self.candidate;
        let spec = match timeout(LOOK_TIMEOUT, self.lease.get(lease)).await {
            Ok(Ok(found)) => found.spec.unwrap_or_default(),
            Ok(Err(error)) => return tracing::warn!(lease, %error, "the Lease cannot be read"),
            Err(_) => return tracing::warn!(lease, "the Lease cannot be read in time"),
        };
        match left(&spec, name, SystemTime::now()) {
            Some(left) => {
                mandate.extend(asked + left.saturating_sub(MARGIN));
                if let Some(renewed) = &spec.renew_time {
                    self.metrics.lease_renewed.set(renewed.0.as_second());
                }
            }
            None => mandate.end(),
        }
    }
}

/// How long a Lease is `candidate`'s yet; none where it is somebody else's or nobody's. A clock
/// that was set back makes it no longer than it ever was.
fn left(spec: &LeaseSpec, candidate: &str, now: SystemTime) -> Option<Duration> {
    if spec.holder_identity.as_deref() != Some(candidate) {
        return None;
    }
    let renewed = SystemTime::from(spec.renew_time.as_ref()?.0);
    let ends = renewed.checked_add(LEASE)?;
    let left = ends.duration_since(now).unwrap_or_default();
    Some(left.min(LEASE))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    #[test]
    fn a_lease_is_ours_while_it_names_us_and_was_renewed_lately() {
        let spec = |holder: Option<&str>, renewed: Option<i64>| LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            renew_time: renewed.map(|at| MicroTime(Timestamp::from_second(at).unwrap())),
            ..LeaseSpec::default()
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        for (holder, renewed, seconds) in [
            (Some("us"), Some(1000), Some(20)),
            (Some("us"), Some(994), Some(14)),
            (Some("us"), Some(980), Some(0)),
            (Some("us"), Some(900), Some(0)),
            // The clock was set back since.
            (Some("us"), Some(5000), Some(20)),
            (Some("us"), None, None),
            (Some("them"), Some(1000), None),
            (None, Some(1000), None),
        ] {
            let left = left(&spec(holder, renewed), "us", now);
            assert_eq!(
                left.map(|it| it.as_secs()),
                seconds,
                "{holder:?} {renewed:?}"
            );
        }
    }
}
