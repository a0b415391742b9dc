//! The example with the real model, which several tests share.

use anyhow::{Context as _, Result};

use crate::http::Target;
use crate::kube::Kubernetes;
use crate::paths;
use crate::test::observe::{PATIENCE, metrics, total};
use crate::test::world::World;

pub(super) const NAMESPACE: &str = "serve";
pub(super) const NAME: &str = "smollm2";

/// The example, applied once for the whole group and Ready.
pub(super) fn ready(world: &World<'_>) -> Result<Kubernetes> {
    let kubernetes = world.installed()?;
    world.look_at(NAMESPACE);
    let resource = kubernetes.resource(NAMESPACE, NAME);
    if kubernetes.api.find(&resource.path())?.is_none() {
        kubernetes.create_namespace(NAMESPACE, "restricted")?;
        let file = paths::repository().join("examples/smollm2.yaml");
        let file = file.to_string_lossy();
        kubernetes
            .kubectl
            .run(&["--namespace", NAMESPACE, "apply", "-f", &file])?;
    }
    resource.await_ready(2 * PATIENCE)?;
    Ok(kubernetes)
}

/// Requests that an engine works on.
pub(super) fn running(target: &Target) -> Result<u32> {
    let value = total(&metrics(target)?, "vllm:num_requests_running")?;
    format!("{value:.0}").parse().context("not a count")
}
