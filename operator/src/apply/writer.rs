//! The requests that write children.
#![expect(
    clippy::disallowed_methods,
    reason = "the one file that writes children"
)]

use std::time::Duration;

use hyper::Request;
use hyper::header::{ACCEPT, CONTENT_TYPE};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::{Api, Client};
use plimsoll_crds::names;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::build::{ANSWERED_ANNOTATION, Prepared};
use crate::children::ChildKind;
use crate::error::Error;
use crate::facts::Holder;
use crate::metrics::Metrics;
use crate::pods::PodFacts;

/// A write that is not answered by then is given up, and tried again in a later pass.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(15);
/// Field manager of replica counts, apart from that of the rest, so that a count can be written
/// alone.
const SCALE_MANAGER: &str = "plimsoll-operator-scale";
/// Field manager of the memory limits of pods that run.
const RESIZE_MANAGER: &str = "plimsoll-operator-resize";
/// What a request accepts that wants an object's metadata alone.
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
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

/// How a child is written. The uid is that of the object which is ours: another one that has come
/// to stand in its place is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way<'a> {
    /// Nothing of that name is seen, so it is created; what exists all the same is looked at. `uid`
    /// is that of the child written last, should somebody have taken its label and owner off.
    New { uid: Option<&'a str> },
    /// It exists and is ours.
    Ours { uid: Option<&'a str> },
    /// It exists and is ours, and somebody put items of their own in the place of ours: its lists
    /// are set back first.
    Reset { uid: Option<&'a str> },
}

/// Answers are read for their metadata alone, and asked for so: the operator has no business with
/// what is in a Secret.
type Written = PartialObjectMeta<DynamicObject>;

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
    ) -> Result<ObjectMeta, Error> {
        let (error, uid) = match way {
            Way::New { uid } => return self.make(child, object, uid).await,
            Way::Ours { uid } => match self.apply(child, object, uid).await {
                Err(error) if error.is_invalid() => (error, uid),
                // It was deleted, and another may stand in its place.
                Err(error) if error.code() == Some(409) => {
                    return self.make(child, object, uid).await;
                }
                answer => return answer,
            },
            Way::Reset { uid } => match self.reset(child, uid).await {
                Err(error) if error.is_invalid() => (error, uid),
                answer => {
                    answer?;
                    return self.apply(child, object, uid).await;
                }
            },
        };
        // What others added contradicts what is ours, or cannot be changed any more.
        match child.kind {
            // No pod notices.
            ChildKind::ConfigMap | ChildKind::PodDisruptionBudget => {
                self.delete(child.kind, &child.name, uid).await?;
                self.make(child, object, None).await
            }
            ChildKind::Service | ChildKind::ServiceAccount | ChildKind::ReplicaSet
                if matches!(way, Way::Ours { .. }) =>
            {
                self.reset(child, uid).await?;
                self.apply(child, object, uid).await
            }
            ChildKind::Service
            | ChildKind::ServiceAccount
            | ChildKind::ReplicaSet
            | ChildKind::Secret
            | ChildKind::Pod => Err(error),
        }
    }

    /// Creates a child. One that exists and was not seen may be ours all the same: Secrets are not
    /// watched, and of others the label may have been taken off. Then it is written; anybody
    /// else's is not touched.
    async fn make(
        &self,
        child: &Prepared,
        object: &Value,
        uid: Option<&str>,
    ) -> Result<ObjectMeta, Error> {
        match self.create(child, object).await {
            Err(error) if error.code() == Some(409) => {}
            answer => return answer,
        }
        let taken = |holder| Error::Taken {
            kind: child.kind.name(),
            name: child.name.clone(),
            holder,
        };
        let found = match self.look(child).await {
            // The chart's policy closes Secrets that belong to no InferenceDeployment.
            Err(error) if child.kind == ChildKind::Secret && error.code() == Some(403) => {
                return Err(taken(Holder::Stranger));
            }
            found => found?,
        };
        let owner = &child.object["metadata"]["ownerReferences"][0];
        let mut owners = found.owner_references.iter().flatten();
        let owned = owners.any(|it| it.controller == Some(true) && owner["uid"] == it.uid);
        let remembered = uid.is_some() && found.uid.as_deref() == uid;
        if !owned && !remembered {
            let name = owner["name"].as_str().unwrap_or_default();
            return Err(taken(Holder::of(&found, name)));
        }
        match self.apply(child, object, found.uid.as_deref()).await {
            // It went in between, and the next pass sees what is there then.
            Err(error) if error.code() == Some(409) => Err(taken(Holder::Predecessor)),
            answer => answer,
        }
    }

    /// Creates a child, whole or not at all.
    async fn create(&self, child: &Prepared, object: &Value) -> Result<ObjectMeta, Error> {
        let collection = self.api(child.kind).resource_url().to_owned();
        let call = async {
            let uri = format!(
                "{collection}?fieldManager={}&fieldValidation=Strict",
                names::MANAGER
            );
            let request = Request::post(uri)
                .header(CONTENT_TYPE, "application/json")
                .header(ACCEPT, METADATA_ONLY)
                .body(object.to_string().into_bytes())
                .map_err(kube::Error::HttpError)?;
            self.client.request::<Written>(request).await
        };
        let answer = answered("create", child.kind.name(), &child.name, call).await;
        self.count(child.kind);
        if answer.is_ok() {
            self.log("created", child.kind, &child.name);
        }
        answer.map(|written| written.metadata)
    }

    async fn apply(
        &self,
        child: &Prepared,
        object: &Value,
        uid: Option<&str>,
    ) -> Result<ObjectMeta, Error> {
        let object = with_uid(object, uid);
        let params = PatchParams::apply(names::MANAGER).force();
        self.patch(("apply", "applied"), child, params, Patch::Apply(&object))
            .await
    }

    /// The metadata of what exists under the child's name: the answer to a dry run that applies
    /// nothing, so that no right to read Secrets is needed.
    async fn look(&self, child: &Prepared) -> Result<ObjectMeta, Error> {
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
    async fn reset(&self, child: &Prepared, uid: Option<&str>) -> Result<(), Error> {
        let params = PatchParams {
            field_manager: Some(names::MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let object = with_uid(&child.object, uid);
        let patch = Patch::Merge(&object);
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
    ) -> Result<ObjectMeta, Error> {
        let api = self.api(child.kind);
        let call = api.patch_metadata(&child.name, &params, &patch);
        let answer = answered(verb, child.kind.name(), &child.name, call).await;
        self.count(child.kind);
        if answer.is_ok() {
            self.log(done, child.kind, &child.name);
        }
        answer.map(|written| written.metadata)
    }

    /// Writes a ReplicaSet's count and, if a pod of it has answered, that.
    pub(super) async fn scale(
        &self,
        name: &str,
        (replicas, has_answered): (u32, bool),
        uid: Option<&str>,
    ) -> Result<ObjectMeta, Error> {
        let kind = ChildKind::ReplicaSet;
        let params = PatchParams::apply(SCALE_MANAGER).force();
        let mut object = json!({
            "apiVersion": "apps/v1",
            "kind": kind.name(),
            "metadata": {"name": name},
            "spec": {"replicas": replicas},
        });
        if has_answered {
            object["metadata"]["annotations"] = json!({ANSWERED_ANNOTATION: "true"});
        }
        let object = with_uid(&object, uid);
        let api = self.api(kind);
        let patch = Patch::Apply(&object);
        let call = api.patch_metadata(name, &params, &patch);
        let answer = answered("scale", kind.name(), name, call).await;
        self.count(kind);
        if answer.is_ok() {
            self.log(&format!("scaled to {replicas}"), kind, name);
        }
        answer.map(|written| written.metadata)
    }

    /// Asks for another memory limit of a running pod's engine; `requests`: and for as much of its
    /// node. A limit that is asked for in full stays so, and with it the pod's class of service.
    pub(super) async fn resize(
        &self,
        pod: &PodFacts,
        (bytes, requests): (u64, bool),
    ) -> Result<(), Error> {
        let memory = json!({"memory": bytes.to_string()});
        let mut resources = json!({"limits": memory});
        if requests {
            resources["requests"] = memory;
        }
        let list = match pod.limit.sidecar {
            true => "initContainers",
            false => "containers",
        };
        let mut spec = json!({});
        spec[list] = json!([{"name": names::CONTAINER_ENGINE, "resources": resources}]);
        let patch = json!({"metadata": {"uid": pod.uid}, "spec": spec});
        let params = PatchParams {
            field_manager: Some(RESIZE_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        // Of the answer only the metadata is read.
        let api: Api<PartialObjectMeta<Pod>> = Api::namespaced(self.client.clone(), self.namespace);
        let patch = Patch::Strategic(&patch);
        let call = api.patch_subresource("resize", &pod.name, &params, &patch);
        let kind = ChildKind::Pod;
        answered("resize", kind.name(), &pod.name, call).await?;
        self.count(kind);
        self.log(&format!("resized to {bytes} bytes"), kind, &pod.name);
        Ok(())
    }

    /// Deletes a child; one that is gone already is as good, and so is one whose name another
    /// object has by now.
    pub(crate) async fn delete(
        &self,
        kind: ChildKind,
        name: &str,
        uid: Option<&str>,
    ) -> Result<(), Error> {
        let api = self.api(kind);
        let params = DeleteParams::background().preconditions(Preconditions {
            resource_version: None,
            uid: uid.map(str::to_owned),
        });
        let outcome = answered("delete", kind.name(), name, api.delete(name, &params)).await;
        match outcome {
            Err(error) if !error.is_gone() && error.code() != Some(409) => Err(error),
            _ => {
                self.log("deleted", kind, name);
                Ok(())
            }
        }
    }

    fn count(&self, kind: ChildKind) {
        self.metrics.applies.with_label_values(&[kind.name()]).inc();
    }
}

/// The object, for the one that has this uid and no other.
fn with_uid(object: &Value, uid: Option<&str>) -> Value {
    let mut object = object.clone();
    if let Some(uid) = uid {
        object["metadata"]["uid"] = json!(uid);
    }
    object
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
