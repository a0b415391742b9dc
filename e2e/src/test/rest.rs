//! At rest only the age of rows is renewed; under load only the promised writes are made.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use plimsoll_crds::names;
use serde_json::{Value, json};

use crate::interrupt;
use crate::kube::Kubernetes;
use crate::test::observe::{
    EVERY, PATIENCE, audit_position, await_answer, complete, operator_metrics, operator_writes,
    service_port, total,
};
use crate::test::world::World;
use crate::test::{Group, Passed, expect, expect_eq, test, tiny};
use crate::wait;

pub(super) const GROUP: Group = Group {
    name: "rest",
    about: "50 resources at rest: the rows' age is renewed, nothing else; a steady load: few writes",
    tests: &[
        test(
            "50 resources at rest for 60 s cost their renewals, once in 4 to 6 minutes each",
            at_rest,
        ),
        test("a steady load writes status at most every 30 s", under_load),
    ],
};

const RESOURCES: u32 = 50;
const WINDOW: Duration = Duration::from_secs(60);
const NAMESPACE: &str = "rest";

fn at_rest(world: &World<'_>) -> Passed {
    let kubernetes = tiny::installed(world)?;
    world.look_at(NAMESPACE);
    kubernetes.create_namespace(NAMESPACE, "restricted")?;
    let list = format!(
        "/apis/{}/{}/namespaces/{NAMESPACE}/{}",
        names::GROUP,
        names::VERSION,
        names::PLURAL
    );
    let (start, none_yet) = (audit_position()?, reconciles(&kubernetes)?);
    for index in 0..RESOURCES {
        tiny::apply(&kubernetes, NAMESPACE, &quiet(index))?;
    }
    for index in 0..RESOURCES {
        let name = name(index);
        kubernetes
            .resource(NAMESPACE, &name)
            .await_ready(4 * PATIENCE)?;
    }
    settle(&kubernetes)?;
    // Both counters see what the operator does when it does something.
    let (made, passes) = (
        operator_writes(start, None)?.len(),
        reconciles(&kubernetes)? - none_yet,
    );
    expect(made >= 50 && passes >= 50.0, || {
        format!("{made} writes and {passes:.0} reconciles for 50 resources: not counted right")
    })?;
    let (position, before) = (audit_position()?, busy(&kubernetes)?);
    let renewed = renewals(&kubernetes)?;
    let was = kubernetes.api.list(&list)?;
    observe_for(WINDOW)?;
    let writes = operator_writes(position, None)?;
    let (renewed, after) = (renewals(&kubernetes)? - renewed, busy(&kubernetes)?);
    println!(
        "           {} writes, {renewed} of them renewals, in 60 s",
        writes.len()
    );
    let moved = differences(&json!(was), &json!(kubernetes.api.list(&list)?));
    let other =
        |path: &&String| !path.contains("At:") && !FIGURES.iter().any(|it| path.contains(it));
    let moved: Vec<&String> = moved.iter().filter(other).collect();
    expect(moved.is_empty(), || {
        format!("more than figures moved: {moved:?}")
    })?;
    // In step, all 50 fall into two minutes; each at most once in four.
    let named: BTreeSet<&String> = writes.iter().collect();
    expect(writes.len() <= 35 && named.len() == writes.len(), || {
        format!("{} writes at rest: {writes:?}", writes.len())
    })?;
    let of_status = writes
        .iter()
        .filter(|write| write.contains("/status"))
        .count();
    expect_eq(
        "writes of anything but status",
        &(writes.len() - of_status),
        &0,
    )?;
    // The page may be a moment older or newer than the record.
    expect(
        renewed + 2.0 >= f64::from(u32::try_from(of_status)?),
        || format!("{of_status} writes of status, {renewed} renewals"),
    )?;
    expect(after - before <= 2.0, || {
        format!("{} reconciles that renewed nothing", after - before)
    })?;
    Ok(1)
}

/// What a renewal writes beside the time of the report.
const FIGURES: [&str; 9] = [
    "resourceVersion",
    "managedFields",
    "driverBytes",
    "otherBytes",
    "cgroupBytes",
    "usedBytes",
    "highWaterBytes",
    "reservedBytes",
    "kvWastedBytes",
];

fn under_load(world: &World<'_>) -> Passed {
    // Every 30 s, and one more for each edge of the window.
    const MOST_WRITES: usize = 4;
    let kubernetes = tiny::installed(world)?;
    world.look_at(NAMESPACE);
    kubernetes.create_namespace(NAMESPACE, "restricted")?;
    let busy = name(0);
    let resource = kubernetes.resource(NAMESPACE, &busy);
    if kubernetes.api.find(&resource.path())?.is_none() {
        tiny::apply(&kubernetes, NAMESPACE, &quiet(0))?;
    }
    resource.await_ready(PATIENCE)?;
    let target = service_port(&kubernetes, resource)?;
    await_answer("the Service leads to the engine", &target, "tiny")?;
    settle(&kubernetes)?;
    let position = audit_position()?;
    let (began, mut answers) = (Instant::now(), 0_u32);
    while began.elapsed() < WINDOW {
        interrupt::check()?;
        expect_eq("answer", &complete(&target, "tiny")?.status, &200)?;
        answers += 1;
        thread::sleep(Duration::from_millis(50));
    }
    let writes = operator_writes(position, None)?;
    let of_status = writes
        .iter()
        .filter(|write| write.contains("/status"))
        .count();
    println!("           {answers} answers, {of_status} status writes in 60 s");
    expect(writes.len() <= MOST_WRITES, || {
        format!(
            "{} writes under load, at most {MOST_WRITES} are promised: {writes:?}",
            writes.len()
        )
    })?;
    // The resources are many, and the test is the last: they go with the namespace.
    kubernetes
        .api
        .delete(&format!("/api/v1/namespaces/{NAMESPACE}"))?;
    Ok(1)
}

/// A resource that leaves room for 49 others on four cores.
fn quiet(index: u32) -> Value {
    let mut object = tiny::resource(&name(index));
    object["spec"]["template"] = json!({"engine": {"resources": {"requests": {"cpu": "10m"}}}});
    object
}

fn name(index: u32) -> String {
    format!("quiet-{index}")
}

/// Waits until the operator has had nothing to do for a while.
fn settle(kubernetes: &Kubernetes) -> Result<()> {
    // Figures that moved after a pod turned ready may wait 30 s to be written: only then is it rest.
    const QUIET: Duration = Duration::from_secs(40);
    let (mut position, mut since) = (audit_position()?, Instant::now());
    let mut count = busy(kubernetes)?;
    wait::until(
        "the operator has nothing left to do",
        2 * PATIENCE,
        EVERY,
        || {
            let writes = operator_writes(position, None)?;
            let now = busy(kubernetes)?;
            if now > count {
                (position, since, count) = (audit_position()?, Instant::now(), now);
            }
            Ok(if since.elapsed() >= QUIET {
                Ok(())
            } else {
                Err(format!("{writes:?}"))
            })
        },
    )
}

/// Reconciles that did more than to renew the age of rows.
fn busy(kubernetes: &Kubernetes) -> Result<f64> {
    Ok(reconciles(kubernetes)? - renewals(kubernetes)?)
}

fn renewals(kubernetes: &Kubernetes) -> Result<f64> {
    total(
        &operator_metrics(kubernetes)?,
        "plimsoll_operator_status_renewals_total",
    )
}

fn reconciles(kubernetes: &Kubernetes) -> Result<f64> {
    total(
        &operator_metrics(kubernetes)?,
        "plimsoll_operator_reconcile_total",
    )
    .context("the operator counts its reconciles")
}

/// Where two documents differ, one line each.
fn differences(was: &Value, is: &Value) -> Vec<String> {
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    leaves(String::new(), was, &mut before);
    leaves(String::new(), is, &mut after);
    let paths: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    paths
        .into_iter()
        .filter(|path| before.get(*path) != after.get(*path))
        .map(|path| format!("{path}: {:?} -> {:?}", before.get(path), after.get(path)))
        .collect()
}

fn leaves(path: String, value: &Value, found: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                leaves(format!("{path}/{name}"), field, found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                leaves(format!("{path}/{index}"), item, found);
            }
        }
        leaf => {
            found.insert(path, leaf.to_string());
        }
    }
}

/// The length of a measurement, not a wait: Ctrl-C still ends it.
fn observe_for(window: Duration) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < window {
        interrupt::check()?;
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_name_what_changed_came_and_went() {
        let was = json!([{"status": {"gpus": [1, 2], "state": "Serving"}}]);
        let is = json!([{"status": {"gpus": [1, 3], "stale": true}}]);
        assert_eq!(
            differences(&was, &is),
            [
                "/0/status/gpus/1: Some(\"2\") -> Some(\"3\")",
                "/0/status/stale: None -> Some(\"true\")",
                "/0/status/state: Some(\"\\\"Serving\\\"\") -> None",
            ]
        );
        assert!(differences(&was, &was).is_empty());
    }
}
