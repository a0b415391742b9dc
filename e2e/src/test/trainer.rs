//! A trainer beside an engine, under one memory limit: it uses what a sleep gave back, pushes changed
//! weights, and is killed in the middle of the next push.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::weights::WeightsStatus;
use serde_json::{Value, json};

use crate::http::{Request, Target};
use crate::images;
use crate::kube::{Kubernetes, Resource};
use crate::process;
use crate::test::faults::kill_container;
use crate::test::observe::{EVERY, PATIENCE, anonymous_bytes, bearer, name_of, pod_port, text};
use crate::test::world::World;
use crate::test::{Passed, expect, expect_eq, tiny};
use crate::{build, changed, wait};

const NAMESPACE: &str = "trainer";
const NAME: &str = "policy";
const MODEL: &str = "tiny-llama";
const IMAGE: &str = "localhost/trainer:dev";
const WEIGHTS: &str = "model.safetensors";
const VERSION: &str = "trained-1";
const MIB: u64 = 1 << 20;
/// Of the pod, and the most that the engine's container may use of it.
const LIMIT: u64 = 1024 * MIB;
/// The rank's: all of it is resident while it is awake.
const QUOTA: u64 = 500 * MIB;
/// What the trainer touches: it and the engine awake are more than the limit.
const TRAINER_BYTES: u64 = 700 * MIB;

/// What the trainer pushed is answered as an engine answers that began with the same weights; what it
/// did not end is told, and never answered; and the files bring the first answer back.
pub(super) fn pushes_and_dies(world: &World<'_>) -> Passed {
    let kubernetes = tiny::installed(world)?;
    world.import_once(&image()?)?;
    let space = world.namespace(NAMESPACE, "restricted")?;
    let resource = kubernetes.resource(&space.name, NAME);
    // Before the trainer begins: a push that stands still for 30 s is ended by the engine itself.
    let from_files = of_an_engine_on_the_changed_files(world)?;
    tiny::apply(&kubernetes, &space.name, &beside())?;
    let said = await_line(&kubernetes, resource, "half sent")?;
    let before = line(&said, "before ")?;
    let pushed = line(&said, "pushed ")?;
    println!(
        "           the trainer {}",
        &said[said.find("computed").unwrap_or(0)..].trim()
    );
    expect(before != pushed, || format!("the answer stayed {before}"))?;
    let pod = pod(resource)?;
    let awake = anonymous_bytes(&pod, names::CONTAINER_ENGINE)?;
    expect(awake + TRAINER_BYTES > LIMIT, || {
        format!("{awake} bytes awake and {TRAINER_BYTES} of the trainer fit {LIMIT} at once")
    })?;
    expect_eq("as from files", &pushed, &from_files)?;
    await_weights(resource, VERSION, Some(true))?;

    kill_container(&pod, "trainer")?;
    let told = resource.await_condition("WeightsVerified", "False", PATIENCE)?;
    println!("           status says {}: {}", told.reason, told.message);
    expect(told.message.contains("tensor `"), || told.message.clone())?;
    await_weights(resource, VERSION, Some(false))?;
    let port = pod_port(&pod, names::PORT_HTTP)?;
    expect_eq("an answer of a mixture", &complete(&port)?.0, &503)?;

    // Its second life goes by the weights' name, which a reload takes away.
    await_line(&kubernetes, resource, "looks on")?;
    let reload = Request::new("POST", "/collective_rpc")
        .header("authorization", bearer(&kubernetes, &pod)?)
        .body("application/json", r#"{"method": "reload_weights"}"#)
        .timeout(Duration::from_secs(60))
        .send(&pod_port(&pod, names::PORT_ADMIN)?)?;
    expect_eq(&reload.body, &reload.status, &200)?;
    expect_eq("the files' answer", &complete(&port)?, &(200, before))?;
    resource.await_condition("WeightsVerified", "True", PATIENCE)?;
    await_weights(resource, "default", Some(true))?;
    resource.await_ready(PATIENCE)?;
    Ok(2)
}

/// The trainer's program, built as tests are, in an image of its own.
fn image() -> Result<PathBuf> {
    let mut cargo = build::cargo(&["build", "--quiet", "--workspace", "--bin", "trainer"]);
    process::shown(&mut cargo)?;
    images::program(IMAGE, &build::target().join("debug/trainer"))
}

fn beside() -> Value {
    let mut object = tiny::resource(NAME);
    let limit = json!({"memory": LIMIT.to_string()});
    let spec = &mut object["spec"];
    spec["model"]["source"]["path"] = json!(MODEL);
    spec["memory"] = json!({"gpuQuotas": [{"rank": 0, "limit": QUOTA.to_string()}]});
    spec["template"] = json!({
        "engine": {"controlApi": "Loopback", "resources": {"limits": limit}},
        "spec": {
            "resources": {"requests": limit, "limits": limit},
            "volumes": [{"name": "weights", "image": {"reference": tiny::IMAGE, "pullPolicy": "Never"}}],
            "containers": [{
                "name": "trainer",
                "image": IMAGE,
                "imagePullPolicy": "Never",
                "env": [
                    {"name": "TRAINER_BYTES", "value": TRAINER_BYTES.to_string()},
                    {"name": "TRAINER_WEIGHTS", "value": format!("/weights/{MODEL}/{WEIGHTS}")},
                ],
                "volumeMounts": [{"name": "weights", "mountPath": "/weights", "readOnly": true}],
                "securityContext": {
                    "runAsNonRoot": true,
                    "runAsUser": 65532,
                    "allowPrivilegeEscalation": false,
                    "capabilities": {"drop": ["ALL"]},
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
            }],
        },
    });
    object
}

fn pod(resource: Resource<'_>) -> Result<Value> {
    resource.engine_pods()?.into_iter().next().context("no pod")
}

/// What the trainer has said once it says `what`.
fn await_line(kubernetes: &Kubernetes, resource: Resource<'_>, what: &str) -> Result<String> {
    wait::until(
        &format!("the trainer says {what:?}"),
        PATIENCE,
        EVERY,
        || {
            let Ok(pod) = pod(resource) else {
                return Ok(Err("there is no pod".to_owned()));
            };
            let words = [
                "--namespace",
                resource.namespace,
                "logs",
                name_of(&pod),
                "--container",
                "trainer",
            ];
            let said = kubernetes.kubectl.outcome(&words, None)?;
            Ok(match said.stdout.contains(what) {
                true => Ok(said.stdout),
                false => Err(format!("{} {} {}", said.stdout, said.stderr, pod["status"])),
            })
        },
    )
}

/// The JSON text behind `start`.
fn line(said: &str, start: &str) -> Result<String> {
    let found = said.lines().find_map(|line| line.strip_prefix(start));
    let found = found.with_context(|| format!("no line {start:?} in {said}"))?;
    Ok(serde_json::from_str(found)?)
}

/// Status and text of the answer that the trainer asks for.
fn complete(target: &Target) -> Result<(u16, String)> {
    let body = json!({"prompt": [5, 6, 7], "max_tokens": 24, "temperature": 0, "ignore_eos": true});
    let answer = Request::new("POST", "/v1/completions")
        .body("application/json", body.to_string())
        .timeout(Duration::from_secs(60))
        .send(target)?;
    let text = text(&answer.json()?["choices"][0]["text"]).to_owned();
    Ok((answer.status, text))
}

fn await_weights(resource: Resource<'_>, version: &str, verified: Option<bool>) -> Result<()> {
    wait::until(
        &format!("status has weights {version}"),
        PATIENCE,
        EVERY,
        || {
            let status = resource.get()?.status.context("no status")?;
            let found = status.weights.unwrap_or_default();
            let WeightsStatus {
                version: of_all,
                adapters: _,
                pods,
            } = &found;
            let right = of_all.as_deref() == Some(version)
                && pods.iter().all(|row| row.verified == verified)
                && pods.len() == 1;
            Ok(if right {
                Ok(())
            } else {
                Err(format!("{found:?}"))
            })
        },
    )
}

/// What the same program answers that was started on files with the trainer's changes.
fn of_an_engine_on_the_changed_files(world: &World<'_>) -> Result<String> {
    let sidecar = build::programs(world.progress)?.sidecar;
    let folder =
        Folder(std::env::temp_dir().join(format!("plimsoll-changed-{}", std::process::id())));
    fs::create_dir_all(&folder.0)?;
    for entry in fs::read_dir(tiny::fixtures().join(MODEL))?.flatten() {
        fs::copy(entry.path(), folder.0.join(entry.file_name()))?;
    }
    let weights = folder.0.join(WEIGHTS);
    fs::write(&weights, changed::weights(&fs::read(&weights)?)?)?;
    // Free a moment ago: nobody else on this machine asks for ports meanwhile.
    let port = || -> Result<SocketAddr> { Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?) };
    let ports = [port()?, port()?, port()?];
    let words = ["--port", "--admin-port", "--probe-port"];
    let flags = words
        .iter()
        .zip(&ports)
        .flat_map(|(word, at)| [(*word).to_owned(), at.port().to_string()]);
    let mut command = process::command(&sidecar, ["serve"]);
    command
        .arg(&folder.0)
        .args(flags)
        .args(["--quota", "0=64Mi"]);
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let target = Target::Tcp(ports[0]);
    let answered = wait::until("an engine on the changed files", PATIENCE, EVERY, || {
        Ok(match complete(&target) {
            Ok((200, text)) => Ok(text),
            other => Err(format!("{other:?}")),
        })
    });
    process::end(&mut child);
    answered
}

/// Goes with the test.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let path: &Path = &self.0;
        let _ = fs::remove_dir_all(path);
    }
}
