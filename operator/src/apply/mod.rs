//! Apply: writes children by server-side apply, and only those that differ from what exists.
#![expect(
    clippy::disallowed_methods,
    reason = "the one file that writes children"
)]

use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use plimsoll_crds::names;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::build::Prepared;
use crate::desire::Desire;
use crate::error::Error;
use crate::facts::{ChildKind, Facts};
use crate::gather::resource_version;
use crate::memory::{Applied, Memory};
use crate::metrics::Metrics;

/// A write that is not answered by then is given up, and tried again in a later pass.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(15);
/// What was created this short a time ago may not have come back through the watch.
const RECENT: Duration = Duration::from_secs(5);
/// Field manager of replica counts, apart from that of the rest, so that a count can be written
/// alone.
const SCALE_MANAGER: &str = "plimsoll-operator-scale";

/// The writing end of a pass over one resource.
pub(crate) struct Writer<'a> {
    pub(crate) client: &'a Client,
    pub(crate) metrics: &'a Metrics,
    pub(crate) namespace: &'a str,
    /// Name of the resource, for the log.
    pub(crate) name: &'a str,
}

/// Brings the cluster to what should exist.
///
/// # Errors
/// The first write that fails; the rest waits for the next pass.
pub(crate) async fn apply(
    writer: &Writer<'_>,
    facts: &Facts,
    desire: &Desire,
    memory: &mut Memory,
) -> Result<(), Error> {
    for child in &desire.children {
        if facts.taken.contains(&(child.kind, child.name.clone())) {
            return Err(Error::Taken {
                kind: child.kind.name(),
                name: child.name.clone(),
            });
        }
        let known = facts.children.get(&(child.kind, child.name.clone()));
        if known == Some(&child.hash) || written_before(memory, child, known.is_some()) {
            continue;
        }
        let replicas = desire.replicas.iter().find(|(name, _)| *name == child.name);
        let replicas = replicas
            .filter(|_| child.kind == ChildKind::ReplicaSet)
            .map(|(_, n)| *n);
        let mut object = child.object.clone();
        if let Some(replicas) = replicas {
            object["spec"]["replicas"] = json!(replicas);
        }
        // What exists and is not ours is not taken over by force.
        let written = writer.write(child, &object, known.is_some()).await?;
        remember(
            memory,
            child.kind,
            &child.name,
            &child.hash,
            replicas,
            &written,
        );
    }
    for (name, replicas) in &desire.replicas {
        let Some(set) = facts.replica_sets.iter().find(|set| set.name == *name) else {
            continue;
        };
        if set.replicas != *replicas {
            let written = writer.scale(name, *replicas).await?;
            remember(
                memory,
                ChildKind::ReplicaSet,
                name,
                &set.hash,
                Some(*replicas),
                &written,
            );
        }
    }
    for (kind, name) in &desire.remove {
        writer.delete(*kind, name).await?;
        memory.applied.remove(&(*kind, name.clone()));
    }
    Ok(())
}

/// Whether this process wrote the child as it should be, and nothing tells otherwise: Secrets are
/// never read back, and what is new may not have come through the watch.
fn written_before(memory: &Memory, child: &Prepared, exists: bool) -> bool {
    let applied = memory.applied.get(&(child.kind, child.name.clone()));
    applied
        .filter(|applied| applied.hash == child.hash)
        .is_some_and(|applied| {
            let recent = applied.at.elapsed() < RECENT;
            child.kind == ChildKind::Secret || recent || (exists && child.kind == ChildKind::Pod)
        })
}

fn remember(
    memory: &mut Memory,
    kind: ChildKind,
    name: &str,
    hash: &str,
    replicas: Option<u32>,
    written: &DynamicObject,
) {
    let applied = Applied {
        hash: hash.to_owned(),
        replicas,
        resource_version: resource_version(written.metadata.resource_version.as_deref()),
        at: Instant::now(),
    };
    memory.applied.insert((kind, name.to_owned()), applied);
}

fn api_resource(kind: ChildKind) -> ApiResource {
    match kind {
        ChildKind::ServiceAccount => ApiResource::erase::<ServiceAccount>(&()),
        ChildKind::Secret => ApiResource::erase::<Secret>(&()),
        ChildKind::Service => ApiResource::erase::<Service>(&()),
        ChildKind::PodDisruptionBudget => ApiResource::erase::<PodDisruptionBudget>(&()),
        ChildKind::ConfigMap => ApiResource::erase::<ConfigMap>(&()),
        ChildKind::ReplicaSet => ApiResource::erase::<ReplicaSet>(&()),
        ChildKind::Pod => ApiResource::erase::<Pod>(&()),
    }
}

impl Writer<'_> {
    fn api(&self, kind: ChildKind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), self.namespace, &api_resource(kind))
    }

    /// Tells the log of a write.
    fn log(&self, verb: &str, kind: ChildKind, child: &str) {
        let (namespace, name, kind) = (self.namespace, self.name, kind.name());
        tracing::info!(namespace, name, kind, child, "{verb}");
    }

    async fn write(
        &self,
        child: &Prepared,
        object: &Value,
        ours: bool,
    ) -> Result<DynamicObject, Error> {
        let mut params = PatchParams::apply(names::MANAGER);
        params.force = ours;
        let api = self.api(child.kind);
        let patch = Patch::Apply(object);
        let call = api.patch(&child.name, &params, &patch);
        let written = answered("apply", child.kind.name(), &child.name, call).await;
        self.metrics
            .applies
            .with_label_values(&[child.kind.name()])
            .inc();
        if written.is_ok() {
            self.log("applied", child.kind, &child.name);
        }
        match written {
            Err(error) if !ours && error.code() == Some(409) => Err(Error::Taken {
                kind: child.kind.name(),
                name: child.name.clone(),
            }),
            written => written,
        }
    }

    async fn scale(&self, name: &str, replicas: u32) -> Result<DynamicObject, Error> {
        let kind = ChildKind::ReplicaSet;
        let params = PatchParams::apply(SCALE_MANAGER).force();
        let object = json!({
            "apiVersion": "apps/v1",
            "kind": kind.name(),
            "metadata": {"name": name},
            "spec": {"replicas": replicas},
        });
        let api = self.api(kind);
        let patch = Patch::Apply(&object);
        let written = answered("scale", kind.name(), name, api.patch(name, &params, &patch)).await;
        self.metrics.applies.with_label_values(&[kind.name()]).inc();
        if written.is_ok() {
            self.log(&format!("scaled to {replicas}"), kind, name);
        }
        written
    }

    /// Deletes a child; one that is gone already is as good.
    pub(crate) async fn delete(&self, kind: ChildKind, name: &str) -> Result<(), Error> {
        let api = self.api(kind);
        let params = DeleteParams::background();
        let outcome = answered("delete", kind.name(), name, api.delete(name, &params)).await;
        match outcome {
            Err(error) if !error.is_gone() => Err(error),
            _ => {
                self.log("deleted", kind, name);
                Ok(())
            }
        }
    }
}

/// Waits for the API server's answer, for as long as a write may take.
///
/// # Errors
/// The server's refusal, or none in time.
pub(crate) async fn answered<T>(
    verb: &'static str,
    kind: &'static str,
    name: &str,
    call: impl Future<Output = kube::Result<T>>,
) -> Result<T, Error> {
    match timeout(WRITE_TIMEOUT, call).await {
        Ok(answer) => answer.map_err(|source| Error::Api {
            verb,
            kind,
            name: name.to_owned(),
            source: Box::new(source),
        }),
        Err(_) => Err(Error::Timeout {
            verb,
            kind,
            name: name.to_owned(),
            seconds: WRITE_TIMEOUT.as_secs(),
        }),
    }
}
