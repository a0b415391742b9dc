//! Which changes of children wake which resource.

use kube::core::PartialObjectMeta;
use serde_json::{Value, json};

use super::*;
use crate::stores::trimmed;

type Seen = PartialObjectMeta<Service>;

fn seen(change: impl FnOnce(&mut Value)) -> Seen {
    let mut object = json!({
        "metadata": {
            "name": "chat", "namespace": "team", "resourceVersion": "7",
            "labels": {"plimsoll.dev/inferencedeployment": "chat"},
            "annotations": {"plimsoll.dev/hash": "abc"},
            "ownerReferences": [{
                "apiVersion": "plimsoll.dev/v1alpha1", "kind": "InferenceDeployment",
                "name": "chat", "uid": "u",
            }],
            "managedFields": [{
                "manager": "plimsoll-operator", "operation": "Apply",
                "fieldsV1": {"f:spec": {"f:selector": {}}},
            }],
        },
    });
    change(&mut object);
    let mut object: Seen = serde_json::from_value(object).unwrap();
    drift::keep_ours(object.meta_mut());
    object
}

#[test]
fn of_a_child_what_is_ours_matters_and_the_rest_is_noise() {
    let before = child(&seen(|_| {}));
    let noise = seen(|it| {
        it["metadata"]["resourceVersion"] = json!("8");
        it["metadata"]["labels"]["team"] = json!("search");
        it["metadata"]["managedFields"][0]["time"] = json!("2026-01-01T00:00:00Z");
        let others = it["metadata"]["managedFields"].as_array_mut().unwrap();
        others.push(json!({
            "manager": "kube-controller-manager", "operation": "Update",
            "subresource": "status", "fieldsV1": {"f:status": {}},
        }));
    });
    assert_eq!(child(&noise), before);
    let lost = seen(|it| it["metadata"]["managedFields"][0]["fieldsV1"] = json!({"f:spec": {}}));
    assert_ne!(child(&lost), before);
    let hash = seen(|it| it["metadata"]["annotations"] = json!({}));
    assert_ne!(child(&hash), before);
    let leaves = seen(|it| it["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
    assert_ne!(child(&leaves), before);
}

#[test]
fn a_child_wakes_its_owner_whatever_its_label_says_and_without_an_owner_its_label_does() {
    let name = |child: &Seen| owner(child).map(|found| found.name);
    let label = "plimsoll.dev/inferencedeployment";
    let renamed = seen(|it| it["metadata"]["labels"][label] = json!("other"));
    assert_eq!(name(&renamed).as_deref(), Some("chat"));
    let orphan = seen(|it| {
        it["metadata"]["labels"][label] = json!("other");
        it["metadata"]["ownerReferences"] = json!([]);
    });
    assert_eq!(name(&orphan).as_deref(), Some("other"));
    // An engine pod's owner is its ReplicaSet.
    let pod = seen(|it| it["metadata"]["ownerReferences"][0]["kind"] = json!("ReplicaSet"));
    assert_eq!(name(&pod).as_deref(), Some("chat"));
    let nobody = seen(|it| {
        it["metadata"]["labels"] = json!({});
        it["metadata"]["ownerReferences"] = json!([]);
    });
    assert_eq!(name(&nobody), None);
}

#[test]
fn of_endpoints_it_matters_whether_one_is_ready_and_of_a_service_whether_it_leads_elsewhere() {
    let slice = |ready: &[Option<bool>]| {
        let endpoints: Vec<Value> = ready
            .iter()
            .map(|ready| json!({"addresses": ["10.0.0.7"], "conditions": {"ready": ready}}))
            .collect();
        let mut slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": "chat-x"}, "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"port": 8000}],
        }))
        .unwrap();
        trimmed(&mut slice);
        assert!(
            slice.endpoints.len() < 2 && slice.ports.is_none(),
            "little of it is kept"
        );
        assert!(slice.endpoints.iter().all(|it| it.addresses.is_empty()));
        super::endpoints(&slice)
    };
    let (some, none) = (slice(&[Some(true)]), slice(&[]));
    assert_ne!(some, none);
    assert_eq!(slice(&[Some(false), Some(true), Some(true)]), some);
    assert_eq!(slice(&[None]), some);
    assert_eq!(slice(&[Some(false)]), none);
    let service = |kind: &str| {
        let mut service: Service = serde_json::from_value(json!({
            "metadata": {"name": "chat"}, "spec": {"type": kind, "clusterIP": "10.0.0.1"},
        }))
        .unwrap();
        trimmed(&mut service);
        super::service(&service)
    };
    assert_eq!(service("NodePort"), service("ClusterIP"));
    assert_ne!(service("ExternalName"), service("ClusterIP"));
}
