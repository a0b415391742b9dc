//! A Service that leads to no engine although engines are ready: a fight over it, another type,
//! no EndpointSlices.

use serde_json::{Value, json};

use crate::kube::{Kubernetes, Resource};
use crate::test::observe::{EVERY, PATIENCE, text};
use crate::test::rollouts::await_reason;
use crate::test::world::World;
use crate::test::{Passed, tiny};
use crate::wait;

const POLICY: &str = "no-slices";

/// Each is said, and is over when the cause is.
pub(super) fn services(world: &World<'_>) -> Passed {
    let kubernetes = tiny::installed(world)?;
    let space = world.namespace("unreached", "restricted")?;
    let all = ["elsewhere", "bare", "fought"].map(|name| kubernetes.resource(&space.name, name));
    for resource in &all {
        tiny::apply(&kubernetes, &space.name, &tiny::resource(resource.name))?;
    }
    for resource in &all {
        resource.await_ready(PATIENCE)?;
    }
    let [elsewhere, bare, fought] = &all;
    let away = json!({"type": "ExternalName", "externalName": "elsewhere.example"});
    kubernetes
        .api
        .merge(&service(elsewhere), &json!({"spec": away}))?;
    fight(&kubernetes, fought)?;
    let outcome = without_slices(&kubernetes, bare);
    for kind in [
        "validatingadmissionpolicybinding",
        "validatingadmissionpolicy",
    ] {
        kubernetes
            .kubectl
            .run(&["delete", kind, POLICY, "--ignore-not-found"])?;
    }
    outcome?;
    await_reason(elsewhere, "NoEndpoints", "is of type ExternalName")?;
    // As the message says.
    let back = json!({"spec": {"type": "ClusterIP", "externalName": null}});
    kubernetes.api.merge(&service(elsewhere), &back)?;
    for resource in &all {
        resource.await_ready(2 * PATIENCE)?;
    }
    Ok(3)
}

fn service(resource: &Resource<'_>) -> String {
    let (space, name) = (resource.namespace, resource.name);
    format!("/api/v1/namespaces/{space}/services/{name}")
}

/// Changes the Service's selector for as long as it is not said that somebody does.
fn fight(kubernetes: &Kubernetes, resource: &Resource<'_>) -> anyhow::Result<()> {
    let patch = json!({"spec": {"selector": {"team": "other"}}});
    wait::until("the fight is said", PATIENCE, EVERY, || {
        kubernetes.api.merge(&service(resource), &patch)?;
        Ok(match resource.condition("Ready")? {
            Some(ready) if ready.reason == "ServiceContested" => Ok(()),
            other => Err(format!("{other:?}")),
        })
    })
}

/// Nobody may make EndpointSlices here any more, and those that are there go.
fn without_slices(kubernetes: &Kubernetes, resource: &Resource<'_>) -> anyhow::Result<()> {
    for object in policy(resource) {
        kubernetes.kubectl.apply(&object.to_string())?;
    }
    let list = format!(
        "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices",
        resource.namespace
    );
    // Admission takes a moment to learn of a policy: until then the controller makes them anew.
    wait::until("no slice is left", PATIENCE, EVERY, || {
        let slices = resource.owned(&list)?;
        for slice in &slices {
            let path = format!("{list}/{}", text(&slice["metadata"]["name"]));
            kubernetes.api.delete(&path)?;
        }
        Ok(match resource.condition("Ready")? {
            Some(ready) if ready.reason == "NoEndpoints" => Ok(()),
            other => Err(format!("{} slices, {other:?}", slices.len())),
        })
    })?;
    await_reason(resource, "NoEndpoints", "has no endpoint although")
}

fn policy(resource: &Resource<'_>) -> [Value; 2] {
    let version = "admissionregistration.k8s.io/v1";
    let label = "kubernetes.io/service-name";
    let another = format!(
        "!has(object.metadata.labels) || !('{label}' in object.metadata.labels) || \
         object.metadata.labels['{label}'] != '{}'",
        resource.name
    );
    [
        json!({
            "apiVersion": version, "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": POLICY},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {"resourceRules": [{
                    "apiGroups": ["discovery.k8s.io"], "apiVersions": ["v1"],
                    "operations": ["CREATE"], "resources": ["endpointslices"],
                }]},
                "validations": [{"expression": another, "message": "no slices here"}],
            },
        }),
        json!({
            "apiVersion": version, "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": POLICY},
            "spec": {
                "policyName": POLICY, "validationActions": ["Deny"],
                "matchResources": {"namespaceSelector": {"matchLabels": {
                    "kubernetes.io/metadata.name": resource.namespace,
                }}},
            },
        }),
    ]
}
