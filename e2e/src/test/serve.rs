//! The example with the real model: it becomes Ready, answers the official client, and its figures
//! are the machine's.

use std::time::Duration;

use anyhow::Context as _;
use plimsoll_crds::names;
use serde_json::json;

use crate::http::Request;
use crate::test::observe::{EVERY, name_of, pod_port, service_port, text};
use crate::test::smollm2::{NAME, NAMESPACE, ready, running};
use crate::test::world::World;
use crate::test::{
    Group, Passed, admin, clients, expect, expect_eq, figures, idle, offload, resize,
    resize_faults, sleep, sleep_asked, test, trainer,
};
use crate::wait;

pub(super) const GROUP: Group = Group {
    name: "serve",
    about: "SmolLM2 on two unequal ranks, in a namespace that enforces `restricted`",
    tests: &[
        test(
            "the example becomes Ready, split 1 + 2 heads",
            becomes_ready,
        ),
        test("kubectl get shows the columns", columns),
        test(
            "the official client streams the right answer",
            clients::official,
        ),
        test(
            "the lines of `demo --keep` work as printed",
            clients::as_printed,
        ),
        test(
            "the status's rows are what the kernel counts",
            figures::true_to_the_kernel,
        ),
        test(
            "status, /memory and /metrics agree",
            figures::agree_everywhere,
        ),
        test("the admin port wants its token", admin::token_wanted),
        test(
            "watchers that never read hold up nobody",
            admin::silent_watchers,
        ),
        test("bad requests get answers that name the field", bad_requests),
        test(
            "a client that goes away frees its blocks at once",
            disconnected,
        ),
        test(
            "a pod that sleeps gives its memory back and wakes with the same answers",
            sleep::gives_memory_back,
        ),
        test(
            "spec.sleep puts all pods to sleep and wakes them, and they stay the same pods",
            sleep_asked::sleeps_and_wakes,
        ),
        test(
            "a trainer in the pod uses the memory, pushes weights, and dies in the next push",
            trainer::pushes_and_dies,
        ),
        test(
            "quotas change under load without a restart, a lost request or a byte above the line",
            resize::follows_quotas,
        ),
        test(
            "the operator dies between the steps of a resize: no request is lost, and the quotas come",
            resize_faults::operator_dies_between_steps,
        ),
        test(
            "quotas above the node are refused in its words, and engines go on",
            resize_faults::above_the_node,
        ),
        test(
            "idleAfter puts pods to sleep, an official client wakes them, and without wakeOnRequest they \
             leave the Service",
            idle::sleeps_when_nobody_asks,
        ),
        test(
            "with layers in host memory the example answers the same, is resized, and sleeps",
            offload::answers_the_same,
        ),
        test("deleting the resource leaves nothing", deleted),
    ],
};

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
            json!({"model": NAME, "prompt": "x", "max_tokens": -2}).to_string(),
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

fn deleted(world: &World<'_>) -> Passed {
    let kubernetes = ready(world)?;
    let resource = kubernetes.resource(NAMESPACE, NAME);
    kubernetes.api.delete(&resource.path())?;
    crate::test::observe::await_nothing_left(resource)?;
    Ok(1)
}
