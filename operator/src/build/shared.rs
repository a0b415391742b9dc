//! The objects that every revision shares: account, admin token, Service, disruption budget.

use k8s_openapi::ByteString;
use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::InferenceDeployment;
use serde_json::json;

use super::{Prepared, secret_name, service_account_name};
use crate::children::ChildKind;
use crate::facts::Identity;

/// The account of engine and inspect pods. It has no rights, and pods get no token of it.
pub(crate) fn service_account(object: &InferenceDeployment, identity: &Identity) -> Prepared {
    Prepared::new(
        ChildKind::ServiceAccount,
        "v1",
        service_account_name(&identity.name),
        object,
        identity,
        json!({"automountServiceAccountToken": false}),
    )
}

/// The token that the admin port asks for.
pub(crate) fn secret(object: &InferenceDeployment, identity: &Identity, token: &str) -> Prepared {
    Prepared::new(
        ChildKind::Secret,
        "v1",
        secret_name(&identity.name),
        object,
        identity,
        json!({
            "type": "Opaque",
            "data": {names::ADMIN_TOKEN_KEY: ByteString(token.as_bytes().to_vec())},
        }),
    )
}

/// One address for all engines that answer, of whatever revision.
pub(crate) fn service(object: &InferenceDeployment, identity: &Identity) -> Prepared {
    Prepared::new(
        ChildKind::Service,
        "v1",
        identity.name.clone(),
        object,
        identity,
        json!({"spec": {
            "selector": {
                names::LABEL_DEPLOYMENT: identity.name,
                names::LABEL_ROLE: names::ROLE_ENGINE,
            },
            "ports": [{
                "name": names::PORT_HTTP_NAME,
                "port": names::PORT_HTTP,
                "targetPort": names::PORT_HTTP_NAME,
                "protocol": "TCP",
                "appProtocol": "http",
            }],
        }}),
    )
}

/// Drains take one engine at a time, where there are two or more.
pub(crate) fn disruption_budget(object: &InferenceDeployment, identity: &Identity) -> Prepared {
    Prepared::new(
        ChildKind::PodDisruptionBudget,
        "policy/v1",
        identity.name.clone(),
        object,
        identity,
        json!({"spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": {
                names::LABEL_DEPLOYMENT: identity.name,
                names::LABEL_ROLE: names::ROLE_ENGINE,
            }},
        }}),
    )
}
