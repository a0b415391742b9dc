//! Drift, judged by the API server's own account. `recorded.json` holds objects as this crate
//! applies them (from `examples/beside-a-container.yaml`, with an odd container added) and what
//! the field manager of Kubernetes 1.36.3 (`managedfieldstest` of k8s.io/apimachinery, with the
//! types of k8s.io/client-go) listed as ours after applying them, and after each edit by another
//! manager. The word `applied` stands for an account that the edit did not change. After every
//! edit, applying again brought the first account back.

use serde_json::json;

use super::*;
use crate::testing::account::account;

fn recorded() -> Vec<Value> {
    serde_json::from_str(include_str!("recorded.json")).unwrap()
}

fn of_kind(kind: &str) -> Value {
    let found = recorded()
        .into_iter()
        .find(|it| it["object"]["kind"] == kind);
    found.unwrap()
}

#[test]
fn what_was_just_applied_is_whole() {
    for it in recorded() {
        let owned = it["applied"].to_string();
        assert_eq!(
            lost(&owned, &it["object"]),
            None,
            "{}",
            it["object"]["kind"]
        );
    }
}

#[test]
fn edits_of_what_is_ours_are_noticed_and_named_and_no_others() {
    for (kind, edit, path, item) in [
        (
            "ServiceAccount",
            "a token mounted",
            "automountServiceAccountToken",
            false,
        ),
        ("Service", "another port", "spec.ports", true),
        (
            "Service",
            "another targetPort",
            "spec.ports[port=8000,protocol=TCP].targetPort",
            false,
        ),
        (
            "Service",
            "a label more in the selector",
            "spec.selector",
            false,
        ),
        (
            "Service",
            "a label removed",
            "metadata.labels.app.kubernetes.io/managed-by",
            false,
        ),
        (
            "Service",
            "another label",
            "metadata.labels.plimsoll.dev/inferencedeployment",
            false,
        ),
        ("Service", "another hash", "metadata.annotations", false),
        (
            "Service",
            "an owner removed",
            "metadata.ownerReferences",
            false,
        ),
        ("Service", "a port beside ours", "", false),
        ("Service", "a label added", "", false),
        ("Service", "defaults and an address", "", false),
        (
            "PodDisruptionBudget",
            "another bound",
            "spec.maxUnavailable",
            false,
        ),
        (
            "PodDisruptionBudget",
            "the other bound",
            "spec.maxUnavailable",
            false,
        ),
        ("PodDisruptionBudget", "status", "", false),
        (
            "ConfigMap",
            "a label removed",
            "metadata.labels.plimsoll.dev/revision",
            false,
        ),
        (
            "ReplicaSet",
            "a template label",
            "spec.template.metadata.labels.plimsoll.dev/role",
            false,
        ),
        (
            "ReplicaSet",
            "another limit",
            "spec.template.spec.initContainers[name=engine].resources.limits",
            false,
        ),
        (
            "ReplicaSet",
            "the engine renamed",
            "spec.template.spec.initContainers",
            true,
        ),
        (
            "ReplicaSet",
            "another volume",
            "spec.template.spec.volumes[name=tmp].emptyDir",
            false,
        ),
        ("ReplicaSet", "status", "", false),
        ("ReplicaSet", "replicas", "", false),
    ] {
        let it = of_kind(kind);
        let owned = match &it["after"][edit] {
            Value::String(_) => &it["applied"],
            owned => owned,
        };
        assert!(owned.is_object(), "{kind}: {edit} is recorded");
        let expected = (!path.is_empty()).then(|| Lost {
            path: path.to_owned(),
            item,
        });
        assert_eq!(
            lost(&owned.to_string(), &it["object"]),
            expected,
            "{kind}: {edit}"
        );
    }
}

#[test]
fn an_account_that_is_gone_or_no_account_is_lost_whole() {
    let wanted = json!({"kind": "Service", "metadata": {"name": "a"}, "spec": {}});
    for owned in ["", "{}", "null", "[]", "{", "\"x\""] {
        let lost = lost(owned, &wanted).unwrap();
        assert_eq!(lost.path, "metadata.managedFields", "{owned}");
    }
    // Names belong to nobody, and an empty map counts where it is listed.
    let owned = r#"{"f:metadata":{"f:labels":{}},"f:spec":{}}"#;
    assert_eq!(lost(owned, &wanted), None);
}

#[test]
fn items_of_sets_are_told_by_their_value() {
    let owned = r#"{"f:spec":{"f:finalizers":{"v:\"a\"":{}}}}"#;
    let wanted = |item: &str| json!({"spec": {"finalizers": [item]}});
    assert_eq!(lost(owned, &wanted("a")), None);
    assert_eq!(lost(owned, &wanted("b")).unwrap().path, "spec.finalizers");
}

#[test]
fn of_the_whole_account_only_what_we_applied_is_kept() {
    let entry = |manager: &str, operation: &str, subresource: Option<&str>, field: &str| {
        json!({
            "manager": manager, "operation": operation, "subresource": subresource,
            "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {(field): {}},
        })
    };
    let mut meta: ObjectMeta = serde_json::from_value(json!({"managedFields": [
        entry("kubectl-edit", "Update", None, "f:a"),
        entry("plimsoll-operator", "Update", None, "f:b"),
        entry("plimsoll-operator-scale", "Apply", None, "f:c"),
        entry("plimsoll-operator", "Apply", Some("status"), "f:d"),
        entry("plimsoll-operator", "Apply", None, "f:e"),
    ]}))
    .unwrap();
    keep_ours(&mut meta);
    assert_eq!(ours(&meta), r#"{"f:e":{}}"#);
    assert_eq!(meta.managed_fields.as_ref().unwrap().len(), 1);
    meta.managed_fields = None;
    keep_ours(&mut meta);
    assert_eq!(ours(&meta), "");
}

#[test]
fn the_fake_of_other_tests_keeps_the_same_account() {
    for it in recorded() {
        assert_eq!(
            account(&it["object"]),
            it["applied"],
            "{}",
            it["object"]["kind"]
        );
    }
}
