//! What must survive: the death of the operator, of an engine, of the API server, of a node.

use anyhow::{Context as _, Result};
use plimsoll_crds::names;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::cluster::Node;
use crate::kube::{Kubernetes, Resource};
use crate::test::observe::{
    EVERY, PATIENCE, asked, complete, is_leaving, is_ready, name_of, operator_metrics,
    operator_pods, pod_port, processes_of, text,
};
use crate::test::world::World;
use crate::test::{Group, Passed, expect, expect_eq, test, tiny};
use crate::wait;

pub(super) const GROUP: Group = Group {
    name: "faults",
    about: "kill -9 of the operator, an engine, the API server; a node goes away",
    tests: &[
        test(
            "the operator dies while a model is being loaded",
            operator_dies,
        ),
        test("an engine dies: status says so, it comes back", engine_dies),
        test("the API server dies during reconcile", api_server_dies),
        test(
            "a node goes away: pods move, the silent row is marked stale",
            node_dies,
        ),
    ],
};

fn operator_dies(world: &World<'_>) -> Passed {
    let kubernetes = tiny::installed(world)?;
    let space = world.namespace("operator-dies", "restricted")?;
    let resource = kubernetes.resource(&space.name, "survivor");
    operator_metrics(&kubernetes)?;
    // Several, so that many passes begin at once when the operator comes back.
    let others: Vec<String> = (0..8).map(|number| format!("other-{number}")).collect();
    for name in others.iter().map(String::as_str).chain([resource.name]) {
        tiny::apply(&kubernetes, &space.name, &tiny::resource(name))?;
    }
    let operators = operator_pods(&kubernetes)?;
    let operator = operators.first().context("no operator runs")?;
    kill_container(operator, "operator")?;
    resource.await_ready(2 * PATIENCE)?;
    for name in &others {
        kubernetes
            .resource(&space.name, name)
            .await_ready(PATIENCE)?;
    }
    // A change after the restart is seen too.
    kubernetes
        .api
        .merge(&resource.path(), &json!({"spec": {"replicas": 2}}))?;
    resource.await_ready(PATIENCE)?;
    let status = resource.get()?.status.context("no status")?;
    expect_eq("readyReplicas", &status.ready_replicas, &2)?;
    Ok(1)
}

fn engine_dies(world: &World<'_>) -> Passed {
    let kubernetes = tiny::installed(world)?;
    let space = world.namespace("engine-dies", "restricted")?;
    let resource = kubernetes.resource(&space.name, "survivor");
    tiny::apply(&kubernetes, &space.name, &tiny::resource(resource.name))?;
    resource.await_ready(PATIENCE)?;
    // Twice: the kubelet waits 10 s before the second start, long enough for anybody to see.
    for deaths in [1, 2] {
        let pods = resource.engine_pods()?;
        kill_container(pods.first().context("no pod")?, names::CONTAINER_ENGINE)?;
        if deaths == 2 {
            let told = resource.await_condition("Ready", "False", PATIENCE)?;
            println!("           status says {}: {}", told.reason, told.message);
        }
        // The resource's Ready may be from before the death, and so may the pod's until it counts.
        wait::until("the engine is started again", PATIENCE, EVERY, || {
            let pods = resource.engine_pods()?;
            let pod = pods.first().context("no pod")?;
            let engine = &pod["status"]["containerStatuses"][0];
            let again = engine["restartCount"] == deaths && engine["ready"] == true;
            Ok(if again {
                Ok(())
            } else {
                Err(engine.to_string())
            })
        })?;
        resource.await_ready(PATIENCE)?;
    }
    let answer = asked(&kubernetes, resource, "tiny")?;
    expect_eq("answer", &answer.status, &200)?;
    Ok(1)
}

fn api_server_dies(world: &World<'_>) -> Passed {
    let kubernetes = tiny::installed(world)?;
    let session = world.session()?;
    let space = world.namespace("api-dies", "restricted")?;
    let steady = kubernetes.resource(&space.name, "steady");
    tiny::apply(&kubernetes, &space.name, &tiny::resource(steady.name))?;
    steady.await_ready(PATIENCE)?;
    let pods = steady.engine_pods()?;
    let engine = pod_port(pods.first().context("no pod")?, names::PORT_HTTP)?;
    let late = kubernetes.resource(&space.name, "late");
    tiny::apply(&kubernetes, &space.name, &tiny::resource(late.name))?;
    session.cluster().kill_api_server()?;
    let answer = complete(&engine, "tiny");
    session.cluster().start_api_server()?;
    expect_eq("answer without an API server", &answer?.status, &200)?;
    late.await_ready(2 * PATIENCE)?;
    steady.await_ready(PATIENCE)?;
    let generation = steady.get()?.metadata.generation;
    expect_eq("generation of the steady one", &generation, &Some(1))?;
    expect_eq("restarts of the steady one", &restarts(&steady)?, &0)?;
    Ok(1)
}

fn node_dies(world: &World<'_>) -> Passed {
    let kubernetes = tiny::installed(world)?;
    let session = world.session()?;
    let victim = Node { number: 2 };
    let space = world.namespace("node-dies", "restricted")?;
    let resource = kubernetes.resource(&space.name, "mover");
    let mut object = tiny::resource(resource.name);
    object["spec"]["replicas"] = json!(2);
    // One pod on each node while both are there.
    object["spec"]["template"] = json!({"spec": {"affinity": {"podAntiAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [{
            "weight": 100,
            "podAffinityTerm": {
                "topologyKey": "kubernetes.io/hostname",
                "labelSelector": {"matchLabels": {names::LABEL_DEPLOYMENT: resource.name}},
            },
        }],
    }}}});
    tiny::apply(&kubernetes, &space.name, &object)?;
    resource.await_ready(PATIENCE)?;
    let pods = resource.engine_pods()?;
    let lost = pods
        .iter()
        .find(|pod| text(&pod["spec"]["nodeName"]) == victim.name());
    let lost = name_of(lost.context("no pod on the second node")?).to_owned();
    await_row(&resource, &lost, |stale| !stale, "is fresh")?;
    victim.kill()?;
    let result = after_the_node(&kubernetes, &resource, &lost);
    session.cluster().start_node(victim)?;
    result?;
    resource.await_ready(PATIENCE)?;
    wait::until("the lost pod is gone", PATIENCE, EVERY, || {
        let pods = resource.engine_pods()?;
        Ok(if pods.iter().all(|pod| name_of(pod) != lost) {
            Ok(())
        } else {
            Err("it is there".into())
        })
    })?;
    Ok(1)
}

fn after_the_node(kubernetes: &Kubernetes, resource: &Resource<'_>, lost: &str) -> Result<()> {
    let told = resource.await_condition("Ready", "False", PATIENCE)?;
    println!("           status says {}: {}", told.reason, told.message);
    await_row(resource, lost, |stale| stale, "is stale")?;
    wait::until(
        "a pod takes the lost one's place",
        2 * PATIENCE,
        EVERY,
        || {
            let pods = resource.engine_pods()?;
            let ready = pods
                .iter()
                .filter(|pod| is_ready(pod) && !is_leaving(pod))
                .count();
            Ok(if ready == 2 {
                Ok(())
            } else {
                Err(format!("{ready} pods are ready"))
            })
        },
    )?;
    let answer = asked(kubernetes, *resource, "tiny")?;
    expect_eq("answer", &answer.status, &200)
}

fn await_row(
    resource: &Resource<'_>,
    pod: &str,
    wanted: impl Fn(bool) -> bool,
    what: &str,
) -> Result<()> {
    wait::until(&format!("the row of {pod} {what}"), PATIENCE, EVERY, || {
        let memory = resource.get()?.status.and_then(|status| status.memory);
        let row = memory.and_then(|memory| memory.gpus.into_iter().find(|row| row.pod == pod));
        Ok(match row {
            Some(row) if wanted(row.stale) => Ok(()),
            Some(row) => Err(format!(
                "stale is {}, reported {:?}",
                row.stale, row.reported_at
            )),
            None => Err("there is no row".to_owned()),
        })
    })
}

/// SIGKILL to every process of a container, from outside.
pub(super) fn kill_container(pod: &Value, container: &str) -> Result<()> {
    let processes = processes_of(pod, container)?;
    expect(!processes.is_empty(), || {
        format!("{container} has no process")
    })?;
    for pid in processes.into_iter().filter_map(Pid::from_raw) {
        kill_process(pid, Signal::KILL).context("cannot kill a container's process")?;
    }
    Ok(())
}

fn restarts(resource: &Resource<'_>) -> Result<u64> {
    let pods = resource.engine_pods()?;
    Ok(pods
        .iter()
        .flat_map(|pod| {
            pod["status"]["containerStatuses"]
                .as_array()
                .into_iter()
                .flatten()
        })
        .filter_map(|status| status["restartCount"].as_u64())
        .sum())
}
