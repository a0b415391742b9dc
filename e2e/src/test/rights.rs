//! What the operator may do and what it may not: Secrets, the Lease, its key.

use std::time::Duration;

use anyhow::{Context as _, Result};
use plimsoll_crds::names;
use serde_json::{Value, json};

use crate::install::{self, RELEASE, SYSTEM};
use crate::kube::{Kubernetes, Resource};
use crate::process;
use crate::test::observe::{
    EVERY, PATIENCE, Sample, name_of, operator_metrics, operator_pods, text, total,
};
use crate::test::world::World;
use crate::test::{Group, Passed, expect, expect_eq, test, tiny};
use crate::wait;

pub(super) const GROUP: Group = Group {
    name: "rights",
    about: "foreign Secrets stay closed, a lost Lease ends the operator, a replaced key is followed",
    tests: &[
        test("the chart renders the same twice", renders_the_same),
        test(
            "the operator writes its own Secrets and reads only its key",
            own_secrets,
        ),
        test(
            "an operator that lost its Lease ends at once and leads again later",
            lost_lease,
        ),
        test(
            "a key that is replaced reaches pods that run, and meanwhile status says so",
            rotated_key,
        ),
    ],
};

/// The operator's account, and what it is called in a refusal.
fn account() -> String {
    format!("system:serviceaccount:{SYSTEM}:{RELEASE}")
}

fn key_path() -> String {
    format!("/api/v1/namespaces/{SYSTEM}/secrets/{RELEASE}-key")
}

fn renders_the_same(world: &World<'_>) -> Passed {
    let render = || -> Result<String> {
        let mut render = install::helm(world.tools()?, None)?;
        render
            .args(["template", RELEASE])
            .arg(install::chart_folder());
        process::stdout_of(render.args(["--namespace", SYSTEM]))
    };
    let (first, second) = (render()?, render()?);
    expect(first == second, || "two renderings differ".to_owned())?;
    expect(!first.contains("kind: Secret\n"), || {
        "the chart makes a Secret".to_owned()
    })?;
    Ok(1)
}

fn own_secrets(world: &World<'_>) -> Passed {
    let kubernetes = tiny::installed(world)?;
    let space = world.namespace("rights", "restricted")?;
    let resource = kubernetes.resource(&space.name, "owner");
    tiny::apply(&kubernetes, &space.name, &tiny::resource(resource.name))?;
    let kubectl = &kubernetes.kubectl;
    let literal = "--from-literal=password=hunter2";
    let foreign = ["create", "secret", "generic", "foreign", literal];
    kubectl.run(&[&["--namespace", &space.name][..], &foreign].concat())?;

    let account = account();
    let as_operator = |words: &[&str], input: Option<&str>| {
        let who = ["--as", &account, "--namespace", &space.name];
        kubectl.outcome(&[&who[..], words].concat(), input)
    };
    let typed = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {
            "name": "minted", "annotations": {"kubernetes.io/service-account.name": "default"},
        },
    });
    let apply = ["apply", "--server-side", "-f", "-"];
    let nothing = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "foreign"},
    });
    let mut claimed = nothing.clone();
    claimed["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "plimsoll.dev/v1alpha1", "kind": names::KIND, "name": resource.name,
        "uid": serde_json::to_value(resource.get()?)?["metadata"]["uid"],
    }]);
    let mut checks = 0;
    for (words, input, refusal) in [
        (&["get", "secret", "foreign"][..], None, "cannot get"),
        (&["get", "secrets"], None, "cannot list"),
        // Patches answer with the object, those that change nothing too. By apply, for kubectl's own
        // patch gets the object first.
        (
            &[
                "apply",
                "--server-side",
                "--dry-run=server",
                "-o",
                "yaml",
                "-f",
                "-",
            ],
            Some(nothing.to_string()),
            "of its InferenceDeployments only",
        ),
        (
            &apply,
            Some(claimed.to_string()),
            "belongs to somebody else",
        ),
        (&apply, Some(typed.to_string()), "of type Opaque only"),
        (
            &["create", "secret", "generic", "new", literal],
            None,
            "of its InferenceDeployments only",
        ),
        (&["create", "token", "default"], None, "forbidden"),
    ] {
        // The policy may take a moment to be in force after the chart was installed.
        let what = format!("{words:?} is refused with {refusal:?}");
        wait::until(&what, PATIENCE, EVERY, || {
            let ended = as_operator(words, input.as_deref())?;
            let hidden = !ended.stdout.contains("aHVudGVyMg") && !ended.stderr.contains("hunter2");
            expect(hidden, || format!("{words:?} shows the Secret"))?;
            let refused = !ended.status.success() && ended.stderr.contains(refusal);
            Ok(if refused { Ok(()) } else { Err(ended.stderr) })
        })?;
        checks += 1;
    }
    // What it needs it may: its resources' Secrets, and its key.
    resource.await_ready(PATIENCE)?;
    let key = format!("{RELEASE}-key");
    let own = [
        "--as",
        &account,
        "--namespace",
        SYSTEM,
        "get",
        "secret",
        &key,
    ];
    kubectl.run(&own)?;
    // Whoever reads a status may see whether its writer lives.
    let renewed = kubectl.run(&[
        "--as=anybody",
        "--as-group=system:authenticated",
        "--namespace",
        SYSTEM,
        "get",
        "lease",
        RELEASE,
        "--output=jsonpath={.spec.renewTime}",
    ])?;
    expect(renewed.starts_with("20"), || {
        format!("no heartbeat: {renewed:?}")
    })?;
    Ok(checks + 3)
}

fn lost_lease(world: &World<'_>) -> Passed {
    let kubernetes = tiny::installed(world)?;
    let space = world.namespace("lost-lease", "restricted")?;
    let resource = kubernetes.resource(&space.name, "patient");
    let before = restarts(&kubernetes)?;
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/{RELEASE}");
    let lease = kubernetes.api.get(&path)?;
    let stolen = json!({"spec": {
        "holderIdentity": "somebody-else", "renewTime": lease["spec"]["renewTime"],
    }});
    kubernetes.api.merge(&path, &stolen)?;
    wait::until("the operator ends", Duration::from_secs(20), EVERY, || {
        let (now, runs) = (restarts(&kubernetes)?, runs(&kubernetes)?);
        // One that ended before waits to be started again, and is counted then.
        Ok(if now > before || !runs {
            Ok(())
        } else {
            Err(format!("{now} restarts"))
        })
    })?;
    // Nobody renews what was stolen: it runs out, and work goes on.
    tiny::apply(&kubernetes, &space.name, &tiny::resource(resource.name))?;
    resource.await_ready(PATIENCE)?;
    let holder = kubernetes.api.get(&path)?;
    let pods = operator_pods(&kubernetes)?;
    expect_eq(
        "holder of the Lease",
        &text(&holder["spec"]["holderIdentity"]),
        &pods.first().map_or("", name_of),
    )?;
    Ok(1)
}

fn rotated_key(world: &World<'_>) -> Passed {
    let kubernetes = tiny::installed(world)?;
    let space = world.namespace("rotated", "restricted")?;
    let resource = kubernetes.resource(&space.name, "heard");
    tiny::apply(&kubernetes, &space.name, &tiny::resource(resource.name))?;
    resource.await_ready(PATIENCE)?;
    resource.await_condition("MemoryPressure", "False", PATIENCE)?;
    let (pod, token) = (only_pod(&resource)?, token(&kubernetes, &resource)?);
    let key = kubernetes.api.get(&key_path())?["data"]["key"].clone();

    kubernetes.api.delete(&key_path())?;
    let blind = resource.await_condition("MemoryPressure", "Unknown", PATIENCE)?;
    expect_eq("reason", &blind.reason.as_str(), &"ReportsRefused")?;
    expect(blind.message.contains(name_of(&pod)), || {
        blind.message.clone()
    })?;
    expect(refusals(&operator_metrics(&kubernetes)?)? >= 1.0, || {
        "no refusal is counted".to_owned()
    })?;
    let log = operator_log(&kubernetes)?;
    expect(log.contains("refuses the operator's token (401)"), || {
        "the log does not say so".to_owned()
    })?;

    // The kubelet brings the new token into the pod that runs: at its next look, within two minutes.
    resource.await_condition("MemoryPressure", "False", 2 * PATIENCE)?;
    let new_key = &kubernetes.api.get(&key_path())?["data"]["key"];
    expect(*new_key != key && new_key.is_string(), || {
        "the key is the old one".to_owned()
    })?;
    let new_token = self::token(&kubernetes, &resource)?;
    expect(new_token != token, || "the token is the old one".to_owned())?;
    let same = only_pod(&resource)?;
    expect_eq("pod", &same["metadata"]["uid"], &pod["metadata"]["uid"])?;
    let restarted = &same["status"]["containerStatuses"][0]["restartCount"];
    expect_eq("restarts of the engine", restarted, &json!(0))?;
    wait::until("the stream is open", PATIENCE, EVERY, || {
        let streams = total(
            &operator_metrics(&kubernetes)?,
            "plimsoll_operator_report_streams",
        )?;
        Ok(if streams >= 1.0 {
            Ok(())
        } else {
            Err("none".to_owned())
        })
    })?;
    Ok(1)
}

fn refusals(samples: &[Sample]) -> Result<f64> {
    total(samples, "plimsoll_operator_report_refusals_total")
}

fn only_pod(resource: &Resource<'_>) -> Result<Value> {
    let mut pods = resource.engine_pods()?;
    expect_eq("engine pods", &pods.len(), &1)?;
    pods.pop().context("no pod")
}

/// The token in the resource's Secret, as it is stored.
fn token(kubernetes: &Kubernetes, resource: &Resource<'_>) -> Result<Value> {
    let secrets = resource.owned(&format!(
        "/api/v1/namespaces/{}/secrets",
        resource.namespace
    ))?;
    let secret = secrets.first().context("the resource has no Secret")?;
    let path = format!(
        "/api/v1/namespaces/{}/secrets/{}",
        resource.namespace,
        name_of(secret)
    );
    Ok(kubernetes.api.get(&path)?["data"][names::ADMIN_TOKEN_KEY].clone())
}

fn restarts(kubernetes: &Kubernetes) -> Result<u64> {
    let pods = operator_pods(kubernetes)?;
    let pod = pods.first().context("no operator runs")?;
    let count = &pod["status"]["containerStatuses"][0]["restartCount"];
    count.as_u64().context("no restart count")
}

fn runs(kubernetes: &Kubernetes) -> Result<bool> {
    let pods = operator_pods(kubernetes)?;
    let pod = pods.first().context("no operator runs")?;
    Ok(pod["status"]["containerStatuses"][0]["state"]["running"].is_object())
}

fn operator_log(kubernetes: &Kubernetes) -> Result<String> {
    let pods = operator_pods(kubernetes)?;
    let pod = name_of(pods.first().context("no operator runs")?);
    kubernetes
        .api
        .text(&format!("/api/v1/namespaces/{SYSTEM}/pods/{pod}/log"))
}
