//! Memory that a pod gives back and takes again: by the kernel's figures, with the same answers.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use plimsoll_crds::names;
use serde_json::{Value, json};

use crate::http::{Answer, Request, Target};
use crate::kube::{Kubernetes, Resource};
use crate::test::figures::memory_of;
use crate::test::observe::{
    EVERY, PATIENCE, anonymous_bytes, await_answer, bearer, complete, is_ready, name_of, pod_port,
    service_port, text,
};
use crate::test::smollm2::{NAME, NAMESPACE, ready};
use crate::test::world::World;
use crate::test::{Passed, expect, expect_eq};
use crate::wait;

/// What goes at each level, of every rank.
pub(super) const LEVELS: [(u32, &[&str]); 2] = [
    (1, &["KVCache", "Activations", "Comm", "Workspaces"]),
    (
        2,
        &["KVCache", "Activations", "Comm", "Workspaces", "Weights"],
    ),
];

/// A pod that sleeps leaves the Service, gives at least 99% of what its level says back to the
/// kernel, and after its wake answers what it answered; the other pod serves all the while.
pub(super) fn gives_memory_back(world: &World<'_>) -> Passed {
    let kubernetes = ready(world)?;
    let resource = kubernetes.resource(NAMESPACE, NAME);
    let pods = resource.engine_pods()?;
    let pod = pods.first().context("no pod")?;
    let port = pod_port(pod, names::PORT_HTTP)?;
    let service = service_port(&kubernetes, kubernetes.resource(NAMESPACE, NAME))?;
    let control = Control::of(&kubernetes, pod)?;
    let restarts = restarts(pod);
    let before = answer(&port)?;
    for (level, accounts) in LEVELS {
        let awake = anonymous_bytes(pod, names::CONTAINER_ENGINE)?;
        let planned = planned(&memory_of(&kubernetes, pod)?, accounts)?;
        let began = Instant::now();
        let path = format!("/sleep?level={level}&mode=keep");
        let slept = control.post(&path)?;
        let seconds = began.elapsed().as_secs_f64();
        expect_eq(&path, &slept.status, &200)?;
        let said = json!({"status": "sleeping", "level": level});
        expect_eq("body", &slept.json()?, &said)?;
        let asleep = anonymous_bytes(pod, names::CONTAINER_ENGINE)?;
        let given = awake.saturating_sub(asleep);
        println!(
            "           level {level}: {given} of {planned} planned bytes given back in \
             {seconds:.3} s, {asleep} stay"
        );
        expect(given >= planned / 100 * 99, || {
            format!("level {level}: {awake} bytes awake, {asleep} asleep, {planned} should go")
        })?;
        await_pod(resource, name_of(pod), "not Ready", |pod| !is_ready(pod))?;
        expect_eq("a sleeper's answer", &complete(&port, NAME)?.status, &503)?;
        await_rows(resource, name_of(pod), accounts, false)?;
        // Nodes may send a moment longer to who has left.
        await_answer("the other pod answers for both", &service, NAME)?;

        let began = Instant::now();
        let woken = control.post("/wake_up")?;
        println!(
            "           level {level}: awake after {:.3} s",
            began.elapsed().as_secs_f64()
        );
        expect_eq("/wake_up", &woken.status, &200)?;
        expect_eq("state", &text(&woken.json()?["status"]), &"awake")?;
        await_pod(resource, name_of(pod), "Ready", is_ready)?;
        expect_eq("the answer after the wake", &answer(&port)?, &before)?;
        await_rows(resource, name_of(pod), accounts, true)?;
    }
    let again = resource.engine_pods()?;
    let same = again.iter().find(|it| name_of(it) == name_of(pod));
    expect_eq("restarts", &same.map(self::restarts), &Some(restarts))?;
    Ok(2)
}

/// The admin port of one pod.
struct Control {
    target: Target,
    token: String,
}

impl Control {
    fn of(kubernetes: &Kubernetes, pod: &Value) -> Result<Control> {
        Ok(Control {
            target: pod_port(pod, names::PORT_ADMIN)?,
            token: bearer(kubernetes, pod)?,
        })
    }

    fn post(&self, path: &str) -> Result<Answer> {
        Request::new("POST", path)
            .header("authorization", self.token.clone())
            .timeout(Duration::from_secs(60))
            .send(&self.target)
    }
}

/// A greedy answer, long enough to reach behind the first block.
pub(super) fn answer(target: &Target) -> Result<String> {
    let body = json!({
        "model": NAME, "prompt": "The capital of France is", "max_tokens": 24, "temperature": 0,
    });
    let answer = Request::new("POST", "/v1/completions")
        .body("application/json", body.to_string())
        .timeout(Duration::from_secs(60))
        .send(target)?;
    expect_eq("status", &answer.status, &200)?;
    Ok(text(&answer.json()?["choices"][0]["text"]).to_owned())
}

/// Reserved bytes of these accounts, all ranks together.
pub(super) fn planned(report: &Value, accounts: &[&str]) -> Result<u64> {
    let ranks = report["ranks"].as_array().context("no ranks")?;
    let rows = ranks
        .iter()
        .flat_map(|rank| rank["accounts"].as_array().into_iter().flatten());
    let of_these = rows.filter(|row| accounts.contains(&text(&row["name"])));
    Ok(of_these
        .filter_map(|row| row["reservedBytes"].as_u64())
        .sum())
}

pub(super) fn restarts(pod: &Value) -> Option<u64> {
    pod["status"]["containerStatuses"][0]["restartCount"].as_u64()
}

pub(super) fn await_pod(
    resource: Resource<'_>,
    name: &str,
    what: &str,
    holds: impl Fn(&Value) -> bool,
) -> Result<()> {
    wait::until(&format!("{name} is {what}"), PATIENCE, EVERY, || {
        let pods = resource.engine_pods()?;
        let found = pods.iter().find(|pod| name_of(pod) == name);
        Ok(match found {
            Some(pod) if holds(pod) => Ok(()),
            Some(pod) => Err(pod["status"]["conditions"].to_string()),
            None => Err("it is gone".to_owned()),
        })
    })
}

/// The status shows the pod's accounts as they are: with their bytes, or with none.
pub(super) fn await_rows(
    resource: Resource<'_>,
    pod: &str,
    accounts: &[&str],
    there: bool,
) -> Result<()> {
    wait::until("the status follows", PATIENCE, EVERY, || {
        let status = resource.get()?.status;
        let memory = status.and_then(|status| status.memory);
        let rows = memory.map(|memory| memory.gpus).unwrap_or_default();
        let mut of_pod = rows.iter().filter(|row| row.pod == pod).peekable();
        if of_pod.peek().is_none() {
            return Ok(Err("no rows of the pod".to_owned()));
        }
        let wrong = of_pod
            .flat_map(|row| &row.accounts)
            .find(|row| accounts.contains(&row.name.as_str()) && (row.reserved_bytes > 0) != there);
        Ok(match wrong {
            None => Ok(()),
            Some(row) => Err(format!("{} has {} bytes", row.name, row.reserved_bytes)),
        })
    })
}
