//! Quotas that change while the operator dies, and quotas that no node has: engines go on, nothing
//! restarts, and in the end what was asked for last is in force.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::{ConditionType, Reason};
use serde_json::Value;

use crate::kube::{Kubernetes, Resource};
use crate::test::faults::kill_container;
use crate::test::observe::{
    PATIENCE, metrics, name_of, operator_metrics, operator_pods, pod_port, text,
};
use crate::test::resize::{FIRST, await_applied, patch, pods, under_load, with_quotas};
use crate::test::smollm2::{NAME, NAMESPACE, ready};
use crate::test::world::World;
use crate::test::{Passed, expect, expect_eq};
use crate::wait;

/// How often a step of a resize is looked for: it takes some milliseconds.
const SOON: Duration = Duration::from_millis(2);
const MIB: u64 = 1 << 20;

/// At which step of a resize the operator dies.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// The API server has the new quotas, and nobody has read them yet, or somebody has.
    Asked,
    /// A pod's limit is raised; its engine is about to be told.
    LimitRaised,
    /// An engine holds less; its pod's limit is about to be lowered.
    GivenBack,
}

/// How it dies.
#[derive(Clone, Copy, Debug)]
enum Death {
    /// SIGKILL; the kubelet starts it again, the first time at once.
    Killed,
    /// Its pod is deleted, and another one takes over.
    Replaced,
}

/// Up and down. A container that is killed for the second time waits 10 s: each has a pod of its own.
const DEATHS: [([u64; 2], Moment, Death); 5] = [
    ([340, 800], Moment::Asked, Death::Killed),
    ([280, 640], Moment::Asked, Death::Replaced),
    ([380, 900], Moment::LimitRaised, Death::Killed),
    ([320, 760], Moment::Asked, Death::Replaced),
    (FIRST, Moment::GivenBack, Death::Killed),
];

pub(super) fn operator_dies_between_steps(world: &World<'_>) -> Passed {
    let kubernetes = ready(world)?;
    let resource = kubernetes.resource(NAMESPACE, NAME);
    under_load(&kubernetes, resource, |_| {
        let mut between = 0;
        for (quotas, moment, death) in DEATHS {
            between += u32::from(die_in(&kubernetes, resource, (quotas, moment, death))?);
        }
        println!(
            "           {between} of {} deaths were between two steps",
            DEATHS.len()
        );
        expect(between > 0, || "every resize was over by then".to_owned())?;
        Ok(u32::try_from(DEATHS.len())?)
    })
}

/// One resize in which the operator dies; whether it was under way by then.
fn die_in(
    kubernetes: &Kubernetes,
    resource: Resource<'_>,
    (quotas, moment, death): ([u64; 2], Moment, Death),
) -> Result<bool> {
    operator_metrics(kubernetes)?;
    let operators = operator_pods(kubernetes)?;
    let operator = operators.first().context("no operator runs")?;
    let engines = pods(resource)?;
    let (limits, resizes) = (limits(&engines), resizes(&engines)?);
    let began = Instant::now();
    patch(kubernetes, &with_quotas(quotas))?;
    match moment {
        Moment::Asked => {}
        Moment::LimitRaised => wait::until("a limit is raised", PATIENCE, SOON, || {
            let now = self::limits(&pods(resource)?);
            Ok(if now == limits {
                Err(format!("{now:?}"))
            } else {
                Ok(())
            })
        })?,
        Moment::GivenBack => wait::until("an engine gave back", PATIENCE, SOON, || {
            let now = self::resizes(&engines)?;
            let some = now.iter().zip(&resizes).any(|(now, was)| now > was);
            Ok(if some {
                Ok(())
            } else {
                Err(format!("{now:?}"))
            })
        })?,
    }
    match death {
        Death::Killed => kill_container(operator, "operator")?,
        Death::Replaced => {
            let namespace = text(&operator["metadata"]["namespace"]);
            let path = format!("/api/v1/namespaces/{namespace}/pods/{}", name_of(operator));
            kubernetes.api.delete(&path)?;
        }
    }
    let left = self::limits(&pods(resource)?);
    let applied = resource.condition(ConditionType::TargetApplied.as_str())?;
    // Before anything began is not between.
    let began_already = !matches!(moment, Moment::Asked);
    let between = began_already && applied.is_none_or(|it| it.status != "True");
    let memory = await_applied(resource, Some(quotas))?;
    println!(
        "           {quotas:?} MiB, {death:?} at {moment:?}: limits {limits:?}, then {left:?}; in \
         force after {:.1} s, {} tokens",
        began.elapsed().as_secs_f64(),
        memory.plan.map_or(0, |plan| plan.kv_tokens),
    );
    Ok(between)
}

/// The memory limit that each pod's engine is asked to have.
fn limits(engines: &[Value]) -> Vec<String> {
    let container = |pod: &Value| {
        let all = pod["spec"]["containers"].as_array().into_iter().flatten();
        let engine = all
            .clone()
            .find(|it| it["name"] == names::CONTAINER_ENGINE)?;
        Some(text(&engine["resources"]["limits"]["memory"]).to_owned())
    };
    engines.iter().filter_map(container).collect()
}

/// How often each engine was resized.
fn resizes(engines: &[Value]) -> Result<Vec<f64>> {
    let count = |pod: &Value| -> Result<f64> {
        let page = metrics(&pod_port(pod, names::PORT_PROBES)?)?;
        let of_these = page.iter().filter(|sample| {
            let label = |name: &str| sample.labels.get(name).map_or("", String::as_str);
            sample.name == "plimsoll_transition_total"
                && (label("kind"), label("result")) == ("resize", "done")
        });
        Ok(of_these.map(|sample| sample.value).sum())
    };
    engines.iter().map(count).collect()
}

/// Quotas that the node does not have: its kubelet's words and numbers stand in the condition, engines
/// keep to what they had and answer, and smaller quotas are followed again.
pub(super) fn above_the_node(world: &World<'_>) -> Passed {
    let kubernetes = ready(world)?;
    let resource = kubernetes.resource(NAMESPACE, NAME);
    let node = kubernetes.api.get("/api/v1/nodes/node-1")?;
    let allocatable = kibibytes(text(&node["status"]["allocatable"]["memory"]))?;
    let beyond = [FIRST[0], allocatable / 1024 + 1024];
    under_load(&kubernetes, resource, |_| {
        let began = Instant::now();
        patch(&kubernetes, &with_quotas(beyond))?;
        let refused = refused(resource)?;
        println!(
            "           {beyond:?} MiB, refused after {:.1} s: {refused}",
            began.elapsed().as_secs_f64()
        );
        // A kubelet says it, or an API server that looks at nodes itself.
        let raised = refused.contains("memory limit is being raised from");
        let mut quoted = ["Infeasible", "the API server says no"].into_iter();
        let is_quoted = quoted.any(|words| refused.contains(words));
        expect(raised && is_quoted, || refused.clone())?;
        let status = resource.get()?.status.context("no status")?;
        let memory = status.memory.context("no memory in status")?;
        let held = Some(FIRST.iter().sum::<u64>() * MIB);
        for row in &memory.targets {
            expect_eq(
                "the budgets that the engine keeps to",
                &row.budget_bytes,
                &held,
            )?;
        }
        let ready = resource.condition("Ready")?.map(|ready| ready.status);
        expect_eq("Ready", &ready.as_deref(), &Some("True"))?;
        patch(&kubernetes, &with_quotas(FIRST))?;
        await_applied(resource, Some(FIRST))?;
        Ok(1)
    })
}

/// What `TargetApplied` says of a target that cannot be followed.
fn refused(resource: Resource<'_>) -> Result<String> {
    const OFTEN: Duration = Duration::from_millis(150);
    let kind = ConditionType::TargetApplied.as_str();
    wait::until("the target is refused", PATIENCE, OFTEN, || {
        Ok(match resource.condition(kind)? {
            Some(told) if told.reason == Reason::TargetRefused.as_str() => Ok(told.message),
            other => Err(format!("{other:?}")),
        })
    })
}

/// `16384Ki` as the kubelet writes it, or plain bytes.
fn kibibytes(quantity: &str) -> Result<u64> {
    let (number, unit) = match quantity.strip_suffix("Ki") {
        Some(number) => (number, 1024),
        None => (quantity, 1),
    };
    let bytes = number.parse::<u64>().with_context(|| quantity.to_owned())? * unit;
    Ok(bytes / 1024)
}
