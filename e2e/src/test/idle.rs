//! `idleAfter` and `wakeOnRequest`: a resource that sleeps when nobody asks, by the kernel's figures,
//! and that an official client wakes.

use anyhow::{Context as _, bail};
use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::Reason;
use plimsoll_crds::v1alpha1::status::State;

use crate::demo::QUESTION;
use crate::http::Target;
use crate::paths;
use crate::process;
use crate::test::figures::memory_of;
use crate::test::observe::{
    PATIENCE, anonymous_bytes, await_service, complete, is_ready, name_of, pod_port, service_port,
};
use crate::test::sleep::{LEVELS, answer, await_pod, await_rows, planned, restarts};
use crate::test::sleep_asked::{await_state, expect_at_rest, patch, pods};
use crate::test::smollm2::{NAME, NAMESPACE, ready};
use crate::test::world::World;
use crate::test::{Passed, expect, expect_eq};

/// Idle, every pod gives its memory back; with `wakeOnRequest` it stays ready, and the official client
/// wakes it and gets the answer of before; without, it leaves the Service until the clock is taken
/// away. No pod restarts.
pub(super) fn sleeps_when_nobody_asks(world: &World<'_>) -> Passed {
    let kubernetes = ready(world)?;
    let resource = kubernetes.resource(NAMESPACE, NAME);
    let before = pods(resource)?;
    let first = before.first().context("no pod")?;
    let port = pod_port(first, names::PORT_HTTP)?;
    let said = answer(&port)?;
    let (_, accounts) = LEVELS[0];
    let mut due = Vec::new();
    for pod in &before {
        let awake = anonymous_bytes(pod, names::CONTAINER_ENGINE)?;
        due.push((awake, planned(&memory_of(&kubernetes, pod)?, accounts)?));
    }

    patch(&kubernetes, r#"{"idleAfter":"2s","wakeOnRequest":true}"#)?;
    await_state(resource, State::Sleeping, Some(Reason::WakesOnRequest))?;
    let words = ["--namespace", NAMESPACE, "get", "infd", NAME];
    println!("{}", kubernetes.kubectl.run(&words)?);
    for (pod, (awake, planned)) in before.iter().zip(&due) {
        let name = name_of(pod);
        let asleep = anonymous_bytes(pod, names::CONTAINER_ENGINE)?;
        expect(awake.saturating_sub(asleep) >= planned / 100 * 99, || {
            format!("{name}: {awake} bytes awake, {asleep} asleep, {planned} should go")
        })?;
        await_rows(resource, name, accounts, false)?;
        let found = resource.engine_pods()?;
        let found = found.iter().find(|it| name_of(it) == name);
        expect(found.is_some_and(is_ready), || {
            format!("{name} left the Service: {found:?}")
        })?;
    }
    let Target::Tcp(address) = service_port(&kubernetes, resource)? else {
        bail!("a service has an address")
    };
    let script = paths::repository().join("e2e/src/ask.py");
    let mut client = process::command(world.python()?, [&script]);
    let base = format!("http://{address}/v1");
    let told = process::stdout_of(client.args([base.as_str(), NAME, QUESTION]))?;
    expect(told.contains("Paris"), || format!("the model says: {told}"))?;
    // This pod may sleep still: the request that asks it wakes it.
    expect_eq("the answer by waking", &answer(&port)?, &said)?;

    patch(&kubernetes, r#"{"wakeOnRequest":null}"#)?;
    await_state(resource, State::Sleeping, Some(Reason::Sleeping))?;
    for pod in &before {
        await_pod(resource, name_of(pod), "not Ready", |pod| !is_ready(pod))?;
        let port = pod_port(pod, names::PORT_HTTP)?;
        expect_eq("a sleeper's answer", &complete(&port, NAME)?.status, &503)?;
    }
    expect_at_rest(resource)?;
    patch(&kubernetes, r#"{"state":"Awake","idleAfter":null}"#)?;
    resource.await_ready(PATIENCE)?;
    await_state(resource, State::Serving, Some(Reason::Serving))?;
    expect_eq("the answer after the wake", &answer(&port)?, &said)?;
    await_service(&kubernetes, resource, NAME)?;
    let after = pods(resource)?;
    let figures = |pods: &[serde_json::Value]| -> Vec<(String, Option<u64>)> {
        let each = pods.iter();
        each.map(|pod| (name_of(pod).to_owned(), restarts(pod)))
            .collect()
    };
    expect_eq("pods and restarts", &figures(&after), &figures(&before))?;
    Ok(3)
}
