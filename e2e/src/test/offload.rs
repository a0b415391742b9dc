//! `spec.memory.cpuOffload` of the running example: the same answer from layers that lie in host memory,
//! planned and measured in status, through a resize and a deep sleep.

use anyhow::{Context as _, Result};
use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::status::{GpuRow, State};
use plimsoll_crds::v1alpha1::{ConditionType, Reason};
use serde_json::{Value, json};

use crate::kube::Resource;
use crate::test::figures::memory_of;
use crate::test::observe::{EVERY, PATIENCE, is_leaving, name_of, names_of, pod_port};
use crate::test::resize::{FIRST, await_applied, patch, pods, with_quotas};
use crate::test::sleep::{answer, await_rows, restarts};
use crate::test::sleep_asked;
use crate::test::smollm2::{NAME, NAMESPACE, ready};
use crate::test::world::World;
use crate::test::{Passed, expect, expect_eq};
use crate::wait;

/// Of each rank; several of its layers.
const OFFLOAD: &str = "40Mi";
const LARGER: [u64; 2] = [340, 800];
const SMALLER: [u64; 2] = [280, 640];
const IN_HOST_MEMORY: [&str; 1] = ["Offload"];

pub(super) fn answers_the_same(world: &World<'_>) -> Passed {
    let kubernetes = ready(world)?;
    let resource = kubernetes.resource(NAMESPACE, NAME);
    let without = pods(resource)?;
    let said = answer(&pod_port(
        without.first().context("no pod")?,
        names::PORT_HTTP,
    )?)?;
    // One pod is enough, and an engine with offload is another one: the old ones go.
    let wanted = json!({"spec": {"replicas": 1, "memory": {"cpuOffload": OFFLOAD}}});
    kubernetes.api.merge(&resource.path(), &wanted)?;
    let old: Vec<&str> = without.iter().map(name_of).collect();
    let pod = wait::until("one pod with offload", 2 * PATIENCE, EVERY, || {
        let names = names_of(&resource)?;
        let new = resource.engine_pods()?.into_iter();
        let mut new = new.filter(|pod| !is_leaving(pod) && !old.contains(&name_of(pod)));
        Ok(match (new.next(), names.len()) {
            (Some(pod), 1) => Ok(pod),
            _ => Err(format!("{names:?}")),
        })
    })?;
    resource.await_ready(PATIENCE)?;
    let pod = name_of(&pod).to_owned();
    let same = |what: &str| -> Result<()> {
        let now = found(resource, &pod)?;
        expect_eq(what, &answer(&pod_port(&now, names::PORT_HTTP)?)?, &said)?;
        expect_eq("restarts", &restarts(&now), &Some(0))
    };
    same("the answer with offload")?;
    let rows = await_offload(resource, &pod)?;
    let report = memory_of(&kubernetes, &found(resource, &pod)?)?;
    for (row, rank) in rows
        .iter()
        .zip(report["ranks"].as_array().context("no ranks")?)
    {
        let planned = row.offload.as_ref().context("no offload in the row")?;
        let measured = &rank["offload"];
        println!(
            "           {pod} rank {}: {planned:?} in status, {measured} measured",
            row.rank
        );
        expect(planned.layers > 0 && planned.step_bytes > 0, || {
            format!("{planned:?}")
        })?;
        expect(planned.predicted_step_microseconds > 0, || {
            format!("{planned:?}")
        })?;
        expect(measured["waitedStepMicroseconds"].is_u64(), || {
            measured.to_string()
        })?;
    }

    for quotas in [LARGER, SMALLER, FIRST] {
        patch(&kubernetes, &with_quotas(quotas))?;
        await_applied(resource, Some(quotas))?;
        same("the answer after a resize")?;
    }
    sleep_asked::patch(&kubernetes, r#"{"state":"Sleeping","level":2}"#)?;
    sleep_asked::await_state(resource, State::Sleeping, Some(Reason::Sleeping))?;
    await_rows(resource, &pod, &IN_HOST_MEMORY, false)?;
    // What is asked for meanwhile is what the wake takes.
    patch(&kubernetes, &with_quotas(LARGER))?;
    let applied = ConditionType::TargetApplied.as_str();
    resource.await_condition(applied, "True", PATIENCE)?;
    sleep_asked::patch(&kubernetes, r#"{"state":"Awake","level":null}"#)?;
    resource.await_ready(PATIENCE)?;
    await_applied(resource, Some(LARGER))?;
    await_rows(resource, &pod, &IN_HOST_MEMORY, true)?;
    same("the answer after a deep sleep")?;
    Ok(3)
}

fn found(resource: Resource<'_>, name: &str) -> Result<Value> {
    let mut pods = resource.engine_pods()?.into_iter();
    let pod = pods.find(|pod| name_of(pod) == name);
    pod.with_context(|| format!("{name} is gone"))
}

/// The pod's rows, once each holds what is planned of host memory.
fn await_offload(resource: Resource<'_>, pod: &str) -> Result<Vec<GpuRow>> {
    wait::until("status shows the offload", PATIENCE, EVERY, || {
        let memory = resource.get()?.status.and_then(|status| status.memory);
        let mut rows = memory.map(|memory| memory.gpus).unwrap_or_default();
        rows.retain(|row| row.pod == pod);
        let held = |row: &GpuRow| {
            let mut accounts = row.accounts.iter();
            let offload = accounts.find(|it| IN_HOST_MEMORY.contains(&it.name.as_str()));
            offload.is_some_and(|it| it.planned_bytes > 0 && it.reserved_bytes == it.planned_bytes)
        };
        Ok(match !rows.is_empty() && rows.iter().all(held) {
            true => Ok(rows),
            false => Err(format!("{rows:?}")),
        })
    })
}
