//! `spec.template`: what a user may change in the engine pods. Objects that belong to Kubernetes
//! (containers, volumes, affinity, tolerations) are kept as written: the API server checks them
//! when the pod is made, and fields newer than this program pass through.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::rules::rule;

/// What to change in the engine pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EngineTemplate {
    /// Labels and annotations to add to the engine pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<TemplateMetadata>,
    /// The engine's own container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineContainer>,
    /// The pod around the engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<TemplateSpec>,
}

/// Labels and annotations to add to the engine pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplateMetadata {
    /// Labels to add. Names under plimsoll.dev/ are taken.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(
        schema_with = "labels",
        extend("x-kubernetes-validations" = [
            rule("self.all(name, !name.startsWith('plimsoll.dev/'))").says(
                "names under plimsoll.dev/ belong to the operator; use another prefix",
            ),
        ])
    )]
    pub labels: BTreeMap<String, String>,
    /// Annotations to add. Names under plimsoll.dev/ are taken.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "x-kubernetes-validations" = [
        rule("self.all(name, !name.startsWith('plimsoll.dev/'))").says(
            "names under plimsoll.dev/ belong to the \
             operator; use another prefix",
        ),
    ]))]
    pub annotations: BTreeMap<String, String>,
}

/// The engine's own container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EngineContainer {
    /// Requests and limits of the engine's container. Absent, the memory limit is the sum of the
    /// ranks' budgets and a reserve for the host (CPU backend). A memory limit below that is
    /// refused with the numbers, and so is a request above its limit; a CPU limit sets the number
    /// of threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<EngineResources>,
    /// Who controls the engine (sleep, wake, pause, pushed weights) without the admin port's token.
    /// Absent means Off. A change makes new pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_api: Option<ControlApi>,
}

/// Who controls the engine without a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ControlApi {
    /// Nobody.
    Off,
    /// Clients in the same pod: the control routes are on the API port, too, for 127.0.0.1 and ::1. A
    /// `kubectl port-forward` to the pod comes from there as well.
    Loopback,
}

/// Requests and limits of the engine's container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EngineResources {
    /// The least that the node must have free, by resource name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "quantities")]
    pub requests: BTreeMap<String, Quantity>,
    /// The most that the container may use, by resource name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "quantities")]
    pub limits: BTreeMap<String, Quantity>,
}

/// The pod around the engine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplateSpec {
    /// Containers to run beside the engine (a trainer, an application). With them the engine
    /// becomes a native sidecar: it starts first and stops last. Each is a container of the Pod
    /// API; the name `engine` is taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        schema_with = "containers",
        extend("x-kubernetes-validations" = [
            rule("self.all(c, c.name != 'engine')").says(
                "the name engine belongs to the operator; \
                 rename the container",
            ),
        ])
    )]
    pub containers: Vec<Map<String, Value>>,
    /// Requests and limits of the pod as a whole, as in the Pod API (Kubernetes 1.34 or newer): a memory
    /// limit that the engine and the containers beside it share, so that a trainer may use what a
    /// sleeping engine has given back. Each container's own limit must lie within it. New quotas replace
    /// such a pod instead of resizing it, as Kubernetes before 1.36 cannot, unless
    /// `engine.resources.limits.memory` is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<EngineResources>,
    /// Volumes for the containers beside the engine. Each is a volume of the Pod API; names that
    /// begin with `plimsoll-` are taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        schema_with = "volumes",
        extend("x-kubernetes-validations" = [
            rule("self.all(v, !v.name.startsWith('plimsoll-'))").says(
                "names that begin with plimsoll- belong to the \
                 operator; rename the volume",
            ),
        ])
    )]
    pub volumes: Vec<Map<String, Value>>,
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels")]
    pub node_selector: BTreeMap<String, String>,
    /// Tolerations of the pod, as in the Pod API.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "tolerations")]
    pub tolerations: Vec<Map<String, Value>>,
    /// Affinity of the pod, as in the Pod API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "open_object")]
    pub affinity: Option<Map<String, Value>>,
    /// Priority class of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// Service account of the pod, for the containers beside the engine; absent means one of its
    /// own, which may do nothing. Its token is mounted only with automountServiceAccountToken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
    /// Mount the service account's token into every container of the pod, the engine's included.
    /// Absent means no. To give it to one container alone, leave this out, and mount a projected
    /// volume of type serviceAccountToken there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub automount_service_account_token: Option<bool>,
    /// Secrets to pull images with, the model's image included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub image_pull_secrets: Vec<SecretName>,
}

/// A Secret in the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretName {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// An object of the Pod API, kept as written.
fn open_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "description": "An object of the Pod API, kept as written.",
        "x-kubernetes-preserve-unknown-fields": true,
    })
}

/// Objects of the Pod API that have a name, kept as written.
fn named_objects(what: &str, most: u32) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": most,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
        "items": {
            "type": "object",
            "description": format!("A {what} of the Pod API, kept as written."),
            "required": ["name"],
            "properties": {
                "name": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 63,
                    "description": format!("Name of the {what}."),
                },
            },
            "x-kubernetes-preserve-unknown-fields": true,
        },
    })
}

/// Quantities by resource name.
///
/// An unquoted `0.1` is refused for its type, before any rule is asked, in the API server's fixed words.
/// No schema says it better: int-or-string takes integers and strings alone, and what would take a
/// number (`x-kubernetes-preserve-unknown-fields`) is hidden from rules, which would then say nothing
/// of `cpu: lots` either. So the way out stands where those words are looked up: in the description
/// of the values, which `kubectl explain` prints below that of the field.
fn quantities(_: &mut SchemaGenerator) -> Schema {
    let sensible =
        "isQuantity(string(self)) && quantity(string(self)).compareTo(quantity('0')) >= 0";
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": {
            "description": "A quantity such as 2, 500m or 700Mi. Quote one that has a point \
                (cpu: \"0.1\"), or write it without (cpu: 100m): unquoted it is a number, which \
                the API server refuses with `must be of type integer,string`.",
            "maxLength": 32,
            "x-kubernetes-int-or-string": true,
            "x-kubernetes-validations": [
                rule(sensible).says("must be a quantity and not negative; write e.g. 2 or 700Mi"),
            ],
        },
    })
}

/// Labels: the values are checked here, the names by the API server when the pod is made.
fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": {
            "type": "string",
            "maxLength": 63,
            "pattern": "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$",
        },
    })
}

fn containers(_: &mut SchemaGenerator) -> Schema {
    named_objects("container", 16)
}

fn volumes(_: &mut SchemaGenerator) -> Schema {
    named_objects("volume", 32)
}

fn tolerations(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 32,
        "x-kubernetes-list-type": "atomic",
        "items": open_object(generator),
    })
}
