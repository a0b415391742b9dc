//! Publish: the one write of status, when it is worth one, and the Events that go with it.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, Recorder, Reporter};
use kube::{Api, Client, Resource};
use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::{InferenceDeployment, InferenceDeploymentStatus};
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::apply::{WRITE_TIMEOUT, answered};
use crate::changes::{Due, due};
use crate::error::Error;
use crate::events::{Happening, between, of_pods};
use crate::facts::Facts;
use crate::memory::Memory;
use crate::metrics::Metrics;

/// Writes `next` if it is due, and says when to come back if it will be.
///
/// # Errors
/// The API server refused the status.
pub(crate) async fn publish(
    client: &Client,
    metrics: &Metrics,
    facts: &Facts,
    next: InferenceDeploymentStatus,
    interval: Duration,
    memory: &mut Memory,
) -> Result<Option<Duration>, Error> {
    let identity = &facts.identity;
    metrics.show_conditions(&identity.namespace, &identity.name, &next.conditions);
    let since_last = memory.written.as_ref().map(|(_, at)| at.elapsed());
    let wait = match due(&facts.status, &next, since_last, interval) {
        Due::Nothing => None,
        Due::In(wait) => Some(wait),
        Due::Now => {
            write(client, facts, &next).await?;
            metrics.status_writes.inc();
            for happening in between(&facts.status, &next) {
                tell(client, &facts.object, &happening).await;
            }
            memory.written = Some((next, Instant::now()));
            None
        }
    };
    for happening in of_pods(facts, &mut memory.told) {
        tell(client, &facts.object, &happening).await;
    }
    Ok(wait)
}

async fn write(
    client: &Client,
    facts: &Facts,
    status: &InferenceDeploymentStatus,
) -> Result<(), Error> {
    let identity = &facts.identity;
    let api: Api<InferenceDeployment> = Api::namespaced(client.clone(), &identity.namespace);
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
pub(crate) async fn tell(client: &Client, object: &InferenceDeployment, happening: &Happening) {
    let reporter = Reporter {
        controller: names::MANAGER.to_owned(),
        instance: std::env::var("POD_NAME").ok(),
    };
    let event = Event {
        type_: happening.kind(),
        reason: happening.reason.as_str().to_owned(),
        note: Some(happening.note.clone()),
        action: happening.action().to_owned(),
        secondary: None,
    };
    let (namespace, name) = (&object.metadata.namespace, &object.metadata.name);
    tracing::info!(
        namespace = namespace.as_deref(),
        name = name.as_deref(),
        reason = happening.reason.as_str(),
        "{}",
        happening.note
    );
    // A recorder of its own for each: one that is kept would repeat the first note for ever.
    let recorder = Recorder::new(client.clone(), reporter);
    let reference = object.object_ref(&());
    let error = match timeout(WRITE_TIMEOUT, recorder.publish(&event, &reference)).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the API server did not answer".to_owned(),
    };
    tracing::warn!(
        namespace = namespace.as_deref(),
        name = name.as_deref(),
        %error,
        "an Event was lost"
    );
}
