//! The pod of an engine, as a template.

use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::InferenceDeployment;
use plimsoll_crds::v1alpha1::template::{
    ControlApi, EngineContainer, EngineResources, EngineTemplate, TemplateSpec,
};
use serde_json::{Value, json};

use super::{
    CONFIG_VOLUME, PodSettings, account_of_pods, common_labels, container_security, dynamic,
    merged, pod_security, secret_name, source_mounts, source_volumes,
};
use crate::facts::Identity;

/// Loading may take this long at least before the kubelet gives up on a container; beyond it, as
/// long as the spec's patience for a change.
const LEAST_STARTUP_SECONDS: u32 = 60;
/// Requests in flight may take this long after SIGTERM.
const DRAIN_SECONDS: u32 = 60;
/// A pod that is told to go still gets requests until every node's proxy knows: it goes on
/// answering for this long before it gets SIGTERM and refuses new ones.
const LAST_REQUESTS_SECONDS: u32 = 3;
/// Cores asked for where the template says nothing: enough to be scheduled fairly, and no limit,
/// so that the engine may use what the node has.
const CPU_REQUEST: &str = "100m";

/// The pod template of a revision whose ConfigMap is called `config_map`.
pub(super) fn engine_template(
    object: &InferenceDeployment,
    identity: &Identity,
    settings: &PodSettings,
    memory_limit: u64,
    config_map: &str,
) -> Value {
    let EngineTemplate {
        metadata,
        engine,
        spec,
    } = object.spec.template.clone().unwrap_or_default();
    let metadata = metadata.unwrap_or_default();
    let EngineContainer {
        resources,
        control_api,
    } = engine.unwrap_or_default();
    let resources = resources.unwrap_or_default();
    let TemplateSpec {
        containers,
        resources: whole,
        volumes,
        node_selector,
        tolerations,
        affinity,
        priority_class_name,
        service_account_name: _,
        automount_service_account_token: automount,
        image_pull_secrets,
    } = spec.unwrap_or_default();

    let startup_seconds = object
        .spec
        .progress_deadline_seconds
        .max(LEAST_STARTUP_SECONDS);
    let mut mounts = source_mounts(object);
    mounts.extend(dynamic::mounts(object));
    mounts.push(json!({"name": CONFIG_VOLUME, "mountPath": names::CONFIG_DIR, "readOnly": true}));
    let mut engine = engine_container(settings, resources, (memory_limit, startup_seconds));
    engine["volumeMounts"] = json!(mounts);
    match control_api {
        Some(ControlApi::Loopback) => {
            if let Some(args) = engine["args"].as_array_mut() {
                args.extend(["--control-api".into(), "loopback".into()]);
            }
        }
        Some(ControlApi::Off) | None => {}
    }
    if settings.resize {
        // A limit that changes restarts nothing.
        engine["resizePolicy"] =
            json!([{"resourceName": "memory", "restartPolicy": "NotRequired"}]);
    }
    let mut pod = json!({
        // A token of the user's in the engine's container is the user's to allow.
        "automountServiceAccountToken": automount == Some(true),
        "serviceAccountName": account_of_pods(object, identity),
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": DRAIN_SECONDS,
        "securityContext": pod_security(),
    });
    let mut all_volumes = source_volumes(object);
    all_volumes.extend(dynamic::volumes(object));
    all_volumes.push(config_volume(identity, config_map));
    all_volumes.extend(volumes.into_iter().map(Value::Object));
    pod["volumes"] = json!(all_volumes);
    if containers.is_empty() {
        pod["containers"] = json!([engine]);
    } else {
        // A native sidecar: it is ready before the others start, and ends after them.
        engine["restartPolicy"] = json!("Always");
        pod["initContainers"] = json!([engine]);
        pod["containers"] = json!(containers);
    }
    if let Some(whole) = whole {
        pod["resources"] = json!(whole);
    }
    if !node_selector.is_empty() {
        pod["nodeSelector"] = json!(node_selector);
    }
    if !tolerations.is_empty() {
        pod["tolerations"] = json!(tolerations);
    }
    if let Some(affinity) = affinity {
        pod["affinity"] = json!(affinity);
    }
    if let Some(class) = priority_class_name {
        pod["priorityClassName"] = json!(class);
    }
    if !image_pull_secrets.is_empty() {
        pod["imagePullSecrets"] = json!(image_pull_secrets);
    }
    let labels = merged(
        json!(metadata.labels),
        merged(
            common_labels(identity),
            json!({
                names::LABEL_ROLE: names::ROLE_ENGINE,
                names::LABEL_APP: names::APP_ENGINE,
                names::LABEL_ENGINE_TYPE: names::ENGINE_TYPE,
            }),
        ),
    );
    let annotations = merged(
        json!({"kubectl.kubernetes.io/default-container": names::CONTAINER_ENGINE}),
        json!(metadata.annotations),
    );
    json!({"metadata": {"labels": labels, "annotations": annotations}, "spec": pod})
}

fn engine_container(
    settings: &PodSettings,
    wish: EngineResources,
    (memory_limit, startup_seconds): (u64, u32),
) -> Value {
    let probe = |path: &str, period_seconds: u32, failures: u32| {
        json!({
            "httpGet": {"path": path, "port": names::PORT_PROBES_NAME},
            "periodSeconds": period_seconds,
            "timeoutSeconds": 5,
            "failureThreshold": failures,
        })
    };
    json!({
        "name": names::CONTAINER_ENGINE,
        "image": settings.sidecar_image,
        "imagePullPolicy": settings.pull_policy.as_str(),
        "args": [
            "serve",
            "--config", names::CONFIG_DIR,
            "--host", "0.0.0.0",
            "--admin-token-file", names::ADMIN_TOKEN_PATH,
        ],
        "ports": [
            {"name": names::PORT_HTTP_NAME, "containerPort": names::PORT_HTTP, "protocol": "TCP"},
            {"name": names::PORT_ADMIN_NAME, "containerPort": names::PORT_ADMIN, "protocol": "TCP"},
            {"name": names::PORT_PROBES_NAME, "containerPort": names::PORT_PROBES, "protocol": "TCP"},
        ],
        "resources": resources(wish, memory_limit),
        // A pod whose target says so falls asleep before it is ready, and has started all the same.
        "startupProbe": probe(&format!("/health?{}", names::HEALTH_WHOLE), 1, startup_seconds),
        "readinessProbe": probe("/readyz", 2, 2),
        "livenessProbe": probe("/livez", 10, 3),
        "lifecycle": {"preStop": {"sleep": {"seconds": LAST_REQUESTS_SECONDS}}},
        "terminationMessagePath": names::TERMINATION_MESSAGE_PATH,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": container_security(),
    })
}

/// The user's wishes over ours: the memory limit is what the ranks and the host need, and is
/// asked for in full, since the engine will use it.
fn resources(wish: EngineResources, memory_limit: u64) -> Value {
    let EngineResources { requests, limits } = wish;
    let mut all_limits = json!({"memory": memory_limit.to_string()});
    all_limits = merged(all_limits, json!(limits));
    let mut all_requests = json!({"memory": all_limits["memory"].clone()});
    if limits.contains_key("cpu") {
        all_requests["cpu"] = json!(limits["cpu"]);
    } else {
        all_requests["cpu"] = json!(CPU_REQUEST);
    }
    json!({"requests": merged(all_requests, json!(requests)), "limits": all_limits})
}

/// The documents and the admin token in one folder.
fn config_volume(identity: &Identity, config_map: &str) -> Value {
    json!({
        "name": CONFIG_VOLUME,
        "projected": {
            "defaultMode": 0o444,
            "sources": [
                {"configMap": {
                    "name": config_map,
                    "items": [
                        {"key": names::BOOT_KEY, "path": names::BOOT_KEY},
                        {"key": names::TARGET_KEY, "path": names::TARGET_KEY},
                    ],
                }},
                {"secret": {
                    "name": secret_name(&identity.name),
                    "items": [{
                        "key": names::ADMIN_TOKEN_KEY,
                        "path": format!("admin/{}", names::ADMIN_TOKEN_KEY),
                    }],
                }},
            ],
        },
    })
}
