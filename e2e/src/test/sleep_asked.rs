//! `spec.sleep`: a resource that is asked to sleep and to wake, by the kernel's figures.

use anyhow::{Context as _, Result};
use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::Reason;
use plimsoll_crds::v1alpha1::status::State;
use serde_json::{Value, json};

use crate::kube::{Kubernetes, Resource};
use crate::test::figures::memory_of;
use crate::test::observe::{
    EVERY, PATIENCE, anonymous_bytes, await_service, complete, is_ready, name_of, pod_port,
};
use crate::test::sleep::{LEVELS, answer, await_pod, await_rows, planned, restarts};
use crate::test::smollm2::{NAME, NAMESPACE, ready};
use crate::test::world::World;
use crate::test::{Passed, expect, expect_eq};
use crate::wait;

/// Asked to sleep, every pod gives at least 99% of what the level says back to the kernel, and the
/// resource is at rest and says so; asked to wake, the same pods answer what they answered.
pub(super) fn sleeps_and_wakes(world: &World<'_>) -> Passed {
    let kubernetes = ready(world)?;
    let resource = kubernetes.resource(NAMESPACE, NAME);
    let before = pods(resource)?;
    let first = before.first().context("no pod")?;
    let said = answer(&pod_port(first, names::PORT_HTTP)?)?;
    for (level, accounts) in LEVELS {
        let mut due = Vec::new();
        for pod in &before {
            let awake = anonymous_bytes(pod, names::CONTAINER_ENGINE)?;
            due.push((awake, planned(&memory_of(&kubernetes, pod)?, accounts)?));
        }
        patch(
            &kubernetes,
            &format!(r#"{{"state":"Sleeping","level":{level}}}"#),
        )?;
        await_state(resource, State::Sleeping, Some(Reason::Sleeping))?;
        let shown = kubernetes.kubectl.run(&[
            "--namespace",
            NAMESPACE,
            "get",
            "inferencedeployment",
            NAME,
        ])?;
        println!("{shown}");
        expect(shown.contains("Sleeping"), || shown.clone())?;
        for (pod, (awake, planned)) in before.iter().zip(&due) {
            let asleep = anonymous_bytes(pod, names::CONTAINER_ENGINE)?;
            expect(awake.saturating_sub(asleep) >= planned / 100 * 99, || {
                let name = name_of(pod);
                format!("{name}: {awake} bytes awake, {asleep} asleep, {planned} should go")
            })?;
            await_rows(resource, name_of(pod), accounts, false)?;
            let port = pod_port(pod, names::PORT_HTTP)?;
            expect_eq("a sleeper's answer", &complete(&port, NAME)?.status, &503)?;
        }
        expect_at_rest(resource)?;

        patch(&kubernetes, r#"{"state":"Awake","level":null}"#)?;
        resource.await_ready(PATIENCE)?;
        await_state(resource, State::Serving, None)?;
        for pod in &before {
            let port = pod_port(pod, names::PORT_HTTP)?;
            expect_eq("the answer after the wake", &answer(&port)?, &said)?;
            await_rows(resource, name_of(pod), accounts, true)?;
        }
    }
    await_service(&kubernetes, resource, NAME)?;
    let figures = |pods: &[Value]| -> Vec<(String, Option<u64>)> {
        let each = pods.iter();
        each.map(|pod| (name_of(pod).to_owned(), restarts(pod)))
            .collect()
    };
    let after = pods(resource)?;
    expect_eq("pods and restarts", &figures(&after), &figures(&before))?;
    Ok(2)
}

/// The one engine that serves sleeps and wakes as the resource says, although nothing else of the spec
/// reaches it, for what `why` says; what else is true `meanwhile`.
pub(super) fn told_alone(
    kubernetes: &Kubernetes,
    resource: Resource<'_>,
    (pod, why): (&str, &str),
    meanwhile: impl Fn() -> Result<()>,
) -> Result<()> {
    for (state, awake) in [("Sleeping", false), ("Awake", true)] {
        let sleep = json!({"spec": {"sleep": {"state": state}}});
        kubernetes.api.merge(&resource.path(), &sleep)?;
        await_pod(resource, pod, state, |pod| is_ready(pod) == awake)?;
        wait::until("TargetApplied tells of it", PATIENCE, EVERY, || {
            let told = resource.condition("TargetApplied")?;
            let words = told.as_ref().map_or("", |it| it.message.as_str());
            let alone = words.contains("told alone, is in force in all engines (1)");
            Ok(match alone && words.contains(why) {
                true => Ok(()),
                false => Err(format!("{told:?}")),
            })
        })?;
        if !awake {
            meanwhile()?;
        }
    }
    Ok(())
}

/// Engine pods in the order of their names.
pub(super) fn pods(resource: Resource<'_>) -> Result<Vec<Value>> {
    let mut pods = resource.engine_pods()?;
    pods.sort_by(|a, b| name_of(a).cmp(name_of(b)));
    Ok(pods)
}

pub(super) fn patch(kubernetes: &Kubernetes, sleep: &str) -> Result<()> {
    let patch = format!(r#"{{"spec":{{"sleep":{sleep}}}}}"#);
    let words = ["--namespace", NAMESPACE, "patch", "infd", NAME];
    let how = ["--type=merge", "-p", &patch];
    kubernetes.kubectl.run(&[&words[..], &how[..]].concat())?;
    Ok(())
}

/// kstatus calls it current: nothing is worked on, nothing stuck.
pub(super) fn expect_at_rest(resource: Resource<'_>) -> Result<()> {
    for kind in ["Reconciling", "Stalled"] {
        let found = resource.condition(kind)?;
        expect(found.is_none(), || {
            format!("{kind} while asleep: {found:?}")
        })?;
    }
    Ok(())
}

/// Until the printer's column says so, and Ready the reason.
pub(super) fn await_state(
    resource: Resource<'_>,
    state: State,
    reason: Option<Reason>,
) -> Result<()> {
    wait::until(&format!("{state:?}"), PATIENCE, EVERY, || {
        let status = resource.get()?.status.context("no status")?;
        let ready = status.conditions.iter().find(|it| it.type_ == "Ready");
        let there = ready.map(|ready| ready.reason.as_str());
        let right = reason.is_none_or(|reason| there == Some(reason.as_str()));
        Ok(match status.state == Some(state) && right {
            true => Ok(()),
            false => Err(format!("{:?}, {ready:?}", status.state)),
        })
    })
}
