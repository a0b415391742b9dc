//! Objects of a watch are decoded one by one: one that this program cannot read is told apart and
//! keeps nobody else from being read. What is said of it names the field, never a value.

use std::borrow::Cow;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::PartialObjectMeta;
use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::InferenceDeployment;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

/// Characters of the name of a field, and of what is wrong with it.
const WORDS_CHARS: usize = 200;

/// An object as the API server sent it: read, or told why not.
#[derive(Clone, Debug)]
pub(crate) struct Decoded<K> {
    pub(crate) object: Result<Arc<K>, Arc<Unreadable>>,
    /// A part of the object could not be read and was left out: the field, and why.
    pub(crate) left_out: Option<String>,
}

/// An object that cannot be read at all, but for what names it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Unreadable {
    pub(crate) metadata: ObjectMeta,
    /// As it stands.
    pub(crate) status: Value,
    /// The field, and what is wrong with it.
    pub(crate) problem: String,
}

/// A kind that is watched.
pub(crate) trait Watched: Resource + Clone + DeserializeOwned {
    /// What an object that cannot be read as a whole is good for: the parts that passes read.
    fn rest(raw: &Value) -> Value;

    /// Drops what no pass reads; the metadata is seen to already.
    fn trim(&mut self) {}
}

impl Watched for InferenceDeployment {
    /// The status is the operator's own: one that another version wrote is written anew.
    fn rest(raw: &Value) -> Value {
        let mut rest = raw.clone();
        if let Value::Object(members) = &mut rest {
            members.remove("status");
        }
        rest
    }
}

impl Watched for Pod {
    /// It exists, somewhere, in a phase; nothing says that it is ready.
    fn rest(raw: &Value) -> Value {
        json!({
            "metadata": raw["metadata"],
            "spec": {"nodeName": raw["spec"]["nodeName"].as_str(), "containers": []},
            "status": {"phase": raw["status"]["phase"].as_str()},
        })
    }
}

impl Watched for ReplicaSet {
    fn rest(raw: &Value) -> Value {
        json!({
            "metadata": raw["metadata"],
            "spec": {"replicas": raw["spec"]["replicas"].as_i64(), "selector": {}},
        })
    }
}

impl Watched for ConfigMap {
    fn rest(raw: &Value) -> Value {
        json!({"metadata": named(raw)})
    }

    /// What engines were started with (whether the split that they have can stand) and begin again with.
    fn trim(&mut self) {
        if let Some(data) = &mut self.data {
            data.retain(|key, _| [names::BOOT_KEY, names::TARGET_KEY].contains(&key.as_str()));
        }
        self.binary_data = None;
    }
}

impl Watched for Service {
    fn rest(raw: &Value) -> Value {
        json!({"metadata": named(raw), "spec": {"type": raw["spec"]["type"].as_str()}})
    }

    /// Whether it leads to pods at all.
    fn trim(&mut self) {
        let kind = self.spec.take().and_then(|spec| spec.type_);
        self.spec = Some(ServiceSpec {
            type_: kind,
            ..ServiceSpec::default()
        });
        self.status = None;
    }
}

impl Watched for EndpointSlice {
    /// It has none that is known to be ready.
    fn rest(raw: &Value) -> Value {
        json!({"metadata": named(raw), "addressType": "IPv4", "endpoints": []})
    }

    /// Whether one is ready: of up to a thousand endpoints one is kept, without its address.
    fn trim(&mut self) {
        let ready = has_ready_endpoint(self);
        self.endpoints = Vec::from_iter(ready.then(Endpoint::default));
        self.ports = None;
        self.metadata.annotations = None;
        self.metadata.managed_fields = None;
    }
}

impl<K: Resource + Clone> Watched for PartialObjectMeta<K> {
    fn rest(raw: &Value) -> Value {
        json!({"metadata": named(raw)})
    }
}

/// Whether a Service is but a name of somewhere else.
pub(crate) fn external(service: &Service) -> bool {
    let kind = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
    kind == Some("ExternalName")
}

/// Whether requests may go to one of the slice's endpoints. One that does not say is ready.
pub(crate) fn has_ready_endpoint(slice: &EndpointSlice) -> bool {
    let ready = |conditions: &EndpointConditions| conditions.ready != Some(false);
    let mut endpoints = slice.endpoints.iter();
    endpoints.any(|endpoint| endpoint.conditions.as_ref().is_none_or(ready))
}

impl<K: Watched> Decoded<K> {
    fn read(raw: &Value) -> Decoded<K> {
        let problem = match decode::<K>(raw) {
            Ok(object) => {
                return Decoded {
                    object: Ok(Arc::new(object)),
                    left_out: None,
                };
            }
            Err(problem) => problem,
        };
        match decode::<K>(&K::rest(raw)) {
            Ok(object) => Decoded {
                object: Ok(Arc::new(object)),
                left_out: Some(problem),
            },
            Err(problem) => Decoded {
                object: Err(Arc::new(Unreadable {
                    metadata: named(raw),
                    status: raw["status"].clone(),
                    problem,
                })),
                left_out: None,
            },
        }
    }
}

impl<K> Decoded<K> {
    /// What could not be read, if anything.
    pub(crate) fn problem(&self) -> Option<&str> {
        match &self.object {
            Ok(_) => self.left_out.as_deref(),
            Err(unreadable) => Some(&unreadable.problem),
        }
    }
}

impl<'de, K: Watched> Deserialize<'de> for Decoded<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(|raw| Decoded::read(&raw))
    }
}

impl<K: Resource + Clone> Resource for Decoded<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn metadata_api() -> bool {
        K::metadata_api()
    }

    fn kind(of: &K::DynamicType) -> Cow<'_, str> {
        K::kind(of)
    }

    fn group(of: &K::DynamicType) -> Cow<'_, str> {
        K::group(of)
    }

    fn version(of: &K::DynamicType) -> Cow<'_, str> {
        K::version(of)
    }

    fn plural(of: &K::DynamicType) -> Cow<'_, str> {
        K::plural(of)
    }

    fn meta(&self) -> &ObjectMeta {
        match &self.object {
            Ok(object) => object.meta(),
            Err(unreadable) => &unreadable.metadata,
        }
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match &mut self.object {
            Ok(object) => Arc::make_mut(object).meta_mut(),
            Err(unreadable) => &mut Arc::make_mut(unreadable).metadata,
        }
    }
}

fn decode<K: DeserializeOwned>(raw: &Value) -> Result<K, String> {
    serde_path_to_error::deserialize(raw)
        .map_err(|error| problem(&error.path().to_string(), &error.inner().to_string()))
}

/// The metadata, or what of it names the object.
fn named(raw: &Value) -> ObjectMeta {
    let given = &raw["metadata"];
    decode(given).unwrap_or_else(|_| {
        let text = |name: &str| given[name].as_str().map(str::to_owned);
        ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            uid: text("uid"),
            resource_version: text("resourceVersion"),
            generation: given["generation"].as_i64(),
            ..ObjectMeta::default()
        }
    })
}

/// Where a decoder stopped, and why, in words that hold no value: it quotes what it met, and that
/// may be a password.
fn problem(path: &str, error: &str) -> String {
    const KINDS: [&str; 6] = [
        "unknown variant",
        "unknown field",
        "invalid type",
        "invalid value",
        "invalid length",
        "duplicate field",
    ];
    let path = match path {
        "." => "the object",
        path => path,
    };
    let what = match KINDS.iter().find(|kind| error.starts_with(**kind)) {
        // What is expected is what this program knows.
        Some(kind) => match error.rfind(", expected ") {
            Some(at) => format!("{kind}{}", &error[at..]),
            None => (*kind).to_owned(),
        },
        None if error.starts_with("missing field") => error.to_owned(),
        None => "it cannot be read".to_owned(),
    };
    format!("{}: {}", cut(path), cut(&what))
}

fn cut(text: &str) -> String {
    text.chars().take(WORDS_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use kube::ResourceExt;
    use kube::core::ObjectList;

    use super::*;
    use crate::testing::{SMOLLM2, object};

    fn resource() -> Value {
        serde_json::to_value(object(SMOLLM2)).unwrap()
    }

    /// The objects of a list that the API server answers.
    fn list<K: Watched>(items: Vec<Value>) -> Vec<Decoded<K>> {
        let list = json!({
            "apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "7"},
            "items": items,
        });
        let list: ObjectList<Decoded<K>> = serde_json::from_str(&list.to_string()).unwrap();
        list.items
    }

    #[test]
    fn one_object_of_a_list_that_cannot_be_read_leaves_the_others_readable() {
        let mut other = resource();
        other["metadata"]["name"] = json!("other");
        other["spec"]["backend"] = json!("ROCm");
        other["status"] = json!({"replicas": 2});
        let read = list::<InferenceDeployment>(vec![resource(), other, resource()]);
        assert!(read[0].object.is_ok() && read[2].object.is_ok());
        let unreadable = read[1].object.as_ref().unwrap_err();
        assert_eq!(
            unreadable.problem,
            "spec.backend: unknown variant, expected `Auto` or `CPU`"
        );
        assert_eq!(read[1].name_any(), "other");
        assert_eq!(unreadable.metadata.uid.as_deref(), Some("uid-1"));
        assert_eq!(unreadable.status["replicas"], 2);
    }

    #[test]
    fn what_is_said_of_an_object_names_the_field_and_never_a_value() {
        let secret = "hunter2, expected ";
        type Harm = fn(&mut Value, &str);
        let table: [(Harm, &str); 5] = [
            (
                |it, secret| it["spec"]["replicas"] = json!(secret),
                "spec.replicas: invalid type, expected u32",
            ),
            (
                |it, secret| it["spec"]["memory"]["kvCache"]["dtype"] = json!(secret),
                "spec.memory.kvCache.dtype: unknown variant, expected one of",
            ),
            (
                |it, secret| it["spec"]["template"]["spec"]["containers"] = json!(secret),
                "spec.template.spec.containers: invalid type, expected a sequence",
            ),
            (
                |it, _| it["spec"]["model"] = json!({}),
                "spec.model: missing field `source`",
            ),
            (|it, secret| it["spec"] = json!(secret), "spec: invalid"),
        ];
        for (harm, words) in table {
            let mut raw = resource();
            harm(&mut raw, secret);
            let read = Decoded::<InferenceDeployment>::read(&raw);
            let problem = read.problem().unwrap();
            assert!(problem.starts_with(words), "{problem}");
            assert!(!problem.contains("hunter2"), "{problem}");
        }
        let long = problem(
            &"x".repeat(9_999),
            &format!("missing field `{}`", "y".repeat(9_999)),
        );
        assert!(long.chars().count() < 2 * WORDS_CHARS + 3);
    }

    #[test]
    fn a_status_that_another_version_wrote_is_written_anew() {
        let mut raw = resource();
        raw["status"] = json!({"state": "Hibernating"});
        let read = Decoded::<InferenceDeployment>::read(&raw);
        assert_eq!(read.object.as_ref().unwrap().status, None);
        assert!(read.left_out.unwrap().starts_with("status.state: "));
    }

    #[test]
    fn of_a_pod_or_a_replica_set_that_cannot_be_read_what_counts_is_left() {
        let meta = json!({"name": "a", "namespace": "team", "uid": "u", "resourceVersion": "5"});
        let pod = json!({
            "metadata": meta,
            "spec": {"nodeName": "n1", "containers": "hunter2"},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        });
        let read = Decoded::<Pod>::read(&pod);
        let pod = read.object.as_ref().unwrap();
        assert_eq!(pod.spec.as_ref().unwrap().node_name.as_deref(), Some("n1"));
        assert_eq!(
            pod.status.as_ref().unwrap().phase.as_deref(),
            Some("Running")
        );
        assert!(read.problem().unwrap().starts_with("spec.containers: "));
        let set = json!({"metadata": meta, "spec": {"replicas": 3, "template": [1]}});
        let read = Decoded::<ReplicaSet>::read(&set);
        let spec = read.object.as_ref().unwrap().spec.clone();
        assert_eq!(spec.unwrap().replicas, Some(3));
        // Metadata alone, and that broken too: it has a name.
        let odd = json!({"metadata": {"name": "a", "labels": [7]}});
        let read = Decoded::<PartialObjectMeta<Pod>>::read(&odd);
        assert_eq!(read.name_any(), "a");
    }
}
