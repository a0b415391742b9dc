//! Memory figures: what status, `/memory` and `/metrics` say, against each other and the kernel.

use std::time::Duration;

use anyhow::{Context as _, Result};
use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::InferenceDeployment;
use serde_json::Value;

use crate::http::Request;
use crate::kube::Kubernetes;
use crate::test::observe::{
    EVERY, PATIENCE, anonymous_bytes, bearer, cgroup_bytes, metrics, name_of, pod_port, text,
};
use crate::test::smollm2::{NAME, NAMESPACE, ready};
use crate::test::world::World;
use crate::test::{Passed, expect, expect_eq};
use crate::wait;

/// The sum of all rows without `other` is within 5% of the container's cgroup figure, and each
/// rank's rows within 5% of the resident size of its mappings.
pub(super) fn true_to_the_kernel(world: &World<'_>) -> Passed {
    const TOLERANCE_PERCENT: u64 = 5;
    let kubernetes = ready(world)?;
    let resource = kubernetes.resource(NAMESPACE, NAME);
    let close = |what: String, rows: u64, truth: u64| -> Result<()> {
        let gap = rows.abs_diff(truth);
        println!("           {what}: rows {rows}, kernel {truth}, apart {gap} bytes");
        expect(gap * 100 <= truth * TOLERANCE_PERCENT, || {
            format!("{what}: the rows say {rows} bytes, the kernel {truth}: {gap} apart")
        })
    };
    let mut checks = 0;
    for pod in resource.engine_pods()? {
        let report = memory_of(&kubernetes, &pod)?;
        let truth = cgroup_bytes(&pod, names::CONTAINER_ENGINE)?;
        let mut all = sum(&report["host"]["accounts"], "usedBytes");
        for rank in report["ranks"].as_array().into_iter().flatten() {
            let reserved = sum(&rank["accounts"], "reservedBytes");
            let driver = rank["driverBytes"].as_u64().context("no driverBytes")?;
            close(
                format!("{} rank {}", name_of(&pod), rank["rank"]),
                reserved,
                driver,
            )?;
            all += reserved;
            checks += 1;
        }
        close(name_of(&pod).to_owned(), all, truth)?;
        // Everything that is no file: the ranks' mappings and the process's own heap.
        let kernel = account(&report["host"]["accounts"], "Kernel");
        let cache = account(&report["host"]["accounts"], "PageCache");
        let anonymous = anonymous_bytes(&pod, names::CONTAINER_ENGINE)?;
        close(
            format!("{} anonymous", name_of(&pod)),
            all - kernel - cache,
            anonymous,
        )?;
        checks += 2;
    }
    Ok(checks)
}

/// The three places that show memory show the same.
pub(super) fn agree_everywhere(world: &World<'_>) -> Passed {
    let kubernetes = ready(world)?;
    let resource = kubernetes.resource(NAMESPACE, NAME);
    let pods = resource.engine_pods()?;
    wait::until(
        "status, /memory and /metrics agree",
        PATIENCE,
        EVERY,
        || {
            let object = resource.get()?;
            for pod in &pods {
                if let Err(error) = agree(&kubernetes, &object, pod) {
                    return Ok(Err(format!("{error:#}")));
                }
            }
            Ok(Ok(()))
        },
    )?;
    Ok(u32::try_from(pods.len())?)
}

fn agree(kubernetes: &Kubernetes, object: &InferenceDeployment, pod: &Value) -> Result<()> {
    let report = memory_of(kubernetes, pod)?;
    let samples = metrics(&pod_port(pod, names::PORT_HTTP)?)?;
    let memory = object
        .status
        .as_ref()
        .and_then(|status| status.memory.as_ref());
    let rows = &memory.context("no memory in the status")?.gpus;
    for rank in report["ranks"].as_array().into_iter().flatten() {
        let index = rank["rank"].as_u64().context("no rank")?;
        let row = rows
            .iter()
            .find(|row| row.pod == name_of(pod) && u64::from(row.rank) == index)
            .with_context(|| format!("no row of {} rank {index} in the status", name_of(pod)))?;
        for account in rank["accounts"].as_array().into_iter().flatten() {
            let name = text(&account["name"]);
            let reserved = account["reservedBytes"]
                .as_u64()
                .context("no reservedBytes")?;
            let in_status = row.accounts.iter().find(|it| it.name == name);
            let in_status = in_status.with_context(|| format!("no {name} in the status"))?;
            expect_eq(
                &format!("status {name}"),
                &in_status.reserved_bytes,
                &reserved,
            )?;
            let planned = account["plannedBytes"]
                .as_u64()
                .context("no plannedBytes")?;
            expect_eq(
                &format!("planned {name}"),
                &in_status.planned_bytes,
                &planned,
            )?;
            let sample = samples
                .iter()
                .filter(|it| it.name == "plimsoll_gpu_memory_bytes")
                .filter(|it| it.labels.get("gpu") == Some(&index.to_string()))
                .find(|it| {
                    it.labels
                        .get("kind")
                        .is_some_and(|kind| same_account(kind, name))
                });
            let sample = sample.with_context(|| format!("no metric of {name} on rank {index}"))?;
            expect_eq(
                &format!("metric {name}"),
                &format!("{:.0}", sample.value),
                &reserved.to_string(),
            )?;
        }
    }
    Ok(())
}

/// `kv_cache` and `KVCache` are the same account.
fn same_account(metric: &str, account: &str) -> bool {
    metric.replace('_', "").eq_ignore_ascii_case(account)
}

/// The body of a pod's `/memory`, with the token of its Secret.
pub(super) fn memory_of(kubernetes: &Kubernetes, pod: &Value) -> Result<Value> {
    let answer = Request::new("GET", "/memory")
        .header("authorization", bearer(kubernetes, pod)?)
        .timeout(Duration::from_secs(10))
        .send(&pod_port(pod, names::PORT_ADMIN)?)?;
    expect_eq("status of /memory", &answer.status, &200)?;
    answer.json()
}

fn account(rows: &Value, name: &str) -> u64 {
    let row = rows
        .as_array()
        .and_then(|rows| rows.iter().find(|row| row["name"] == name));
    row.and_then(|row| row["usedBytes"].as_u64()).unwrap_or(0)
}

fn sum(rows: &Value, field: &str) -> u64 {
    rows.as_array()
        .into_iter()
        .flatten()
        .filter_map(|row| row[field].as_u64())
        .sum()
}
