//! Build: a plan becomes the objects that should exist. Pure: it takes no client and no clock.
//! Objects are JSON, as they go over the wire, so that parts of `spec.template` that are newer
//! than this program pass through unread.

mod documents;
mod dynamic;
mod inspect;
mod pod;
mod replica_set;
mod shared;

use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::InferenceDeployment;
use plimsoll_crds::v1alpha1::adapters::AdapterSpec;
use plimsoll_crds::v1alpha1::boot::BootAdapter;
use plimsoll_crds::v1alpha1::model::{ModelSource, PullPolicy};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub(crate) use documents::{Documents, boot, served_names, sleep_order, target};
pub(crate) use dynamic::adapters as dynamic_adapters;
pub(crate) use inspect::{inspect_asks, inspect_pod};
pub(crate) use replica_set::{Revision, config_map, name_of, revision};
pub(crate) use shared::{disruption_budget, secret, service, service_account};

use crate::children::ChildKind;
use crate::facts::Identity;
use crate::token::hex;

/// Hash of the object that a child was made from; equal hashes need no write.
pub(crate) const HASH_ANNOTATION: &str = "plimsoll.dev/hash";
/// Hash of the spec that a ReplicaSet was made for: another revision for the same spec is one that
/// nobody asked for.
pub(crate) const SPEC_ANNOTATION: &str = "plimsoll.dev/spec";
/// On a ReplicaSet a pod of which has answered.
pub(crate) const ANSWERED_ANNOTATION: &str = "plimsoll.dev/answered";
/// User volumes cannot have this prefix.
const MODEL_VOLUME: &str = names::VOLUME_MODEL;
const CONFIG_VOLUME: &str = "plimsoll-config";

/// What the operator's flags say of pods.
#[derive(Clone, Debug)]
pub(crate) struct PodSettings {
    pub(crate) sidecar_image: String,
    pub(crate) pull_policy: PullPolicy,
    /// The cluster changes the memory limits of pods that run (`pods/resize`).
    pub(crate) resize: bool,
}

/// An object that should exist.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Prepared {
    pub(crate) kind: ChildKind,
    pub(crate) name: String,
    pub(crate) hash: String,
    pub(crate) object: Value,
}

impl Prepared {
    /// Stamps an object with its owner, its labels and the hash of all of it.
    fn new(
        kind: ChildKind,
        api_version: &str,
        name: String,
        owner: &InferenceDeployment,
        identity: &Identity,
        rest: Value,
    ) -> Prepared {
        let mut object = rest;
        object["apiVersion"] = json!(api_version);
        object["kind"] = json!(kind.name());
        object["metadata"] = merged(
            json!({
                "name": name,
                "namespace": identity.namespace,
                "labels": common_labels(identity),
                "ownerReferences": [owner_reference(owner, identity)],
            }),
            object["metadata"].take(),
        );
        let hash = short_hash(&object);
        object["metadata"]["annotations"][HASH_ANNOTATION] = json!(hash);
        Prepared {
            kind,
            name,
            hash,
            object,
        }
    }
}

/// Labels on everything that is made for a resource.
fn common_labels(identity: &Identity) -> Value {
    json!({
        names::LABEL_DEPLOYMENT: identity.name,
        names::LABEL_MANAGED_BY: names::MANAGER,
    })
}

fn owner_reference(owner: &InferenceDeployment, identity: &Identity) -> Value {
    use kube::Resource;
    json!({
        "apiVersion": InferenceDeployment::api_version(&()),
        "kind": InferenceDeployment::kind(&()),
        "name": owner.metadata.name,
        "uid": identity.uid,
        "controller": true,
    })
}

/// `over` laid over `base`, object by object.
fn merged(mut base: Value, over: Value) -> Value {
    match (&mut base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                let before = base.remove(&key).unwrap_or(Value::Null);
                base.insert(key, merged(before, value));
            }
        }
        (_, Value::Null) => {}
        (base, over) => *base = over,
    }
    base
}

/// Ten hexadecimal digits over an object's canonical JSON (maps are sorted).
fn short_hash(object: &Value) -> String {
    hex(&Sha256::digest(object.to_string())[..5])
}

/// Hash of all of a spec that says what runs; how many, whether they sleep, and
/// how long a change may take, does not.
pub(crate) fn spec_hash(object: &InferenceDeployment) -> String {
    let mut spec = json!(object.spec);
    if let Some(fields) = spec.as_object_mut() {
        fields.remove("replicas");
        fields.remove("sleep");
        fields.remove("progressDeadlineSeconds");
    }
    short_hash(&spec)
}

/// Pod Security `restricted`, for the pod.
fn pod_security() -> Value {
    json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}})
}

/// Pod Security `restricted`, for a container of ours.
fn container_security() -> Value {
    json!({
        "runAsNonRoot": true,
        "runAsUser": names::RUN_AS,
        "runAsGroup": names::RUN_AS,
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

/// The volumes with the model and with each adapter that is merged into it.
fn source_volumes(object: &InferenceDeployment) -> Vec<Value> {
    let adapters = object.spec.merged().enumerate();
    let adapters = adapters.map(|(at, of)| source_volume(&adapter_volume(at), &of.source));
    let model = source_volume(MODEL_VOLUME, &object.spec.model.source);
    std::iter::once(model).chain(adapters).collect()
}

/// By number: a name may be longer than those of volumes.
fn adapter_volume(at: usize) -> String {
    format!("{}{at}", names::VOLUME_ADAPTER)
}

fn source_volume(name: &str, source: &ModelSource) -> Value {
    let mut volume = json!({"name": name});
    if let Some(image) = &source.image {
        volume["image"] = json!({"reference": image.reference});
        if let Some(policy) = image.pull_policy {
            volume["image"]["pullPolicy"] = json!(policy.as_str());
        }
    } else if let Some(claim) = &source.persistent_volume_claim {
        volume["persistentVolumeClaim"] =
            json!({"claimName": claim.claim_name, "readOnly": claim.read_only});
    } else if let Some(host) = &source.host_path {
        volume["hostPath"] = json!({"path": host.path, "type": "Directory"});
    }
    volume
}

/// Where a container finds them.
fn source_mounts(object: &InferenceDeployment) -> Vec<Value> {
    let adapters = object.spec.merged().enumerate();
    let adapters = adapters.map(|(at, of)| mount(&adapter_volume(at), &adapter_dir(&of.name)));
    let model = mount(MODEL_VOLUME, names::MODEL_DIR);
    std::iter::once(model).chain(adapters).collect()
}

fn mount(volume: &str, at: &str) -> Value {
    json!({"name": volume, "mountPath": at, "readOnly": true})
}

fn adapter_dir(name: &str) -> String {
    format!("{}/{name}", names::ADAPTERS_DIR)
}

/// Adapters that are merged, as a container finds them, in order.
fn merged_adapters(object: &InferenceDeployment) -> Vec<BootAdapter> {
    let adapter = |of: &AdapterSpec| BootAdapter {
        name: of.name.clone(),
        path: inside(&adapter_dir(&of.name), &of.source),
        scale: of.scale,
    };
    object.spec.merged().map(adapter).collect()
}

/// Path of the model inside a container.
fn model_path(object: &InferenceDeployment) -> String {
    inside(names::MODEL_DIR, &object.spec.model.source)
}

fn inside(folder: &str, source: &ModelSource) -> String {
    match &source.path {
        Some(path) => format!("{folder}/{}", path.trim_matches('/')),
        None => folder.to_owned(),
    }
}

/// Name of the account that pods of a resource run as; like every name that does not end in a hash,
/// one that nobody gives to an object of theirs by chance.
pub(crate) fn service_account_name(resource: &str) -> String {
    format!("{resource}-plimsoll-engine")
}

/// Name of the account of a resource's pods, engines and inspections alike: the user's, or ours.
fn account_of_pods(object: &InferenceDeployment, identity: &Identity) -> String {
    let template = object.spec.template.as_ref();
    let pods = template.and_then(|template| template.spec.as_ref());
    let own = pods.and_then(|pods| pods.service_account_name.clone());
    own.unwrap_or_else(|| service_account_name(&identity.name))
}

/// Name of the Secret with the admin token.
pub(crate) fn secret_name(resource: &str) -> String {
    format!("{resource}-plimsoll-admin")
}

#[cfg(test)]
mod adapter_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod trainer_tests;
