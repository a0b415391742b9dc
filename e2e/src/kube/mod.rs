//! Talking to a Kubernetes: `kubectl` as a user does, and plain JSON for waiting and measuring.

mod api;
mod forward;
mod kubectl;
mod resource;

pub(crate) use api::{Api, Proxy};
pub(crate) use forward::Forward;
pub(crate) use kubectl::Kubectl;
pub(crate) use resource::Resource;

use anyhow::Result;
use serde_json::json;

/// One Kubernetes, ours or another one.
#[derive(Debug, Clone)]
pub(crate) struct Kubernetes {
    pub(crate) kubectl: Kubectl,
    pub(crate) api: Api,
}

impl Kubernetes {
    /// Makes a namespace that enforces a Pod Security level (`restricted`, `privileged`).
    pub(crate) fn create_namespace(&self, name: &str, level: &str) -> Result<()> {
        let namespace = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": name,
                "labels": {"pod-security.kubernetes.io/enforce": level},
            },
        });
        self.kubectl.apply(&namespace.to_string()).map(drop)
    }

    /// The resource of that name.
    pub(crate) fn resource<'a>(&'a self, namespace: &'a str, name: &'a str) -> Resource<'a> {
        Resource::new(&self.api, namespace, name)
    }
}
