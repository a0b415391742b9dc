//! What a person wants to see when something on the cluster went wrong: pods, events, ends of logs.

use anyhow::Result;
use serde_json::Value;

use crate::kube::Kubernetes;
use crate::process;

/// Prints the state of some namespaces. Never fails: it runs when something already has.
pub(crate) fn print(kubernetes: &Kubernetes, namespaces: &[&str]) {
    println!("--- what the cluster looks like");
    for namespace in namespaces {
        if let Err(error) = print_namespace(kubernetes, namespace) {
            println!("    {namespace}: {error:#}");
        }
    }
    println!("---");
}

fn print_namespace(kubernetes: &Kubernetes, namespace: &str) -> Result<()> {
    let api = &kubernetes.api;
    let pods = api.list(&format!("/api/v1/namespaces/{namespace}/pods"))?;
    for pod in &pods {
        println!(
            "pod {namespace}/{} {}",
            text(&pod["metadata"]["name"]),
            summary(pod)
        );
    }
    let mut events = api.list(&format!("/api/v1/namespaces/{namespace}/events"))?;
    events.sort_by_key(|event| text(&event["lastTimestamp"]).to_owned());
    for event in events.iter().rev().take(12).rev() {
        println!(
            "event {}/{} {}: {}",
            text(&event["involvedObject"]["kind"]),
            text(&event["involvedObject"]["name"]),
            text(&event["reason"]),
            text(&event["message"])
        );
    }
    // Pods that are well have nothing to explain, unless they are few.
    const FEW: usize = 4;
    let talking = pods
        .iter()
        .filter(|pod| pods.len() <= FEW || !is_ready(pod))
        .take(FEW);
    for pod in talking {
        for container in containers(pod) {
            let (name, container) = (text(&pod["metadata"]["name"]), text(&container["name"]));
            let path = format!(
                "/api/v1/namespaces/{namespace}/pods/{name}/log?container={container}&tailLines=15"
            );
            if let Ok(log) = api.text(&path) {
                println!(
                    "log of {namespace}/{name} {container}:\n{}",
                    process::tail(&log, 15)
                );
            }
        }
    }
    Ok(())
}

fn summary(pod: &Value) -> String {
    let mut line = text(&pod["status"]["phase"]).to_owned();
    for container in containers(pod) {
        line += &format!(
            " [{} ready={} restarts={} {}]",
            text(&container["name"]),
            container["ready"],
            container["restartCount"],
            container["state"]
        );
    }
    for condition in pod["status"]["conditions"].as_array().into_iter().flatten() {
        if condition["status"] == "False" && condition["message"].is_string() {
            line += &format!(
                " {}: {}",
                text(&condition["type"]),
                text(&condition["message"])
            );
        }
    }
    line
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|all| {
        all.iter()
            .any(|it| it["type"] == "Ready" && it["status"] == "True")
    })
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainerStatuses", "containerStatuses"]
        .into_iter()
        .flat_map(|list| pod["status"][list].as_array().into_iter().flatten())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
