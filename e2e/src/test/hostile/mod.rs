//! Clients that mean harm, and those who ask for all that they may: one pod of the example, with the
//! limit that the operator gives it, and how long they go on.

mod soak;
mod sockets;
mod waste;

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::kube::{Kubernetes, Resource};
use crate::paths;
use crate::test::observe::PATIENCE;
use crate::test::world::World;
use crate::test::{Group, test};

pub(super) const GROUP: Group = Group {
    name: "hostile",
    about: "slow bodies, half-open connections, idle sockets, the worst that is allowed",
    tests: &[
        test(
            "hostile clients cost no kill, no probe, no honest answer",
            sockets::outlived,
        ),
        test(
            "a body that is far too large leaves `kubectl port-forward` alive",
            sockets::forwarded,
        ),
        test(
            "allowed traffic at its worst: no rank passes its line, every answer is one",
            soak::stays_within,
        ),
        test(
            "a chat-like mix of lengths wastes less than 3% of the KV cache it holds",
            waste::is_small,
        ),
    ],
};

const NAMESPACE: &str = "hostile";
const MODEL: &str = "smollm2";

/// One pod of the example, with the limit that the operator gives it.
fn ready(world: &World<'_>) -> Result<(Kubernetes, Value)> {
    let kubernetes = world.installed()?;
    world.look_at(NAMESPACE);
    let resource = kubernetes.resource(NAMESPACE, MODEL);
    if kubernetes.api.find(&resource.path())?.is_none() {
        kubernetes.create_namespace(NAMESPACE, "restricted")?;
        let file = paths::repository().join("examples/smollm2.yaml");
        let file = file.to_string_lossy();
        let apply = ["--namespace", NAMESPACE, "apply", "-f", &file];
        kubernetes.kubectl.run(&apply)?;
        let one = json!({"spec": {"replicas": 1}});
        kubernetes.api.merge(&resource.path(), &one)?;
    }
    resource.await_ready(2 * PATIENCE)?;
    let pod = pod_of(&resource)?;
    Ok((kubernetes, pod))
}

fn pod_of(resource: &Resource<'_>) -> Result<Value> {
    let mut pods = resource.engine_pods()?;
    pods.pop().context("no pod")
}

fn seconds() -> Result<Duration> {
    let seconds = match std::env::var("PLIMSOLL_HOSTILE_SECONDS") {
        Ok(text) => text
            .parse()
            .ok()
            .filter(|seconds| (1..=1200).contains(seconds))
            .context("PLIMSOLL_HOSTILE_SECONDS: a whole number from 1 to 1200")?,
        Err(_) => 40,
    };
    Ok(Duration::from_secs(seconds))
}
