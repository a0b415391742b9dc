//! The pod that reads a model's facts: the same source, no GPU, little memory, and its answer in
//! the termination message. It has no deadline: the kubelet's clock would run while an image of
//! many gigabytes is pulled. The operator's runs from the container's start, see `inspect`.

use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::InferenceDeployment;
use plimsoll_crds::v1alpha1::boot::BootAdapter;
use serde_json::{Value, json};

use super::{
    PodSettings, Prepared, account_of_pods, container_security, merged_adapters, model_path,
    pod_security, source_mounts, source_volumes,
};
use crate::children::ChildKind;
use crate::facts::Identity;

const CPU: &str = "10m";
const MEMORY: &str = "64Mi";
const MEMORY_LIMIT: &str = "1Gi";

/// What the pod asks of a quota, in words.
pub(crate) fn inspect_asks() -> String {
    format!("requests.cpu={CPU}, requests.memory={MEMORY}, limits.memory={MEMORY_LIMIT}, pods=1")
}

/// The inspect pod called `name`.
pub(crate) fn inspect_pod(
    object: &InferenceDeployment,
    identity: &Identity,
    settings: &PodSettings,
    name: String,
) -> Prepared {
    let mut spec = json!({
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        // Its pull secrets are those of the engines' account too.
        "serviceAccountName": account_of_pods(object, identity),
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "securityContext": pod_security(),
        "containers": [{
            "name": names::CONTAINER_INSPECT,
            "image": settings.sidecar_image,
            "imagePullPolicy": settings.pull_policy.as_str(),
            "args": arguments(object),
            "terminationMessagePath": names::TERMINATION_MESSAGE_PATH,
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "resources": {
                "requests": {"cpu": CPU, "memory": MEMORY},
                "limits": {"memory": MEMORY_LIMIT},
            },
            "securityContext": container_security(),
            "volumeMounts": source_mounts(object),
        }],
        "volumes": source_volumes(object),
    });
    place(object, &mut spec);
    Prepared::new(
        ChildKind::Pod,
        "v1",
        name,
        object,
        identity,
        json!({
            "metadata": {"labels": {names::LABEL_ROLE: names::ROLE_INSPECT}},
            "spec": spec,
        }),
    )
}

fn arguments(object: &InferenceDeployment) -> Vec<String> {
    let mut arguments = ["inspect", "--termination-message"]
        .map(str::to_owned)
        .to_vec();
    arguments.push(names::TERMINATION_MESSAGE_PATH.to_owned());
    for BootAdapter { name, path, scale } in merged_adapters(object) {
        let scale = match scale.is_one() {
            true => String::new(),
            false => format!(",scale={}", scale.0),
        };
        arguments.extend([
            "--adapter".to_owned(),
            format!("{name}={path}:merge{scale}"),
        ]);
    }
    arguments.push(model_path(object));
    arguments
}

/// Where engines run is where the source can be mounted: the same nodes, the same secrets.
fn place(object: &InferenceDeployment, spec: &mut Value) {
    let Some(pods) = object
        .spec
        .template
        .as_ref()
        .and_then(|template| template.spec.as_ref())
    else {
        return;
    };
    if !pods.node_selector.is_empty() {
        spec["nodeSelector"] = json!(pods.node_selector);
    }
    if !pods.tolerations.is_empty() {
        spec["tolerations"] = json!(pods.tolerations);
    }
    if let Some(nodes) = pods
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.get("nodeAffinity"))
    {
        spec["affinity"] = json!({"nodeAffinity": nodes});
    }
    if !pods.image_pull_secrets.is_empty() {
        spec["imagePullSecrets"] = json!(pods.image_pull_secrets);
    }
}
