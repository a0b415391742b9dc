//! Looking at what runs: pods' addresses, their metrics, what their cgroups hold, who wrote what.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use plimsoll_crds::names;
use serde_json::{Value, json};

use crate::cluster::{cgroup, control_plane};
use crate::http::{Answer, Request, Target};
use crate::install::{RELEASE, SYSTEM};
use crate::kube::{Kubernetes, Resource};
use crate::process;
use crate::wait;

/// How often a waiting test looks.
pub(super) const EVERY: Duration = Duration::from_millis(150);
/// Long enough for a loaded two-core machine; a test that needs it all has a story to tell.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// A pod's port: the host has a route to every pod.
pub(super) fn pod_port(pod: &Value, port: u16) -> Result<Target> {
    let address = pod["status"]["podIP"]
        .as_str()
        .context("the pod has no address")?;
    Ok(Target::Tcp(SocketAddr::new(address.parse()?, port)))
}

/// A service's port: the first node answers the host for service addresses.
pub(super) fn service_port(kubernetes: &Kubernetes, resource: Resource<'_>) -> Result<Target> {
    let path = format!(
        "/api/v1/namespaces/{}/services/{}",
        resource.namespace, resource.name
    );
    let service = kubernetes.api.get(&path)?;
    let address = service["spec"]["clusterIP"]
        .as_str()
        .context("the service has no address")?;
    Ok(Target::Tcp(SocketAddr::new(
        address.parse()?,
        names::PORT_HTTP,
    )))
}

/// A short greedy completion.
pub(super) fn complete(target: &Target, model: &str) -> Result<Answer> {
    let body = json!({"model": model, "prompt": "Once upon", "max_tokens": 4, "temperature": 0});
    Request::new("POST", "/v1/completions")
        .body("application/json", body.to_string())
        .timeout(Duration::from_secs(60))
        .send(target)
}

/// What a resource's Service answers, whatever the status, as soon as it can be reached.
///
/// A Service leads nowhere for a moment after a pod has become Ready: kube-proxy learns of it after
/// the API server does. Until then a connection is refused or times out.
pub(super) fn asked(
    kubernetes: &Kubernetes,
    resource: Resource<'_>,
    model: &str,
) -> Result<Answer> {
    let target = service_port(kubernetes, resource)?;
    let what = format!("the Service {} can be reached", resource.name);
    wait::until(&what, PATIENCE, EVERY, || {
        Ok(complete(&target, model).map_err(|error| format!("{error:#}")))
    })
}

/// Waits until a completion is answered with 200 there.
pub(super) fn await_answer(what: &str, target: &Target, model: &str) -> Result<()> {
    wait::until(what, PATIENCE, EVERY, || {
        Ok(match complete(target, model) {
            Ok(answer) if answer.status == 200 => Ok(()),
            Ok(answer) => Err(format!("{}: {}", answer.status, answer.body)),
            Err(error) => Err(format!("{error:#}")),
        })
    })
}

/// Waits until a resource's Service leads to an engine that answers.
pub(super) fn await_service(
    kubernetes: &Kubernetes,
    resource: Resource<'_>,
    model: &str,
) -> Result<()> {
    let what = format!("the Service {} leads to an engine", resource.name);
    await_answer(&what, &service_port(kubernetes, resource)?, model)
}

/// A value's name as text, empty when there is none.
pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A pod's name.
pub(super) fn name_of(pod: &Value) -> &str {
    text(&pod["metadata"]["name"])
}

/// Whether a pod says that it is ready.
pub(super) fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|all| {
        all.iter()
            .any(|it| it["type"] == "Ready" && it["status"] == "True")
    })
}

/// Whether a pod is on its way out.
pub(super) fn is_leaving(pod: &Value) -> bool {
    pod["metadata"]["deletionTimestamp"].is_string()
}

/// The process ids of one container, seen from the machine.
pub(super) fn processes_of(pod: &Value, container: &str) -> Result<Vec<i32>> {
    let (folder, _) = memory_cgroup(pod, container)?;
    let text = fs::read_to_string(folder.join("cgroup.procs"))?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

/// What the kernel charges to one container, in bytes.
pub(super) fn cgroup_bytes(pod: &Value, container: &str) -> Result<u64> {
    cgroup_figure(pod, container, ("memory.current", "memory.usage_in_bytes"))
}

/// What the kernel holds one container to, in bytes.
pub(super) fn cgroup_limit(pod: &Value, container: &str) -> Result<u64> {
    cgroup_figure(pod, container, ("memory.max", "memory.limit_in_bytes"))
}

/// A figure of a container's memory cgroup: the file's name in version 2, and in version 1.
fn cgroup_figure(pod: &Value, container: &str, (new, old): (&str, &str)) -> Result<u64> {
    let (folder, unified) = memory_cgroup(pod, container)?;
    let file = if unified { new } else { old };
    let text = fs::read_to_string(folder.join(file))?;
    text.trim()
        .parse()
        .with_context(|| format!("{file} holds {text:?}"))
}

/// Resident bytes of a container's processes that belong to no file, as the kernel counts them.
pub(super) fn anonymous_bytes(pod: &Value, container: &str) -> Result<u64> {
    let mut bytes = 0;
    for pid in processes_of(pod, container)? {
        let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kibibytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        bytes += kibibytes.context("no RssAnon in the process's status")? * 1024;
    }
    Ok(bytes)
}

fn memory_cgroup(pod: &Value, container: &str) -> Result<(std::path::PathBuf, bool)> {
    let all = ["containerStatuses", "initContainerStatuses"];
    let status = all
        .iter()
        .flat_map(|list| pod["status"][*list].as_array().into_iter().flatten())
        .find(|status| status["name"] == container)
        .with_context(|| format!("{} has no container {container}", name_of(pod)))?;
    let id = text(&status["containerID"]).trim_start_matches("containerd://");
    let uid = text(&pod["metadata"]["uid"]);
    cgroup::memory_of_pod(text(&pod["spec"]["nodeName"]), uid, id)
}

/// One sample of a Prometheus page.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) value: f64,
}

/// Reads a `/metrics` page. Label values of ours hold no escapes.
pub(super) fn metrics(target: &Target) -> Result<Vec<Sample>> {
    let answer = Request::new("GET", "/metrics").send(target)?;
    if answer.status != 200 {
        bail!("GET /metrics: {}", answer.status);
    }
    answer
        .body
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(sample)
        .collect()
}

fn sample(line: &str) -> Result<Sample> {
    let (head, value) = line
        .rsplit_once(' ')
        .with_context(|| format!("no sample: {line}"))?;
    let (name, labels) = head.split_once('{').unwrap_or((head, ""));
    let labels = labels
        .trim_end_matches('}')
        .split("\",")
        .filter_map(|pair| {
            let (name, value) = pair.split_once("=\"")?;
            Some((name.to_owned(), value.trim_end_matches('"').to_owned()))
        });
    let value = value
        .parse()
        .with_context(|| format!("no number: {line}"))?;
    Ok(Sample {
        name: name.to_owned(),
        labels: labels.collect(),
        value,
    })
}

/// The sum of all samples of a name.
pub(super) fn total(samples: &[Sample], name: &str) -> Result<f64> {
    let mut found = samples
        .iter()
        .filter(|sample| sample.name == name)
        .peekable();
    if found.peek().is_none() {
        bail!("no metric {name}");
    }
    Ok(found.map(|sample| sample.value).sum())
}

/// The operator's pods that run.
pub(super) fn operator_pods(kubernetes: &Kubernetes) -> Result<Vec<Value>> {
    let selector = "labelSelector=app.kubernetes.io%2Fname%3Dplimsoll-operator";
    let mut pods = kubernetes
        .api
        .list(&format!("/api/v1/namespaces/{SYSTEM}/pods?{selector}"))?;
    pods.retain(|pod| !is_leaving(pod) && pod["status"]["phase"] == "Running");
    Ok(pods)
}

/// The operator's metrics, once it answers.
pub(super) fn operator_metrics(kubernetes: &Kubernetes) -> Result<Vec<Sample>> {
    const PORT: u16 = 8080;
    wait::until("the operator answers", PATIENCE, EVERY, || {
        let pods = operator_pods(kubernetes)?;
        let Some(pod) = pods.first() else {
            return Ok(Err("no operator runs".to_owned()));
        };
        let page = pod_port(pod, PORT).and_then(|target| metrics(&target));
        Ok(page.map_err(|error| error.to_string()))
    })
}

/// A place in the API server's record of writes.
pub(super) fn audit_position() -> Result<u64> {
    let log = control_plane::audit_log();
    Ok(fs::metadata(&log)
        .with_context(|| log.display().to_string())?
        .len())
}

/// The operator's writes since `position` in `namespace`, or in all, renewals of its Lease aside:
/// `verb resource/subresource name`.
pub(super) fn operator_writes(position: u64, namespace: Option<&str>) -> Result<Vec<String>> {
    let bytes = fs::read(control_plane::audit_log())?;
    let recent = bytes.get(usize::try_from(position)?..).unwrap_or_default();
    let user = format!("system:serviceaccount:{SYSTEM}:{RELEASE}");
    let mut writes = Vec::new();
    for line in String::from_utf8_lossy(recent).lines() {
        let Ok(event) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let object = &event["objectRef"];
        let there = namespace.is_none_or(|namespace| object["namespace"] == namespace);
        if there && event["user"]["username"] == user && object["resource"] != "leases" {
            writes.push(format!(
                "{} {}/{} {}",
                text(&event["verb"]),
                text(&object["resource"]),
                text(&object["subresource"]),
                text(&object["name"])
            ));
        }
    }
    Ok(writes)
}

/// Waits until nothing that the operator made for a resource is left.
pub(super) fn await_nothing_left(resource: Resource<'_>) -> Result<()> {
    const CHILDREN: [(&str, &str); 7] = [
        ("/api/v1", "pods"),
        ("/api/v1", "configmaps"),
        ("/api/v1", "services"),
        ("/api/v1", "secrets"),
        ("/api/v1", "serviceaccounts"),
        ("/apis/apps/v1", "replicasets"),
        ("/apis/policy/v1", "poddisruptionbudgets"),
    ];
    let what = format!("nothing of {} is left", resource.name);
    wait::until(&what, PATIENCE, EVERY, || {
        for (group, kind) in CHILDREN {
            let left =
                resource.owned(&format!("{group}/namespaces/{}/{kind}", resource.namespace))?;
            if let Some(object) = left.first() {
                return Ok(Err(format!("{kind} {} is there", name_of(object))));
            }
        }
        Ok(Ok(()))
    })
}

/// Engine pods that are not on their way out, sorted.
pub(super) fn names_of(resource: &Resource<'_>) -> Result<Vec<String>> {
    let pods = resource.engine_pods()?;
    let mut names: Vec<String> = pods
        .iter()
        .filter(|pod| !is_leaving(pod))
        .map(|pod| name_of(pod).to_owned())
        .collect();
    names.sort();
    Ok(names)
}

/// The authorization header that a pod's admin port takes: the token of the resource's Secret.
pub(super) fn bearer(kubernetes: &Kubernetes, pod: &Value) -> Result<String> {
    let namespace = text(&pod["metadata"]["namespace"]);
    let resource = text(&pod["metadata"]["labels"][names::LABEL_DEPLOYMENT]);
    let word = format!("jsonpath={{.data.{}}}", names::ADMIN_TOKEN_KEY);
    let secret = format!("{resource}-plimsoll-admin");
    let encoded = kubernetes
        .kubectl
        .run(&[
            "--namespace",
            namespace,
            "get",
            "secret",
            &secret,
            "--output",
            &word,
        ])
        .with_context(|| format!("the admin token of {}", name_of(pod)))?;
    let token = process::stdout_with_input(
        &mut process::command("base64", ["--decode"]),
        Some(encoded.trim()),
    )?;
    Ok(format!("Bearer {}", token.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_and_without_labels() {
        let plain = sample("up 1").unwrap();
        assert_eq!((plain.name.as_str(), plain.value), ("up", 1.0));
        let labelled = sample("bytes{kind=\"a, b\",gpu=\"0\"} 1.5e3").unwrap();
        assert_eq!(labelled.labels["kind"], "a, b");
        assert_eq!(labelled.labels["gpu"], "0");
        assert!((labelled.value - 1500.0).abs() < f64::EPSILON);
        assert!(sample("nothing").is_err());
    }
}
