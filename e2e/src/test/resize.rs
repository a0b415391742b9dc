//! Quotas that change under load: the same pods, the same lives of their containers, no request lost,
//! and the kernel's own figures below the line all the while.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::status::{MemoryStatus, State};
use plimsoll_crds::v1alpha1::{ConditionType, TargetOutcome};
use serde_json::{Value, json};

use crate::http::{Request, Target};
use crate::kube::{Kubernetes, Resource};
use crate::test::observe::{
    EVERY, PATIENCE, cgroup_bytes, cgroup_limit, name_of, pod_port, service_port,
};
use crate::test::sleep::{answer, restarts};
use crate::test::smollm2::{NAME, NAMESPACE, ready};
use crate::test::world::World;
use crate::test::{Passed, expect, expect_eq};
use crate::wait;

const MIB: u64 = 1 << 20;
/// What the example has, in MiB by rank, and comes back to.
pub(super) const FIRST: [u64; 2] = [300, 700];
/// Up and down three times.
const STEPS: [[u64; 2]; 6] = [[340, 800], [280, 640], [320, 760], FIRST, [380, 900], FIRST];
/// Below what the weights take.
const BELOW: [u64; 2] = [30, 60];
/// Requests at once, all the while.
const CLIENTS: usize = 3;
const LOOK: Duration = Duration::from_millis(20);

/// What goes on while quotas change.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    answered: AtomicU64,
    looks: AtomicU64,
}

pub(super) fn follows_quotas(world: &World<'_>) -> Passed {
    let kubernetes = ready(world)?;
    let resource = kubernetes.resource(NAMESPACE, NAME);
    under_load(&kubernetes, resource, |before| {
        walk(&kubernetes, resource, before)
    })
}

/// Does something to the resource while clients ask it and its cgroups are looked at: no request may
/// fail, no container hold more than its limit or begin again, and all answers are those of before.
pub(super) fn under_load(
    kubernetes: &Kubernetes,
    resource: Resource<'_>,
    act: impl FnOnce(&[Value]) -> Passed,
) -> Passed {
    let before = pods(resource)?;
    let said = said(&before)?;
    let service = service_port(kubernetes, resource)?;
    let load = Load::default();
    let checks = thread::scope(|scope| {
        let (load, service) = (&load, &service);
        let client = |index| scope.spawn(move || ask(load, service, index));
        let clients: Vec<_> = (0..CLIENTS).map(client).collect();
        let watch = scope.spawn(|| watch(load, &before));
        let acted = act(&before);
        load.stop.store(true, Ordering::Relaxed);
        let mut outcomes = vec![acted];
        for thread in clients.into_iter().chain([watch]) {
            let ended = thread.join();
            outcomes.push(
                ended
                    .unwrap_or_else(|_| bail!("a thread of the test panicked"))
                    .map(|()| 0),
            );
        }
        let each = outcomes.into_iter();
        each.sum::<Result<u32>>()
    })?;
    let (answered, looks) = (
        load.answered.load(Ordering::Relaxed),
        load.looks.load(Ordering::Relaxed),
    );
    println!("           {answered} requests answered, none failed; {looks} looks at the cgroups");
    expect(answered > 0 && looks > 0, || {
        "nothing went on meanwhile".to_owned()
    })?;
    expect_eq("answers", &self::said(&pods(resource)?)?, &said)?;
    same_lives(resource, &before)?;
    Ok(checks)
}

/// All changes, one after the other.
fn walk(kubernetes: &Kubernetes, resource: Resource<'_>, before: &[Value]) -> Result<u32> {
    for quotas in STEPS {
        let began = Instant::now();
        patch(kubernetes, &with_quotas(quotas))?;
        let memory = await_applied(resource, Some(quotas))?;
        println!(
            "           {quotas:?} MiB: in force after {:.1} s, {} tokens, limit {}",
            began.elapsed().as_secs_f64(),
            memory.plan.map_or(0, |plan| plan.kv_tokens),
            memory.targets[0].limit_bytes.unwrap_or_default()
        );
        same_lives(resource, before)?;
        for pod in &pods(resource)? {
            let mut rows = memory.targets.iter();
            let row = rows.find(|row| row.pod == name_of(pod));
            let limit = cgroup_limit(pod, names::CONTAINER_ENGINE)?;
            // The kernel keeps whole pages of what it is told.
            let told = row
                .and_then(|row| row.limit_bytes)
                .map(|bytes| bytes / 4096 * 4096);
            expect_eq("the cgroup's limit", &Some(limit), &told)?;
        }
    }
    patch(kubernetes, &with_quotas(BELOW))?;
    let fits = ConditionType::MemoryFits.as_str();
    let refused = resource.await_condition(fits, "False", PATIENCE)?;
    for words in ["30.00 MiB", "60.00 MiB", "rank 1 needs"] {
        expect(refused.message.contains(words), || refused.message.clone())?;
    }
    same_lives(resource, before)?;
    let size = json!({"gpuQuotas": rows(FIRST), "kvCache": {"size": "160Mi"}});
    patch(kubernetes, &size)?;
    let memory = await_applied(resource, Some(FIRST))?;
    let caches = memory.gpus.iter().flat_map(|row| &row.accounts);
    let mut caches = caches.filter(|account| account.name == "KVCache");
    expect(caches.all(|cache| cache.planned_bytes <= 160 * MIB), || {
        format!("{:?}", memory.gpus)
    })?;
    patch(kubernetes, &json!({"kvCache": {"size": null}}))?;
    await_applied(resource, Some(FIRST))?;
    same_lives(resource, before)?;
    Ok(u32::try_from(STEPS.len())? + 3)
}

/// Until the newest target is in force in every pod, its container's limit included, as status says.
pub(super) fn await_applied(
    resource: Resource<'_>,
    quotas: Option<[u64; 2]>,
) -> Result<MemoryStatus> {
    let budgets = quotas.map(|quotas| quotas.iter().sum::<u64>() * MIB);
    let applied = ConditionType::TargetApplied.as_str();
    resource.await_condition(applied, "True", PATIENCE)?;
    wait::until("every row says so", PATIENCE, EVERY, || {
        let status = resource.get()?.status.context("no status")?;
        let state = status.state;
        let memory = status.memory.context("no memory in status")?;
        let right = memory.targets.iter().all(|row| {
            row.outcome == TargetOutcome::Applied
                && row.budget_bytes == row.wanted_budget_bytes
                && row.budget_bytes == budgets
                && row.limit_bytes == row.wanted_limit_bytes
        });
        Ok(
            match right && state == Some(State::Serving) && !memory.targets.is_empty() {
                true => Ok(memory),
                false => Err(format!("{state:?}, {:?}", memory.targets)),
            },
        )
    })
}

/// The same pods, none of whose containers began again, all of them Ready.
fn same_lives(resource: Resource<'_>, before: &[Value]) -> Result<()> {
    let figures = |pods: &[Value]| -> Vec<(String, Option<u64>)> {
        let each = pods.iter();
        each.map(|pod| (name_of(pod).to_owned(), restarts(pod)))
            .collect()
    };
    let now = pods(resource)?;
    expect_eq("pods and restarts", &figures(&now), &figures(before))
}

/// One request after the other; none may fail.
fn ask(load: &Load, service: &Target, index: usize) -> Result<()> {
    while !load.stop.load(Ordering::Relaxed) {
        let prompt = format!("Story {index}: once upon a time");
        let body = json!({
            "model": NAME, "prompt": prompt, "max_tokens": 24, "temperature": 0,
        });
        let answer = Request::new("POST", "/v1/completions")
            .body("application/json", body.to_string())
            .timeout(Duration::from_secs(60))
            .send(service)
            .context("a request failed while quotas changed")?;
        expect(answer.status == 200, || {
            format!("{} while quotas changed: {}", answer.status, answer.body)
        })?;
        load.answered.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// What each container holds, and what it is held to, by its cgroup.
fn watch(load: &Load, pods: &[Value]) -> Result<()> {
    while !load.stop.load(Ordering::Relaxed) {
        for pod in pods {
            // In this order: a limit that rises in between is no lie.
            let held = cgroup_bytes(pod, names::CONTAINER_ENGINE)?;
            let limit = cgroup_limit(pod, names::CONTAINER_ENGINE)?;
            expect(held <= limit, || {
                format!("{} holds {held} of {limit} bytes", name_of(pod))
            })?;
        }
        load.looks.fetch_add(1, Ordering::Relaxed);
        thread::sleep(LOOK);
    }
    Ok(())
}

/// What every pod answers.
fn said(pods: &[Value]) -> Result<Vec<String>> {
    let ports = pods.iter().map(|pod| pod_port(pod, names::PORT_HTTP));
    ports.map(|port| answer(&port?)).collect()
}

/// Engine pods in the order of their names.
pub(super) fn pods(resource: Resource<'_>) -> Result<Vec<Value>> {
    let mut pods = resource.engine_pods()?;
    pods.sort_by(|a, b| name_of(a).cmp(name_of(b)));
    Ok(pods)
}

fn rows(quotas: [u64; 2]) -> Value {
    let row = |(rank, mib): (usize, u64)| json!({"rank": rank, "limit": format!("{mib}Mi")});
    quotas.into_iter().enumerate().map(row).collect()
}

pub(super) fn with_quotas(quotas: [u64; 2]) -> Value {
    json!({"gpuQuotas": rows(quotas)})
}

pub(super) fn patch(kubernetes: &Kubernetes, memory: &Value) -> Result<()> {
    let patch = json!({"spec": {"memory": memory}}).to_string();
    let words = ["--namespace", NAMESPACE, "patch", "infd", NAME];
    let how = ["--type=merge", "-p", &patch];
    kubernetes.kubectl.run(&[&words[..], &how[..]].concat())?;
    Ok(())
}
