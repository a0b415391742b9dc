//! The operator's promises, one story each, on tiny models.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use anyhow::{Context as _, Result};
use plimsoll_crds::names;
use serde_json::{Value, json};

use crate::kube::{Kubernetes, Resource};
use crate::paths;
use crate::test::observe::{
    EVERY, PATIENCE, asked, await_nothing_left, complete, is_leaving, is_ready, names_of,
    service_port, text,
};
use crate::test::world::World;
use crate::test::{
    Group, Passed, adapters, cpus, drift, expect, expect_eq, refusal, sources, test, tiny,
};
use crate::wait;

pub(super) const GROUP: Group = Group {
    name: "reconcile",
    about: "the operator: refuses and remedies, scales, rolls, cleans up, every source",
    tests: &[
        test("hand edits of children are put back", drift::repaired).in_background(),
        test(
            "what cannot fit is refused before a pod exists; the remedy runs",
            refusal::remedied,
        ),
        test(
            "a refused change leaves running pods alone",
            refusal::change,
        ),
        test("kubectl scale goes up, down and to zero", scaled),
        test(
            "a changed spec replaces pods without losing the service",
            rolled,
        ),
        test(
            "a change rolls where there is room for one pod only",
            rolled_without_room,
        ),
        test(
            "deleting while loading leaves nothing",
            deleted_while_loading,
        ),
        test(
            "beside a user's container the engine is a native sidecar",
            sidecar,
        ),
        test("a model on a claim is served", sources::claim),
        test(
            "a model in a folder of the node is served",
            sources::host_path,
        ),
        test(
            "an adapter is merged, one that does not fit changes nothing, and without it the model is its own",
            adapters::merged,
        ),
        test(
            "adapters that requests choose come and go beside a pod that serves, and a broken one changes nothing",
            adapters::chosen,
        ),
        test("an unchanged model is not inspected again", inspected_once),
        test(
            "a CPU limit sizes the engine's worker pool",
            cpus::limit_sizes_the_pool,
        ),
        // It counts the passes of the operator that failed.
        test("a namespace that ends is left alone", drift::namespace_ends).alone(),
    ],
};

fn scaled(world: &World<'_>) -> Passed {
    let kubernetes = tiny::installed(world)?;
    let space = world.namespace("scaled", "restricted")?;
    let resource = kubernetes.resource(&space.name, "scaled");
    tiny::apply(&kubernetes, &space.name, &tiny::resource(resource.name))?;
    resource.await_ready(PATIENCE)?;
    for replicas in [3_u32, 1, 0, 1] {
        let count = format!("--replicas={replicas}");
        kubernetes
            .kubectl
            .run(&["-n", &space.name, "scale", "infd", resource.name, &count])?;
        let wait = [
            "wait",
            "--for=condition=Ready",
            "--timeout=120s",
            "infd/scaled",
        ];
        kubernetes
            .kubectl
            .run(&[&["-n", space.name.as_str()][..], &wait].concat())?;
        await_pods(&resource, replicas)?;
        let status = resource.get()?.status.context("no status")?;
        expect_eq("status.replicas", &status.replicas, &replicas)?;
    }
    Ok(4)
}

fn rolled(world: &World<'_>) -> Passed {
    let kubernetes = tiny::installed(world)?;
    let space = world.namespace("rolled", "restricted")?;
    let resource = kubernetes.resource(&space.name, "rolled");
    let mut object = tiny::resource(resource.name);
    object["spec"]["replicas"] = json!(2);
    tiny::apply(&kubernetes, &space.name, &object)?;
    resource.await_ready(PATIENCE)?;
    let before = names_of(&resource)?;
    let target = service_port(&kubernetes, resource)?;
    let (done, asked, lost) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    let problems = Mutex::new(BTreeSet::new());
    let result = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                asked.fetch_add(1, Ordering::SeqCst);
                let problem = match complete(&target, "tiny") {
                    Ok(answer) if answer.status == 200 => continue,
                    Ok(answer) => format!("{} {}", answer.status, answer.body),
                    Err(error) => format!("{error:#}"),
                };
                lost.fetch_add(1, Ordering::SeqCst);
                problems
                    .lock()
                    .unwrap_or_else(|held| held.into_inner())
                    .insert(problem);
            }
        });
        let result = change_and_await(&kubernetes, &resource, &before);
        done.store(true, Ordering::SeqCst);
        result
    });
    result?;
    let (asked, lost) = (asked.into_inner(), lost.into_inner());
    println!("           {asked} requests during the change, {lost} lost");
    let problems = problems
        .into_inner()
        .unwrap_or_else(|held| held.into_inner());
    expect(asked > 0 && lost == 0, || {
        format!("{lost} of {asked} requests lost: {problems:#?}")
    })?;
    Ok(1)
}

fn rolled_without_room(world: &World<'_>) -> Passed {
    let kubernetes = tiny::installed(world)?;
    let space = world.namespace("no-room", "restricted")?;
    let resource = kubernetes.resource(&space.name, "tight");
    let mut object = tiny::resource(resource.name);
    // More than half of the cores of the one node that it may run on: a second pod finds no room.
    object["spec"]["template"] = json!({
        "engine": {"resources": {"requests": {"cpu": more_than_half(&kubernetes)?}}},
        "spec": {"nodeSelector": {"kubernetes.io/hostname": "node-1"}},
    });
    tiny::apply(&kubernetes, &space.name, &object)?;
    resource.await_ready(PATIENCE)?;
    let before = names_of(&resource)?;
    change_and_await(&kubernetes, &resource, &before)?;
    let events = kubernetes
        .kubectl
        .run(&["-n", &space.name, "get", "events"])?;
    expect(events.contains("RolloutReplacing"), || {
        format!("no Event says so:\n{events}")
    })?;
    Ok(1)
}

fn deleted_while_loading(world: &World<'_>) -> Passed {
    let kubernetes = world.installed()?;
    let space = world.namespace("deleted", "restricted")?;
    let resource = kubernetes.resource(&space.name, "smollm2");
    let file = paths::repository().join("examples/smollm2.yaml");
    kubernetes
        .kubectl
        .run(&["-n", &space.name, "apply", "-f", &file.to_string_lossy()])?;
    wait::until(
        "an engine pod runs and is not ready",
        PATIENCE,
        EVERY,
        || {
            let pods = resource.engine_pods()?;
            let running = pods
                .iter()
                .any(|pod| pod["status"]["phase"] == "Running" && !is_ready(pod));
            Ok(if running {
                Ok(())
            } else {
                Err(format!("{} pods", pods.len()))
            })
        },
    )?;
    kubernetes.api.delete(&resource.path())?;
    await_nothing_left(resource)?;
    Ok(1)
}

fn sidecar(world: &World<'_>) -> Passed {
    let kubernetes = tiny::installed(world)?;
    let space = world.namespace("beside", "restricted")?;
    let resource = kubernetes.resource(&space.name, "beside");
    let mut object = tiny::resource(resource.name);
    object["spec"]["template"] = json!({"spec": {"containers": [{
        "name": "app",
        "image": "localhost/pause:1",
        "imagePullPolicy": "Never",
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": 65532,
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }]}});
    tiny::apply(&kubernetes, &space.name, &object)?;
    resource.await_ready(PATIENCE)?;
    let pods = resource.engine_pods()?;
    let pod = pods.iter().find(|pod| !is_leaving(pod)).context("no pod")?;
    expect_eq(
        "containers",
        &names_in(&pod["spec"]["containers"]),
        &vec!["app"],
    )?;
    let engine = pod["spec"]["initContainers"]
        .as_array()
        .and_then(|all| all.iter().find(|it| it["name"] == names::CONTAINER_ENGINE))
        .context("the engine is no init container")?;
    expect_eq("restartPolicy", &text(&engine["restartPolicy"]), &"Always")?;
    let answer = asked(&kubernetes, resource, "tiny")?;
    expect_eq("answer", &answer.status, &200)?;
    Ok(1)
}

fn inspected_once(world: &World<'_>) -> Passed {
    let kubernetes = tiny::installed(world)?;
    let space = world.namespace("inspected", "restricted")?;
    let resource = kubernetes.resource(&space.name, "once");
    tiny::apply(&kubernetes, &space.name, &tiny::resource(resource.name))?;
    resource.await_ready(PATIENCE)?;
    let before = names_of(&resource)?;
    change_and_await(&kubernetes, &resource, &before)?;
    let inspected = |events: &[Value]| {
        events
            .iter()
            .filter(|event| event["reason"] == "ModelInspected")
            .map(|event| {
                event["series"]["count"]
                    .as_u64()
                    .or(event["count"].as_u64())
                    .unwrap_or(1)
            })
            .sum::<u64>()
    };
    let events = kubernetes
        .api
        .list(&format!("/api/v1/namespaces/{}/events", space.name))?;
    expect_eq("inspections", &inspected(&events), &1)?;
    Ok(1)
}

/// A change that needs new pods; waits until they alone serve.
fn change_and_await(
    kubernetes: &Kubernetes,
    resource: &Resource<'_>,
    before: &[String],
) -> Result<()> {
    kubernetes.api.merge(
        &resource.path(),
        &json!({"spec": {"limits": {"maxNumSeqs": 3}}}),
    )?;
    wait::until("new pods alone serve", 2 * PATIENCE, EVERY, || {
        let ready = resource.condition("Ready")?;
        let names = names_of(resource)?;
        let new = names.len() == before.len() && names.iter().all(|name| !before.contains(name));
        Ok(match ready {
            Some(condition) if condition.status == "True" && new => Ok(()),
            other => Err(format!("pods {names:?}, Ready {other:?}")),
        })
    })
}

fn await_pods(resource: &Resource<'_>, count: u32) -> Result<()> {
    wait::until(&format!("{count} pods are there"), PATIENCE, EVERY, || {
        let names = names_of(resource)?;
        Ok(if u32::try_from(names.len())? == count {
            Ok(())
        } else {
            Err(format!("{names:?}"))
        })
    })
}

fn names_in(containers: &Value) -> Vec<&str> {
    containers
        .as_array()
        .into_iter()
        .flatten()
        .map(|it| text(&it["name"]))
        .collect()
}

fn more_than_half(kubernetes: &Kubernetes) -> Result<String> {
    let node = kubernetes.api.get("/api/v1/nodes/node-1")?;
    let cores: u64 = text(&node["status"]["allocatable"]["cpu"]).parse()?;
    Ok(format!("{}m", cores * 600))
}
