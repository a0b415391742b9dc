//! The example with the real model: it becomes Ready, answers the official client, and its figures
//! are the machine's.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::InferenceDeployment;
use serde_json::{Value, json};

use crate::http::{Request, Target};
use crate::kube::Kubernetes;
use crate::paths;
use crate::process;
use crate::test::observe::{
    EVERY, PATIENCE, cgroup_bytes, metrics, name_of, pod_port, service_port, text, total,
};
use crate::test::world::World;
use crate::test::{Group, Passed, Test, expect, expect_eq};
use crate::wait;

pub(super) const GROUP: Group = Group {
    name: "serve",
    about: "SmolLM2 on two unequal ranks, in a namespace that enforces `restricted`",
    tests: &[
        Test {
            name: "the example becomes Ready, split 1 + 2 heads",
            prove: becomes_ready,
        },
        Test {
            name: "kubectl get shows the columns",
            prove: columns,
        },
        Test {
            name: "the official client streams the right answer",
            prove: official_client,
        },
        Test {
            name: "the status's rows are what the kernel counts",
            prove: true_to_the_kernel,
        },
        Test {
            name: "status, /memory and /metrics agree",
            prove: figures_agree,
        },
        Test {
            name: "the admin port wants its token",
            prove: admin_token,
        },
        Test {
            name: "bad requests get answers that name the field",
            prove: bad_requests,
        },
        Test {
            name: "a client that goes away frees its blocks at once",
            prove: disconnected,
        },
        Test {
            name: "deleting the resource leaves nothing",
            prove: deleted,
        },
    ],
};

const NAMESPACE: &str = "serve";
const NAME: &str = "smollm2";

/// The example, applied once for the whole group and Ready.
fn ready(world: &World<'_>) -> Result<Kubernetes> {
    let kubernetes = world.installed()?;
    world.look_at(NAMESPACE);
    let resource = kubernetes.resource(NAMESPACE, NAME);
    if kubernetes.api.find(&resource.path())?.is_none() {
        kubernetes.create_namespace(NAMESPACE, "restricted")?;
        let file = paths::repository().join("examples/smollm2.yaml");
        let file = file.to_string_lossy();
        kubernetes
            .kubectl
            .run(&["--namespace", NAMESPACE, "apply", "-f", &file])?;
    }
    resource.await_ready(2 * PATIENCE)?;
    Ok(kubernetes)
}

fn becomes_ready(world: &World<'_>) -> Passed {
    let kubernetes = ready(world)?;
    let resource = kubernetes.resource(NAMESPACE, NAME);
    let wait = [
        "wait",
        "--for=condition=Ready",
        "--timeout=10s",
        "inferencedeployment/smollm2",
    ];
    kubernetes
        .kubectl
        .run(&[&["--namespace", NAMESPACE][..], &wait].concat())?;
    let status = resource.get()?.status.context("no status")?;
    expect_eq("readyReplicas", &status.ready_replicas, &2)?;
    let plan = status
        .memory
        .and_then(|memory| memory.plan)
        .context("no plan in the status")?;
    let heads: Vec<u32> = plan
        .ranks
        .iter()
        .map(|rank| rank.kv_heads.end - rank.kv_heads.start)
        .collect();
    expect_eq("KV heads per rank", &heads, &vec![1, 2])?;
    let endpoint = status.endpoint.context("no endpoint in the status")?;
    expect(endpoint.contains(NAME), || {
        format!("the endpoint is {endpoint}")
    })?;
    for pod in resource.engine_pods()? {
        let user = &pod["spec"]["securityContext"]["runAsNonRoot"];
        expect(user == true, || {
            format!("{} may run as root", name_of(&pod))
        })?;
    }
    expect(resource.inspect_pods()?.is_empty(), || {
        "the inspect pod is still there".to_owned()
    })?;
    Ok(1)
}

fn columns(world: &World<'_>) -> Passed {
    let kubernetes = ready(world)?;
    let get = ["--namespace", NAMESPACE, "get", names::PLURAL];
    let short = kubernetes.kubectl.run(&get)?;
    for column in [
        "NAME",
        "READY",
        "REPLICAS",
        "TP",
        "STATE",
        "GPU-USED",
        "GPU-QUOTA",
        "KV%",
    ] {
        expect(short.contains(column), || {
            format!("no column {column}:\n{short}")
        })?;
    }
    expect(short.contains("Serving"), || short.clone())?;
    let wide = kubernetes
        .kubectl
        .run(&[&get[..], &["--output=wide"]].concat())?;
    for column in ["MODEL", "BACKEND", "REASON", "ENDPOINT"] {
        expect(wide.contains(column), || {
            format!("no column {column}:\n{wide}")
        })?;
    }
    Ok(1)
}

fn official_client(world: &World<'_>) -> Passed {
    let kubernetes = ready(world)?;
    let Target::Tcp(address) = service_port(&kubernetes, kubernetes.resource(NAMESPACE, NAME))?
    else {
        bail!("a service has an address")
    };
    let script = paths::repository().join("e2e/src/ask.py");
    let base = format!("http://{address}/v1");
    let mut ask = process::command(world.python()?, [&script]);
    let answer =
        process::stdout_of(ask.args([base.as_str(), NAME, "What is the capital of France?"]))?;
    expect(answer.contains("Paris"), || {
        format!("the model says: {answer}")
    })?;
    Ok(1)
}

/// The sum of all rows without `other` is within 5% of the container's cgroup figure, and each
/// rank's rows within 5% of the resident size of its mappings.
fn true_to_the_kernel(world: &World<'_>) -> Passed {
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
        checks += 1;
    }
    Ok(checks)
}

/// The three places that show memory show the same.
fn figures_agree(world: &World<'_>) -> Passed {
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

fn admin_token(world: &World<'_>) -> Passed {
    let kubernetes = ready(world)?;
    let resource = kubernetes.resource(NAMESPACE, NAME);
    let pods = resource.engine_pods()?;
    let target = pod_port(pods.first().context("no pod")?, names::PORT_ADMIN)?;
    for request in [
        Request::new("GET", "/memory"),
        Request::new("GET", "/memory").header("authorization", "Bearer wrong"),
        Request::new("GET", "/memory/watch"),
    ] {
        expect_eq(
            "status without the token",
            &request.send(&target)?.status,
            &401,
        )?;
    }
    Ok(3)
}

fn bad_requests(world: &World<'_>) -> Passed {
    let kubernetes = ready(world)?;
    let target = service_port(&kubernetes, kubernetes.resource(NAMESPACE, NAME))?;
    let long = "word ".repeat(20_000);
    let cases: [(&str, String, u16, &str); 6] = [
        ("/v1/completions", "{".to_owned(), 400, ""),
        (
            "/v1/completions",
            json!({"model": "other", "prompt": "x"}).to_string(),
            404,
            "other",
        ),
        (
            "/v1/completions",
            json!({"model": NAME, "prompt": long}).to_string(),
            400,
            "prompt",
        ),
        (
            "/v1/completions",
            json!({"model": NAME, "prompt": "x", "max_tokens": -1}).to_string(),
            400,
            "max_tokens",
        ),
        (
            "/v1/completions",
            json!({"model": NAME, "prompt": "x", "temperature": 99}).to_string(),
            400,
            "temperature",
        ),
        (
            "/v1/chat/completions",
            json!({"model": NAME, "messages": []}).to_string(),
            400,
            "messages",
        ),
    ];
    let count = u32::try_from(cases.len())?;
    for (path, body, status, named) in cases {
        let start: String = body.chars().take(60).collect();
        let answer = Request::new("POST", path)
            .body("application/json", body)
            .send(&target)?;
        expect_eq(&format!("status of {start}"), &answer.status, &status)?;
        let message = text(&answer.json()?["error"]["message"]).to_owned();
        expect(!message.is_empty() && message.contains(named), || {
            format!("{start}: the message does not name {named:?}: {message}")
        })?;
    }
    Ok(count)
}

fn disconnected(world: &World<'_>) -> Passed {
    const SOON: Duration = Duration::from_secs(10);
    let kubernetes = ready(world)?;
    let pods = kubernetes.resource(NAMESPACE, NAME).engine_pods()?;
    let target = pod_port(pods.first().context("no pod")?, names::PORT_HTTP)?;
    let body = json!({
        "model": NAME, "prompt": "Tell me a very long story.", "max_tokens": 4000,
        "temperature": 0, "ignore_eos": true, "stream": true,
    });
    let mut stream = Request::new("POST", "/v1/completions")
        .body("application/json", body.to_string())
        .open(&target)?;
    expect_eq("status of the stream", &stream.status, &200)?;
    expect(stream.line()?.is_some(), || {
        "the stream is empty".to_owned()
    })?;
    expect_eq("running", &running(&target)?, &1)?;
    drop(stream);
    wait::until("the request is gone", SOON, EVERY, || {
        let running = running(&target)?;
        Ok(if running == 0 {
            Ok(())
        } else {
            Err(format!("{running} run"))
        })
    })?;
    Ok(1)
}

/// Requests that an engine works on.
fn running(target: &Target) -> Result<u32> {
    let value = total(&metrics(target)?, "vllm:num_requests_running")?;
    format!("{value:.0}").parse().context("not a count")
}

fn deleted(world: &World<'_>) -> Passed {
    let kubernetes = ready(world)?;
    let resource = kubernetes.resource(NAMESPACE, NAME);
    kubernetes.api.delete(&resource.path())?;
    crate::test::observe::await_nothing_left(resource)?;
    Ok(1)
}

/// The body of a pod's `/memory`, with the token of its Secret.
pub(super) fn memory_of(kubernetes: &Kubernetes, pod: &Value) -> Result<Value> {
    let namespace = text(&pod["metadata"]["namespace"]);
    let resource = text(&pod["metadata"]["labels"][names::LABEL_DEPLOYMENT]);
    let word = format!("jsonpath={{.data.{}}}", names::ADMIN_TOKEN_KEY);
    let secret = format!("{resource}-admin");
    let encoded = kubernetes.kubectl.run(&[
        "--namespace",
        namespace,
        "get",
        "secret",
        &secret,
        "--output",
        &word,
    ])?;
    let token = process::stdout_with_input(
        &mut process::command("base64", ["--decode"]),
        Some(encoded.trim()),
    )?;
    let answer = Request::new("GET", "/memory")
        .header("authorization", format!("Bearer {}", token.trim()))
        .timeout(Duration::from_secs(10))
        .send(&pod_port(pod, names::PORT_ADMIN)?)?;
    expect_eq("status of /memory", &answer.status, &200)?;
    answer.json()
}

fn sum(rows: &Value, field: &str) -> u64 {
    rows.as_array()
        .into_iter()
        .flatten()
        .filter_map(|row| row[field].as_u64())
        .sum()
}
