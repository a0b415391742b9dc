//! The requests that write children.
#![expect(
    clippy::disallowed_methods,
    reason = "the one file that writes children"
)]

use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use plimsoll_crds::names;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::build::Prepared;
use crate::error::Error;
use crate::facts::ChildKind;
use crate::metrics::Metrics;

/// A write that is not answered by then is given up, and tried again in a later pass.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(15);
/// Field manager of replica counts, apart from that of the rest, so that a count can be written
/// alone.
const SCALE_MANAGER: &str = "plimsoll-operator-scale";
/// Field manager of dry runs; it never owns a field.
const LOOK_MANAGER: &str = "plimsoll-operator-look";

/// The writing end of a pass over one resource.
pub(crate) struct Writer<'a> {
    pub(crate) client: &'a Client,
    pub(crate) metrics: &'a Metrics,
    pub(crate) namespace: &'a str,
    /// Name of the resource, for the log.
    pub(crate) name: &'a str,
}

/// How a child is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way<'a> {
    /// Nothing of that name is seen. What exists and is not ours is not taken over by force; `uid`
    /// is that of the child written last, should somebody have taken its label and owner off.
    New { uid: Option<&'a str> },
    /// It exists and is ours.
    Ours,
    /// It exists and is ours, and somebody put items of their own in the place of ours: its lists
    /// are set back first.
    Reset,
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

    /// Writes a child as `object` says.
    ///
    /// # Errors
    /// The API server's refusal, or none in time; [`Error::Taken`] if it is somebody else's.
    pub(super) async fn write(
        &self,
        child: &Prepared,
        object: &Value,
        way: Way<'_>,
    ) -> Result<DynamicObject, Error> {
        let name = &child.name;
        let error = match way {
            Way::New { uid } => match self.apply(child, object, false).await {
                Err(error) if error.code() == Some(409) => {
                    return self.found_again(child, object, uid).await;
                }
                answer => return answer,
            },
            Way::Ours => match self.apply(child, object, true).await {
                Err(error) if error.is_invalid() => error,
                answer => return answer,
            },
            Way::Reset => match self.reset(child).await {
                Err(error) if error.is_invalid() => error,
                answer => {
                    answer?;
                    return self.apply(child, object, true).await;
                }
            },
        };
        // What others added contradicts what is ours, or cannot be changed any more.
        match child.kind {
            // No pod notices.
            ChildKind::ConfigMap | ChildKind::PodDisruptionBudget => {
                self.delete(child.kind, name).await?;
                self.apply(child, object, false).await
            }
            ChildKind::Service | ChildKind::ServiceAccount | ChildKind::ReplicaSet
                if way == Way::Ours =>
            {
                self.reset(child).await?;
                self.apply(child, object, true).await
            }
            ChildKind::Service
            | ChildKind::ServiceAccount
            | ChildKind::ReplicaSet
            | ChildKind::Secret
            | ChildKind::Pod => Err(error),
        }
    }

    /// A child that conflicts with what exists and was not seen: it may be ours all the same.
    async fn found_again(
        &self,
        child: &Prepared,
        object: &Value,
        uid: Option<&str>,
    ) -> Result<DynamicObject, Error> {
        let taken = || Error::Taken {
            kind: child.kind.name(),
            name: child.name.clone(),
        };
        let found = self.look(child).await?;
        let owner = child.object["metadata"]["ownerReferences"][0]["uid"].as_str();
        let owned = |found: &DynamicObject| {
            let mut owners = found.owner_references().iter();
            owners.any(|reference| Some(reference.uid.as_str()) == owner)
        };
        let remembered = uid.is_some() && found.metadata.uid.as_deref() == uid;
        if !owned(&found) && !remembered {
            return Err(taken());
        }
        let mut object = object.clone();
        object["metadata"]["uid"] = json!(found.metadata.uid);
        match self.apply(child, &object, true).await {
            Err(error) if error.code() == Some(409) => Err(taken()),
            answer => answer,
        }
    }

    async fn apply(
        &self,
        child: &Prepared,
        object: &Value,
        force: bool,
    ) -> Result<DynamicObject, Error> {
        let mut params = PatchParams::apply(names::MANAGER);
        params.force = force;
        self.patch(("apply", "applied"), child, params, Patch::Apply(object))
            .await
    }

    /// What exists under the child's name: the answer to a dry run that applies nothing. Children
    /// that are not watched (Secrets) or not seen (their label was taken off) are met only here.
    async fn look(&self, child: &Prepared) -> Result<DynamicObject, Error> {
        let nothing = json!({
            "apiVersion": child.object["apiVersion"],
            "kind": child.object["kind"],
            "metadata": {"name": child.name},
        });
        let params = PatchParams {
            dry_run: true,
            ..PatchParams::apply(LOOK_MANAGER)
        };
        let patch = Patch::Apply(&nothing);
        self.patch(("look at", "looked at"), child, params, patch)
            .await
    }

    /// Sets every list that is ours back to what it was, with nothing beside it: applying alone
    /// cannot remove what is somebody else's. It must be applied afterwards, to be ours.
    async fn reset(&self, child: &Prepared) -> Result<(), Error> {
        let params = PatchParams {
            field_manager: Some(names::MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(&child.object);
        self.patch(("reset", "reset"), child, params, patch)
            .await
            .map(drop)
    }

    async fn patch(
        &self,
        (verb, done): (&'static str, &str),
        child: &Prepared,
        params: PatchParams,
        patch: Patch<&Value>,
    ) -> Result<DynamicObject, Error> {
        let api = self.api(child.kind);
        let call = api.patch(&child.name, &params, &patch);
        let answer = answered(verb, child.kind.name(), &child.name, call).await;
        self.metrics
            .applies
            .with_label_values(&[child.kind.name()])
            .inc();
        if answer.is_ok() {
            self.log(done, child.kind, &child.name);
        }
        answer
    }

    pub(super) async fn scale(&self, name: &str, replicas: u32) -> Result<DynamicObject, Error> {
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
