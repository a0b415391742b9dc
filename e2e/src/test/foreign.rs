//! What comes from elsewhere: objects of a user's under names of ours, an object that cannot be
//! read, and registries that are slow, empty or closed.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use plimsoll_crds::names;
use serde_json::{Value, json};

use crate::images;
use crate::kube::{Kubernetes, Resource};
use crate::paths;
use crate::registry::{self, Manner, Registry};
use crate::test::faults::kill_container;
use crate::test::observe::{
    EVERY, PATIENCE, await_nothing_left, operator_metrics, operator_pods, text, total,
};
use crate::test::world::World;
use crate::test::{Group, Passed, expect, expect_eq, test, tiny, unreached};
use crate::wait;

pub(super) const GROUP: Group = Group {
    name: "foreign",
    about: "a user's own objects, an object that cannot be read, slow registries, lost Services",
    tests: &[
        test("a user's objects are neither adopted nor deleted", objects),
        test("one undecodable object stops nobody else", undecodable),
        test(
            "a slow pull is waited for; a failing one is said and heals",
            pulls,
        )
        .in_background(),
        test(
            "a Service that leads to no engine is said, and heals",
            unreached::services,
        ),
    ],
};

/// A child of the operator's, and what the user has under its name.
struct Theirs {
    resource: &'static str,
    kind: &'static str,
    list: &'static str,
    child: fn(&str) -> String,
    object: fn() -> Value,
}

const THEIRS: [Theirs; 4] = [
    Theirs {
        resource: "a",
        kind: "Secret",
        list: "/api/v1/namespaces/theirs/secrets",
        child: |name| format!("{name}-plimsoll-admin"),
        object: || json!({"apiVersion": "v1", "data": {"password": "eA=="}}),
    },
    Theirs {
        resource: "b",
        kind: "ServiceAccount",
        list: "/api/v1/namespaces/theirs/serviceaccounts",
        child: |name| format!("{name}-plimsoll-engine"),
        object: || json!({"apiVersion": "v1", "automountServiceAccountToken": true}),
    },
    Theirs {
        resource: "c",
        kind: "Service",
        list: "/api/v1/namespaces/theirs/services",
        child: str::to_owned,
        object: || json!({"apiVersion": "v1", "spec": {"ports": [{"port": 5432}]}}),
    },
    Theirs {
        resource: "d",
        kind: "PodDisruptionBudget",
        list: "/apis/policy/v1/namespaces/theirs/poddisruptionbudgets",
        child: str::to_owned,
        object: || json!({"apiVersion": "policy/v1", "spec": {"minAvailable": 1}}),
    },
];

fn objects(world: &World<'_>) -> Passed {
    let kubernetes = tiny::installed(world)?;
    let space = world.namespace("theirs", "restricted")?;
    // As it was seen: a Secret and an account whose names are close by.
    let close = [
        ("Secret", "secrets", "postgres-admin"),
        ("ServiceAccount", "serviceaccounts", "postgres-engine"),
    ];
    for (kind, _, name) in close {
        let object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}});
        tiny::apply(&kubernetes, &space.name, &object)?;
    }
    let kept: Vec<(String, Value)> = close
        .iter()
        .map(|(_, list, name)| {
            let path = format!("/api/v1/namespaces/{}/{list}/{name}", space.name);
            let before = kubernetes.api.get(&path)?;
            Ok((path, before))
        })
        .collect::<Result<_>>()?;
    let postgres = kubernetes.resource(&space.name, "postgres");
    tiny::apply(&kubernetes, &space.name, &tiny::resource(postgres.name))?;
    for theirs in &THEIRS {
        let mut object = (theirs.object)();
        object["kind"] = json!(theirs.kind);
        object["metadata"] = json!({"name": (theirs.child)(theirs.resource)});
        tiny::apply(&kubernetes, &space.name, &object)?;
        let mut object = tiny::resource(theirs.resource);
        // From two replicas on there is a disruption budget.
        object["spec"]["replicas"] = json!(if theirs.kind == "PodDisruptionBudget" {
            2
        } else {
            1
        });
        tiny::apply(&kubernetes, &space.name, &object)?;
    }
    for theirs in &THEIRS {
        refused(&kubernetes, theirs)?;
    }
    // Out of the way, or under another name.
    for theirs in &THEIRS {
        let resource = kubernetes.resource(&space.name, theirs.resource);
        resource.await_ready(PATIENCE)?;
    }
    postgres.await_ready(PATIENCE)?;
    kubernetes.api.delete(&postgres.path())?;
    await_nothing_left(postgres)?;
    for (path, before) in &kept {
        expect_eq(path, &kubernetes.api.get(path)?, before)?;
    }
    Ok(u32::try_from(THEIRS.len() + kept.len())?)
}

/// The condition names the object, which stays as it was, also when the resource goes; then the
/// user takes it away.
fn refused(kubernetes: &Kubernetes, theirs: &Theirs) -> Result<()> {
    let name = (theirs.child)(theirs.resource);
    let path = format!("{}/{name}", theirs.list);
    let resource = kubernetes.resource("theirs", theirs.resource);
    let before = kubernetes.api.get(&path)?;
    let stalled = resource.await_condition("Stalled", "True", PATIENCE)?;
    println!("           {}: {}", stalled.reason, stalled.message);
    expect_eq("reason", &stalled.reason.as_str(), &"NameTaken")?;
    let named = format!("{} {name} exists", theirs.kind);
    expect(stalled.message.starts_with(&named), || stalled.message)?;
    // A budget only guards pods that run: somebody else's under its name keeps none from being made.
    let needed = theirs.kind != "PodDisruptionBudget";
    expect(!needed || resource.engine_pods()?.is_empty(), || {
        format!("{}: an engine pod exists", theirs.resource)
    })?;
    let object: Value = serde_json::to_value(resource.get()?)?;
    kubernetes.api.delete(&resource.path())?;
    await_nothing_left(resource)?;
    let own = |it: &Value| {
        let mut it = it.clone();
        // A budget's controller writes its status.
        it["status"] = Value::Null;
        it["metadata"]["resourceVersion"] = Value::Null;
        it["metadata"]["managedFields"] = Value::Null;
        it
    };
    let after = kubernetes.api.get(&path)?;
    expect_eq(&path, &own(&after), &own(&before))?;
    let again = json!({
        "apiVersion": object["apiVersion"], "kind": object["kind"],
        "metadata": {"name": theirs.resource}, "spec": object["spec"],
    });
    tiny::apply(kubernetes, "theirs", &again)?;
    kubernetes.api.delete(&path)
}

const SECRET_WORD: &str = "hunter2-of-a-container";

fn undecodable(world: &World<'_>) -> Passed {
    let kubernetes = tiny::installed(world)?;
    let space = world.namespace("undecodable", "restricted")?;
    let odd = kubernetes.resource(&space.name, "odd");
    let mut object = tiny::resource(odd.name);
    object["spec"]["backend"] = json!("ROCm");
    object["spec"]["template"] = json!({"spec": {"containers": [{
        "name": "beside", "image": "localhost/pause:1",
        "env": [{"name": "PASSWORD", "value": SECRET_WORD}],
    }]}});
    with_wider_backend(&kubernetes, || {
        tiny::apply(&kubernetes, &space.name, &object)
    })?;
    // Once by the watch, and once by the list of an operator that begins.
    for turn in ["watched", "listed"] {
        let other = kubernetes.resource(&space.name, turn);
        tiny::apply(&kubernetes, &space.name, &tiny::resource(other.name))?;
        other.await_ready(PATIENCE)?;
        let path = format!("{}/status", odd.path());
        let told = wait::until("the odd one is InvalidSpec", PATIENCE, EVERY, || {
            let object = kubernetes.api.get(&path)?;
            let conditions = object["status"]["conditions"].as_array();
            let mut all = conditions.into_iter().flatten();
            Ok(all
                .find(|it| it["type"] == "Stalled")
                .cloned()
                .ok_or("not said".to_owned()))
        })?;
        println!(
            "           {}: {}",
            text(&told["reason"]),
            text(&told["message"])
        );
        expect_eq("reason", &text(&told["reason"]), &"InvalidSpec")?;
        expect(text(&told["message"]).starts_with("spec.backend: "), || {
            told.to_string()
        })?;
        let samples = operator_metrics(&kubernetes)?;
        for (metric, least) in [
            ("plimsoll_operator_unreadable_objects_total", 1.0),
            ("plimsoll_operator_watch_last_list_timestamp_seconds", 1.0),
        ] {
            let found = total(&samples, metric)?;
            expect(found >= least, || format!("{metric} is {found}"))?;
        }
        quiet(&kubernetes)?;
        if turn == "watched" {
            let operators = operator_pods(&kubernetes)?;
            kill_container(operators.first().context("no operator runs")?, "operator")?;
        }
    }
    // The way out.
    let mended = json!({"spec": {"backend": "CPU", "template": null}});
    kubernetes.api.merge(&odd.path(), &mended)?;
    odd.await_ready(PATIENCE)?;
    Ok(2)
}

/// Does something while the resource's definition knows one backend more than the operator.
fn with_wider_backend(kubernetes: &Kubernetes, work: impl Fn() -> Result<()>) -> Result<()> {
    let path = format!(
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{}",
        names::CRD_NAME
    );
    let versions = kubernetes.api.get(&path)?["spec"]["versions"].clone();
    let mut wider = versions.clone();
    let backends = wider
        .pointer_mut("/0/schema/openAPIV3Schema/properties/spec/properties/backend/enum")
        .and_then(Value::as_array_mut)
        .context("spec.backend has no enum")?;
    backends.push(json!("ROCm"));
    let set = |versions: &Value| {
        let patch = json!({"spec": {"versions": versions}});
        kubernetes.api.merge(&path, &patch)
    };
    set(&wider)?;
    // The API server takes a moment to serve another schema.
    let done = wait::until("the definition is wider", PATIENCE, EVERY, || {
        Ok(work().map_err(|error| format!("{error:#}")))
    });
    set(&versions)?;
    done
}

/// The operator's log says little and nothing of what is in objects.
fn quiet(kubernetes: &Kubernetes) -> Result<()> {
    const MOST_BYTES: usize = 400_000;
    for pod in operator_pods(kubernetes)? {
        let name = text(&pod["metadata"]["name"]);
        let namespace = text(&pod["metadata"]["namespace"]);
        let log = format!("/api/v1/namespaces/{namespace}/pods/{name}/log");
        let log = kubernetes.api.text(&log)?;
        expect(!log.contains(SECRET_WORD), || {
            "a value of a container is logged".to_owned()
        })?;
        expect(log.contains("an object cannot be read"), || {
            "nothing is logged".to_owned()
        })?;
        expect(log.len() < MOST_BYTES, || {
            format!("{} bytes are logged", log.len())
        })?;
    }
    Ok(())
}

/// Longer than the operator used to wait.
const SLOWNESS: Duration = Duration::from_secs(35);
const USER: &str = "puller:word";
/// `USER` in base64.
const USER_ENCODED: &str = "cHVsbGVyOndvcmQ=";

fn pulls(world: &World<'_>) -> Passed {
    let kubernetes = tiny::installed(world)?;
    let space = world.namespace("pulls", "restricted")?;
    let registry = Registry::start()?;
    let slow = registry.offer("slow", &salted("slow")?, Manner::Slow(SLOWNESS))?;
    let secured = Manner::Secured(format!("Basic {USER_ENCODED}"));
    let secured = registry.offer("secured", &salted("secured")?, secured)?;
    let late = registry::reference("late");
    account(&kubernetes, &space.name)?;
    // A kubelet pulls one image after the other.
    for (name, image, node) in [
        ("slow", &slow, "node-1"),
        ("secured", &secured, "node-2"),
        ("late", &late, "node-2"),
    ] {
        let mut object = tiny::resource(name);
        object["spec"]["model"]["source"]["image"] = json!({"reference": image});
        let mut pods = json!({"nodeSelector": {"kubernetes.io/hostname": node}});
        if name == "secured" {
            pods["serviceAccountName"] = json!("puller");
        }
        object["spec"]["template"] = json!({"spec": pods});
        tiny::apply(&kubernetes, &space.name, &object)?;
    }
    let [slow, secured, late] =
        ["slow", "secured", "late"].map(|name| kubernetes.resource(&space.name, name));
    patient(&slow)?;
    secured.await_ready(PATIENCE)?;
    expect(registry.refused() > 0, || "anybody may pull".to_owned())?;
    let failing = late.await_condition("Stalled", "True", PATIENCE)?;
    println!("           {}: {}", failing.reason, failing.message);
    expect_eq("reason", &failing.reason.as_str(), &"SourceUnavailable")?;
    registry.offer("late", &salted("late")?, Manner::Plain)?;
    late.await_ready(2 * PATIENCE)?;
    Ok(3)
}

/// Never stalled, never refused, and in the end ready.
fn patient(resource: &Resource<'_>) -> Result<()> {
    let mut pulling = false;
    wait::until("the slow one is ready", 2 * PATIENCE, EVERY, || {
        let stalled = resource.condition("Stalled")?;
        expect(stalled.is_none(), || format!("while it pulls: {stalled:?}"))?;
        let resolved = resource.condition("ModelResolved")?;
        pulling |= resolved.is_some_and(|it| it.message.contains("being pulled"));
        let ready = resource.condition("Ready")?;
        Ok(match ready {
            Some(ready) if ready.status == "True" => Ok(()),
            other => Err(format!("{other:?}")),
        })
    })?;
    expect(pulling, || "nothing said that it was pulling".to_owned())
}

/// An account that may pull what is secured.
fn account(kubernetes: &Kubernetes, namespace: &str) -> Result<()> {
    let auth = json!({"auths": {(crate::cluster::REGISTRY_NAME): {
        "username": USER.split(':').next(), "password": USER.split(':').nth(1),
        "auth": USER_ENCODED,
    }}});
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pulling"},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": auth.to_string()},
    });
    tiny::apply(kubernetes, namespace, &secret)?;
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "puller"},
        "imagePullSecrets": [{"name": "pulling"}],
    });
    tiny::apply(kubernetes, namespace, &account)
}

/// The fixture model in a layer that no node has yet.
fn salted(name: &str) -> Result<PathBuf> {
    let salt = paths::cache()?.join(format!("salt-{name}"));
    fs::write(&salt, name)?;
    let mut files = tiny::files_below(&tiny::fixtures().join(tiny::MODEL))?;
    for (inside, _) in &mut files {
        *inside = format!("{}/{inside}", tiny::MODEL);
    }
    files.push(("salt".to_owned(), salt));
    images::files(&registry::reference(name), &files)
}
