//! What a pod asks for, and which nodes it may run on.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use plimsoll_crds::v1alpha1::quantity::billionths;

use crate::watch::hash_of;

/// What a pod asks of a node and of a quota, in billionths by resource name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asks {
    pub(crate) requests: BTreeMap<String, u128>,
    pub(crate) limits: BTreeMap<String, u128>,
    /// Hash of what decides which nodes it may run on at all.
    pub(crate) placement: u64,
    /// How its spec chooses nodes, as a user reads it; empty where it does not.
    pub(crate) selector: String,
}

impl Asks {
    pub(crate) fn read(pod: &Pod) -> Asks {
        pod.spec.as_ref().map(Asks::of).unwrap_or_default()
    }

    /// Of containers that run side by side: the plain ones, and init containers that stay.
    fn of(spec: &PodSpec) -> Asks {
        let stays = spec.init_containers.iter().flatten();
        let stays = stays.filter(|init| init.restart_policy.as_deref() == Some("Always"));
        let mut asks = Asks {
            placement: hash_of(&placement(spec)),
            selector: selector(spec),
            ..Asks::default()
        };
        for container in spec.containers.iter().chain(stays) {
            let Some(resources) = &container.resources else {
                continue;
            };
            for (of, into) in [
                (&resources.requests, &mut asks.requests),
                (&resources.limits, &mut asks.limits),
            ] {
                for (name, quantity) in of.iter().flatten() {
                    let amount = billionths(&quantity.0).unwrap_or(0);
                    *into.entry(name.clone()).or_default() += amount;
                }
            }
        }
        asks
    }

    /// How much it holds of what a quota, or the scheduler, calls by this name.
    pub(crate) fn of_resource(&self, name: &str) -> u128 {
        const ONE: u128 = 1_000_000_000;
        let amount = match name {
            "pods" | "count/pods" => return ONE,
            _ => match (name.strip_prefix("limits."), name.strip_prefix("requests.")) {
                (Some(name), _) => self.limits.get(name),
                (None, Some(name)) => self.requests.get(name),
                (None, None) => self.requests.get(name),
            },
        };
        amount.copied().unwrap_or(0)
    }
}

fn selector(spec: &PodSpec) -> String {
    let labels = spec.node_selector.iter().flatten();
    let labels: Vec<String> = labels
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let affinity = spec.affinity.as_ref();
    let affinity = affinity.and_then(|it| it.node_affinity.as_ref());
    let mut parts = Vec::new();
    if !labels.is_empty() {
        parts.push(format!("nodeSelector {}", labels.join(",")));
    }
    if affinity.is_some() {
        parts.push("affinity.nodeAffinity".to_owned());
    }
    parts.join(" and ")
}

fn placement(spec: &PodSpec) -> String {
    let ports = spec
        .containers
        .iter()
        .flat_map(|container| container.ports.iter().flatten());
    let ports: Vec<_> = ports.filter_map(|port| port.host_port).collect();
    let parts = serde_json::to_string(&(
        &spec.node_selector,
        &spec.affinity,
        &spec.tolerations,
        ports,
    ));
    parts.unwrap_or_default()
}
