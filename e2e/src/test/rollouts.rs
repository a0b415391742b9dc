//! Rollouts that must not cost the service: a typo, a quota, gates, a hung engine, an upgrade of
//! the whole fleet.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use plimsoll_crds::names;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::build;
use crate::images;
use crate::install;
use crate::kube::{Kubernetes, Resource};
use crate::test::observe::{
    EVERY, PATIENCE, is_leaving, is_ready, name_of, names_of, processes_of, text,
};
use crate::test::sleep_asked::told_alone;
use crate::test::world::{VALUES, World};
use crate::test::{Group, Passed, expect, expect_eq, test, tiny};
use crate::wait;

pub(super) const GROUP: Group = Group {
    name: "rollouts",
    about: "rollouts that must not cost the service: typo, quota, gates, upgrade of the fleet",
    tests: &[
        test("a typo in a selector costs no pod and is Stalled", typo).in_background(),
        test(
            "a quota without room is told, and an old pod makes way",
            quota,
        ),
        test("a gated pod names its gates, and what runs stays", gated),
        test(
            "a pod whose volume cannot be mounted names it, and what runs stays",
            unmounted,
        ),
        test("a hung engine is Silent, with an Event", hung),
        test("an upgrade rolls one resource after another", fleet).alone(),
    ],
};

/// The tests' operator gives a pod without a place 5 s.
const SEVERAL_PATIENCES: Duration = Duration::from_secs(16);
const GATE: &str = "plimsoll.dev-test/queue";
const SECOND_IMAGE: &str = "localhost/plimsoll-sidecar:second";

fn typo(world: &World<'_>) -> Passed {
    let kubernetes = tiny::installed(world)?;
    let space = world.namespace("typo", "restricted")?;
    let all: Vec<(Resource<'_>, u32)> = [("one", 1), ("three", 3)]
        .map(|(name, replicas)| (kubernetes.resource(&space.name, name), replicas))
        .to_vec();
    for (resource, replicas) in &all {
        let mut object = tiny::resource(resource.name);
        object["spec"]["replicas"] = json!(replicas);
        tiny::apply(&kubernetes, &space.name, &object)?;
    }
    let mut before = Vec::new();
    for (resource, _) in &all {
        resource.await_ready(PATIENCE)?;
        before.push(names_of(resource)?);
    }
    let select = |resource: &Resource<'_>, selector: Value| {
        let patch = json!({"spec": {"template": {"spec": {"nodeSelector": selector}}}});
        kubernetes.api.merge(&resource.path(), &patch).map(drop)
    };
    for (resource, _) in &all {
        select(resource, json!({"disk": "no-such"}))?;
    }
    for (resource, _) in &all {
        let stalled = resource.await_condition("Stalled", "True", PATIENCE)?;
        expect_eq("reason", &stalled.reason.as_str(), &"Unschedulable")?;
        expect(stalled.message.contains("node affinity/selector"), || {
            stalled.message.clone()
        })?;
    }
    let until = Instant::now() + SEVERAL_PATIENCES;
    while Instant::now() < until {
        for ((resource, replicas), names) in all.iter().zip(&before) {
            let pods = resource.engine_pods()?;
            let serve = pods.iter().filter(|pod| is_ready(pod) && !is_leaving(pod));
            let serve = serve.filter(|pod| names.iter().any(|name| name == name_of(pod)));
            let serve = u32::try_from(serve.count())?;
            expect_eq("pods that answer", &serve, replicas)?;
        }
        std::thread::sleep(EVERY);
    }
    for (resource, _) in &all {
        select(resource, Value::Null)?;
    }
    for ((resource, _), names) in all.iter().zip(&before) {
        resource.await_ready(PATIENCE)?;
        expect_eq("pods", &names_of(resource)?, names)?;
    }
    Ok(2)
}

/// A change that needs new pods.
fn change(kubernetes: &Kubernetes, resource: &Resource<'_>) -> Result<()> {
    let patch = json!({"spec": {"limits": {"maxNumSeqs": 3}}});
    kubernetes.api.merge(&resource.path(), &patch).map(drop)
}

/// Waits until Ready is False for this reason, with these words.
pub(super) fn await_reason(resource: &Resource<'_>, reason: &str, words: &str) -> Result<()> {
    wait::until(&format!("Ready says {reason}"), PATIENCE, EVERY, || {
        Ok(match resource.condition("Ready")? {
            Some(told) if told.reason == reason && told.message.contains(words) => Ok(()),
            other => Err(format!("{other:?}")),
        })
    })
}

fn quota(world: &World<'_>) -> Passed {
    let kubernetes = tiny::installed(world)?;
    let space = world.namespace("quota", "restricted")?;
    let resource = kubernetes.resource(&space.name, "tight");
    tiny::apply(&kubernetes, &space.name, &tiny::resource(resource.name))?;
    resource.await_ready(PATIENCE)?;
    let pods = resource.engine_pods()?;
    let pod = pods.first().context("no pod")?;
    let limit = text(&pod["spec"]["containers"][0]["resources"]["limits"]["memory"]);
    let before = names_of(&resource)?;
    let object = json!({
        "apiVersion": "v1", "kind": "ResourceQuota",
        "metadata": {"name": "team", "namespace": space.name},
        "spec": {"hard": {"limits.memory": limit}},
    });
    kubernetes.kubectl.apply(&object.to_string())?;
    let path = format!("/api/v1/namespaces/{}/resourcequotas/team", space.name);
    wait::until("the quota is counted", PATIENCE, EVERY, || {
        let used = kubernetes.api.get(&path)?["status"]["used"].clone();
        Ok(match text(&used["limits.memory"]) {
            "" | "0" => Err(used.to_string()),
            _ => Ok(()),
        })
    })?;
    change(&kubernetes, &resource)?;
    await_reason(&resource, "PodsRefused", "exceeded quota: team")?;
    wait::until("a new pod serves", PATIENCE, EVERY, || {
        let names = names_of(&resource)?;
        let ready = resource.condition("Ready")?;
        let new = names.len() == 1 && names != before;
        Ok(
            match ready.is_some_and(|ready| ready.status == "True") && new {
                true => Ok(()),
                false => Err(format!("{names:?}")),
            },
        )
    })?;
    Ok(1)
}

fn gated(world: &World<'_>) -> Passed {
    let kubernetes = tiny::installed(world)?;
    let space = world.namespace("gated", "restricted")?;
    let resource = kubernetes.resource(&space.name, "queued");
    tiny::apply(&kubernetes, &space.name, &tiny::resource(resource.name))?;
    resource.await_ready(PATIENCE)?;
    let before = names_of(&resource)?;
    for object in gate_policy(&space.name) {
        kubernetes.kubectl.apply(&object.to_string())?;
    }
    let result = while_gated(&kubernetes, &resource, &before);
    for object in gate_policy(&space.name) {
        let kind = text(&object["kind"]);
        kubernetes
            .kubectl
            .run(&["delete", kind, "gate", "--ignore-not-found"])?;
    }
    result?;
    Ok(1)
}

fn while_gated(kubernetes: &Kubernetes, resource: &Resource<'_>, before: &[String]) -> Result<()> {
    // Admission takes a moment to learn of a policy.
    let probe = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "probe", "namespace": resource.namespace},
        "spec": {
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "a", "image": "localhost/pause:1", "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
        },
    });
    wait::until("pods get gates", PATIENCE, EVERY, || {
        let words = ["create", "--dry-run=server", "-o", "json", "-f", "-"];
        let outcome = kubernetes
            .kubectl
            .outcome(&words, Some(&probe.to_string()))?;
        Ok(match outcome.stdout.contains(GATE) {
            true => Ok(()),
            false => Err(format!("{outcome:?}")),
        })
    })?;
    change(kubernetes, resource)?;
    await_reason(resource, "SchedulingGated", GATE)?;
    let names = names_of(resource)?;
    expect(before.iter().all(|name| names.contains(name)), || {
        format!("{names:?}")
    })?;
    let new = names
        .iter()
        .find(|name| !before.contains(name))
        .context("no new pod")?;
    // What the newest revision waits for is no matter of who sleeps.
    let old = before.first().context("no old pod")?;
    told_alone(kubernetes, *resource, (old, "is loading"), || Ok(()))?;
    let open = json!([{"op": "remove", "path": "/spec/schedulingGates"}]).to_string();
    let namespace = ["-n", resource.namespace];
    let patch = ["patch", "pod", new, "--type=json", "-p", &open];
    kubernetes.kubectl.run(&[&namespace[..], &patch].concat())?;
    wait::until("the new pod alone serves", PATIENCE, EVERY, || {
        let names = names_of(resource)?;
        Ok(match names == [new.clone()] {
            true => Ok(()),
            false => Err(format!("{names:?}")),
        })
    })
}

/// Every pod of the namespace is made with a gate, as a queue's webhook does it.
fn gate_policy(namespace: &str) -> [Value; 2] {
    let version = "admissionregistration.k8s.io/v1";
    let gate = format!(
        "Object{{spec: Object.spec{{schedulingGates: [Object.spec.schedulingGates{{name: \"{GATE}\"}}]}}}}"
    );
    [
        json!({
            "apiVersion": version, "kind": "MutatingAdmissionPolicy", "metadata": {"name": "gate"},
            "spec": {
                "failurePolicy": "Fail",
                "reinvocationPolicy": "Never",
                "matchConstraints": {"resourceRules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
                    "resources": ["pods"],
                }]},
                "mutations": [{
                    "patchType": "ApplyConfiguration",
                    "applyConfiguration": {"expression": gate},
                }],
            },
        }),
        json!({
            "apiVersion": version, "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": "gate"},
            "spec": {"policyName": "gate", "matchResources": {"namespaceSelector": {
                "matchLabels": {"kubernetes.io/metadata.name": namespace},
            }}},
        }),
    ]
}

fn unmounted(world: &World<'_>) -> Passed {
    let kubernetes = tiny::installed(world)?;
    let space = world.namespace("unmounted", "restricted")?;
    let resource = kubernetes.resource(&space.name, "mounts");
    tiny::apply(&kubernetes, &space.name, &tiny::resource(resource.name))?;
    resource.await_ready(PATIENCE)?;
    let before = names_of(&resource)?;
    // A volume that no container mounts is none for the kubelet.
    let beside = json!({
        "name": "beside", "image": "localhost/pause:1",
        "volumeMounts": [{"name": "tls", "mountPath": "/tls"}],
        "securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
        },
    });
    let volumes = json!([{"name": "tls", "secret": {"secretName": "not-yet"}}]);
    let pods = json!({"containers": [beside], "volumes": volumes});
    let patch = json!({"spec": {"template": {"spec": pods}}});
    kubernetes.api.merge(&resource.path(), &patch)?;
    await_reason(&resource, "VolumesNotMounted", "Secret not-yet")?;
    let stalled = resource.await_condition("Stalled", "True", PATIENCE)?;
    println!("           {}: {}", stalled.reason, stalled.message);
    expect_eq("reason", &stalled.reason.as_str(), &"VolumesNotMounted")?;
    let names = names_of(&resource)?;
    expect(before.iter().all(|name| names.contains(name)), || {
        format!("{names:?}")
    })?;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "not-yet"}});
    tiny::apply(&kubernetes, &space.name, &secret)?;
    resource.await_ready(2 * PATIENCE)?;
    let names = names_of(&resource)?;
    expect(before.iter().all(|name| !names.contains(name)), || {
        format!("{names:?}")
    })?;
    Ok(1)
}

fn hung(world: &World<'_>) -> Passed {
    let kubernetes = tiny::installed(world)?;
    let space = world.namespace("hung", "restricted")?;
    let resource = kubernetes.resource(&space.name, "hung");
    tiny::apply(&kubernetes, &space.name, &tiny::resource(resource.name))?;
    resource.await_ready(PATIENCE)?;
    let pods = resource.engine_pods()?;
    let engine = processes_of(pods.first().context("no pod")?, names::CONTAINER_ENGINE)?;
    let signal = |signal| -> Result<()> {
        for pid in engine.iter().copied().filter_map(Pid::from_raw) {
            kill_process(pid, signal).context("cannot signal the engine")?;
        }
        Ok(())
    };
    signal(Signal::STOP)?;
    let told = await_reason(&resource, "EngineSilent", "answered and does not");
    let state = resource.get()?.status.and_then(|status| status.state);
    signal(Signal::CONT)?;
    told?;
    expect_eq("state", &format!("{state:?}").as_str(), &"Some(Silent)")?;
    let events = kubernetes
        .kubectl
        .run(&["-n", &space.name, "get", "events"])?;
    expect(events.contains("EngineSilent"), || {
        format!("no Event says so:\n{events}")
    })?;
    resource.await_ready(PATIENCE)?;
    Ok(1)
}

fn fleet(world: &World<'_>) -> Passed {
    let kubernetes = tiny::installed(world)?;
    let space = world.namespace("fleet", "restricted")?;
    let all = ["first", "second", "third"].map(|name| kubernetes.resource(&space.name, name));
    for resource in &all {
        tiny::apply(&kubernetes, &space.name, &tiny::resource(resource.name))?;
    }
    for resource in &all {
        resource.await_ready(PATIENCE)?;
    }
    let programs = build::programs(world.progress)?;
    world.import_once(&images::sidecar(SECOND_IMAGE, &programs)?)?;
    let image = format!("sidecar.image={SECOND_IMAGE}");
    install::chart(
        world.tools()?,
        &kubernetes,
        &[VALUES, &[image.as_str()]].concat(),
    )?;
    let result = one_after_another(&all);
    install::chart(world.tools()?, &kubernetes, VALUES)?;
    result
}

/// Looks on until all run the second image; no two of them may be on their way at any time.
fn one_after_another(all: &[Resource<'_>]) -> Passed {
    let until = Instant::now() + 3 * PATIENCE;
    let mut waited = 0;
    loop {
        let (mut moving, mut done) = (Vec::new(), 0);
        for resource in all {
            let pods = resource.engine_pods()?;
            let is_new = |pod: &&Value| pod["spec"]["containers"][0]["image"] == SECOND_IMAGE;
            let live = || pods.iter().filter(|pod| !is_leaving(pod));
            let serves = live().filter(is_new).any(is_ready);
            match (live().any(|pod| is_new(&pod)), serves) {
                (true, false) => moving.push(resource.name),
                (true, true) => done += 1,
                (false, _) => {}
            }
            let told = resource.condition("Reconciling")?;
            let names_one = |text: &str| all.iter().any(|other| text.contains(other.name));
            if told.is_some_and(|it| it.reason == "WaitingForTurn" && names_one(&it.message)) {
                waited += 1;
                let ready = resource.condition("Ready")?.map(|ready| ready.status);
                expect_eq("Ready of who waits", &ready.as_deref(), &Some("True"))?;
            }
        }
        expect(moving.len() <= 1, || format!("at once: {moving:?}"))?;
        if done == all.len() {
            expect(waited > 0, || "nobody said that it waits".to_owned())?;
            return Ok(u32::try_from(done)?);
        }
        if Instant::now() > until {
            bail!(
                "{done} of {} run the second image, moving {moving:?}",
                all.len()
            );
        }
        std::thread::sleep(EVERY);
    }
}
