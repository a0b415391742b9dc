//! Publish: the one write of status, when it is worth one, and the Events that go with it.
#![expect(clippy::disallowed_methods, reason = "the one file that writes status")]

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::events::{Event, Recorder, Reporter};
use kube::{Api, Client, Resource};
use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::{InferenceDeployment, InferenceDeploymentStatus};
use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::apply::{WRITE_TIMEOUT, answered};
use crate::changes::{Due, due};
use crate::error::{Error, namespace_ends, words};
use crate::events::{Happening, between, of_pods};
use crate::facts::{Facts, Identity};
use crate::gather::{identity, now};
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::renewal::{self, renewal};
use crate::status::unreadable;
use crate::stores::Unreadable;

/// The publishing end of a pass.
#[derive(Clone, Copy)]
pub(crate) struct Publisher<'a> {
    pub(crate) client: &'a Client,
    pub(crate) metrics: &'a Metrics,
    /// Least time between two writes that only move figures.
    pub(crate) interval: Duration,
    /// After which rows are renewed although nothing moved, roughly.
    pub(crate) renew_every: Duration,
    /// Name of the operator's own pod, if it runs in one.
    pub(crate) instance: Option<&'a str>,
}

/// Writes `next` if it is due, tells what happened, and says when to come back if it will be due.
///
/// # Errors
/// The API server refused the status.
pub(crate) async fn publish(
    publisher: Publisher<'_>,
    facts: &Facts,
    next: InferenceDeploymentStatus,
    memory: &mut Memory,
) -> Result<Option<Duration>, Error> {
    let Publisher {
        client,
        metrics,
        interval,
        renew_every,
        instance: _,
    } = publisher;
    let identity = &facts.identity;
    metrics.show_conditions(&identity.namespace, &identity.name, &next.conditions);
    let since_last = memory.written.as_ref().map(|(_, at)| at.elapsed());
    let mut told = memory.told.clone();
    let of_pods = of_pods(facts, &next, &mut told);
    let pause = renewal::pause(renew_every, &identity.uid);
    let decided = match due(&facts.status, &next, since_last, interval) {
        Due::Nothing => renewal(&facts.status, &next, since_last, pause, facts.now),
        decided => decided,
    };
    let (wait, between) = match decided {
        Due::Nothing => (None, Vec::new()),
        Due::In(wait) => (Some(wait), Vec::new()),
        Due::Now | Due::Renewal => {
            write(client, identity, &next).await?;
            metrics.status_writes.inc();
            if decided == Due::Renewal {
                metrics.status_renewals.inc();
            }
            let between = between(&facts.status, &next);
            // Rows that were written just now are due again after a whole pause.
            let wait = match renewal(&next, &next, Some(Duration::ZERO), pause, facts.now) {
                Due::In(wait) => Some(wait),
                Due::Nothing | Due::Now | Due::Renewal => None,
            };
            memory.written = Some((next, Instant::now()));
            (wait, between)
        }
    };
    // What a status that could not be written was about to tell is told with the next.
    memory.told = told;
    for happening in between.into_iter().chain(of_pods) {
        tell(publisher, &facts.object.object_ref(&()), &happening).await;
    }
    Ok(wait)
}

/// Says of a resource that it cannot be read, unless its status says so already.
///
/// # Errors
/// It lacks what the API server gives every object, or the API server refused the status.
pub(crate) async fn publish_unreadable(
    publisher: Publisher<'_>,
    resource: &ObjectReference,
    what: &Unreadable,
) -> Result<(), Error> {
    let identity = identity(&what.metadata)?;
    let Some((status, conditions)) = unreadable::status(what, now()) else {
        return Ok(());
    };
    let Publisher {
        client, metrics, ..
    } = publisher;
    metrics.show_conditions(&identity.namespace, &identity.name, &conditions);
    write(client, &identity, &status).await?;
    metrics.status_writes.inc();
    let happening = Happening::unreadable(&unreadable::words(what));
    tell(publisher, resource, &happening).await;
    Ok(())
}

async fn write(client: &Client, identity: &Identity, status: &impl Serialize) -> Result<(), Error> {
    // Of the answer only the metadata is read: the object may be one that cannot be read whole.
    let api: Api<PartialObjectMeta<InferenceDeployment>> =
        Api::namespaced(client.clone(), &identity.namespace);
    let patch = json!({
        "apiVersion": InferenceDeployment::api_version(&()),
        "kind": InferenceDeployment::kind(&()),
        // A resource that was deleted and made anew is another one.
        "metadata": {"name": identity.name, "uid": identity.uid},
        "status": status,
    });
    let params = PatchParams::apply(names::STATUS_MANAGER).force();
    let patch = Patch::Apply(&patch);
    let call = api.patch_status(&identity.name, &params, &patch);
    answered("write the status of", names::KIND, &identity.name, call)
        .await
        .map(drop)
}

/// Writes one Event. Events are best effort: a lost one is logged and not tried again.
pub(crate) async fn tell(
    publisher: Publisher<'_>,
    resource: &ObjectReference,
    happening: &Happening,
) {
    let reporter = Reporter {
        controller: names::MANAGER.to_owned(),
        instance: publisher.instance.map(str::to_owned),
    };
    let event = Event {
        type_: happening.kind(),
        reason: happening.reason.as_str().to_owned(),
        note: Some(happening.note.clone()),
        action: happening.action().to_owned(),
        secondary: None,
    };
    let (namespace, name) = (&resource.namespace, &resource.name);
    tracing::info!(
        namespace = namespace.as_deref(),
        name = name.as_deref(),
        reason = happening.reason.as_str(),
        "{}",
        happening.note
    );
    // A recorder of its own for each: one that is kept would repeat the first note for ever.
    let recorder = Recorder::new(publisher.client.clone(), reporter);
    let error = match timeout(WRITE_TIMEOUT, recorder.publish(&event, resource)).await {
        Ok(Ok(())) => return,
        // Nobody will look for it there.
        Ok(Err(error)) if namespace_ends(&error) => return,
        Ok(Err(error)) => words(&error),
        Err(_) => "the API server did not answer".to_owned(),
    };
    tracing::warn!(
        namespace = namespace.as_deref(),
        name = name.as_deref(),
        %error,
        "an Event was lost"
    );
}
