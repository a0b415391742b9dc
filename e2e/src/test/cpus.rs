//! A container's CPU limit sizes the engine's worker pool: a quota the scheduler enforces would
//! otherwise stop more threads than it lets run.

use std::fs;

use anyhow::{Context as _, Result};
use plimsoll_crds::names;
use serde_json::{Value, json};

use crate::kube::Kubernetes;
use crate::test::observe::{PATIENCE, complete, name_of, pod_port, processes_of, text};
use crate::test::world::World;
use crate::test::{Passed, expect_eq, tiny};

pub(super) fn limit_sizes_the_pool(world: &World<'_>) -> Passed {
    let kubernetes = tiny::installed(world)?;
    let space = world.namespace("cpus", "restricted")?;
    let node = kubernetes.api.get("/api/v1/nodes/node-1")?;
    let cores: usize = text(&node["status"]["capacity"]["cpu"]).parse()?;
    let cases = [
        ("unlimited", None, cores),
        ("one", Some("1"), 1),
        // Rounded up: a part of a core still needs a thread.
        ("three-halves", Some("1500m"), cores.min(2)),
    ];
    for (name, limit, wanted) in cases {
        let mut object = tiny::resource(name);
        // The request would follow the limit, and three such pods find no room on a small node.
        let mut resources = json!({"requests": {"cpu": "50m"}});
        if let Some(cpu) = limit {
            resources["limits"] = json!({"cpu": cpu});
        }
        object["spec"]["template"] = json!({"engine": {"resources": resources}});
        tiny::apply(&kubernetes, &space.name, &object)?;
        let resource = kubernetes.resource(&space.name, name);
        resource.await_ready(PATIENCE)?;
        let pods = resource.engine_pods()?;
        let pod = pods.first().context("no pod")?;
        expect_eq(
            &format!("{name}: threads by the log"),
            &said(&kubernetes, pod)?,
            &wanted,
        )?;
        expect_eq(
            &format!("{name}: threads by the kernel"),
            &counted(pod)?,
            &wanted,
        )?;
        let answer = complete(&pod_port(pod, names::PORT_HTTP)?, "tiny")?;
        expect_eq("answer", &answer.status, &200)?;
    }
    Ok(u32::try_from(cases.len())?)
}

/// `threads_per_rank` in the engine's log.
fn said(kubernetes: &Kubernetes, pod: &Value) -> Result<usize> {
    let path = format!(
        "/api/v1/namespaces/{}/pods/{}/log?container={}",
        text(&pod["metadata"]["namespace"]),
        name_of(pod),
        names::CONTAINER_ENGINE
    );
    let log = kubernetes.api.text(&path)?;
    let (_, rest) = log
        .split_once("threads_per_rank=")
        .with_context(|| format!("the log does not say how many threads:\n{log}"))?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().context("no count")
}

/// The rank's own thread and its workers, by the names that the kernel shows.
fn counted(pod: &Value) -> Result<usize> {
    let mut workers = 0;
    for process in processes_of(pod, names::CONTAINER_ENGINE)? {
        for task in fs::read_dir(format!("/proc/{process}/task"))?.flatten() {
            let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            workers += usize::from(name.starts_with("rank-worker"));
        }
    }
    Ok(workers + 1)
}
