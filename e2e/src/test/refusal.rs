//! What cannot fit is refused with the numbers and a remedy that holds.

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::paths;
use crate::test::observe::{PATIENCE, asked, await_service, names_of};
use crate::test::sleep::restarts;
use crate::test::sleep_asked::told_alone;
use crate::test::world::World;
use crate::test::{Passed, expect, expect_eq, tiny};

pub(super) fn remedied(world: &World<'_>) -> Passed {
    const LONGEST_TEXT: usize = 1000;
    let kubernetes = world.installed()?;
    let space = world.namespace("refused", "restricted")?;
    let resource = kubernetes.resource(&space.name, "refused");
    let file = paths::repository().join("examples/refused.yaml");
    kubernetes
        .kubectl
        .run(&["-n", &space.name, "apply", "-f", &file.to_string_lossy()])?;
    let condition = resource.await_condition("MemoryFits", "False", PATIENCE)?;
    expect(condition.message.len() <= LONGEST_TEXT, || {
        format!("the text has {} characters", condition.message.len())
    })?;
    expect(resource.engine_pods()?.is_empty(), || {
        "an engine pod exists".to_owned()
    })?;
    let sets = resource.owned(&format!(
        "/apis/apps/v1/namespaces/{}/replicasets",
        space.name
    ))?;
    expect(sets.is_empty(), || "a ReplicaSet exists".to_owned())?;
    let described =
        kubernetes
            .kubectl
            .run(&["-n", &space.name, "describe", "infd", resource.name])?;
    for quota in ["30Mi", "60Mi"] {
        expect(described.contains(quota), || {
            format!("{quota} is not shown:\n{described}")
        })?;
    }
    let stalled = resource
        .condition("Stalled")?
        .context("no Stalled condition")?;
    expect_eq("Stalled", &stalled.status.as_str(), &"True")?;
    let quotas = remedy(&condition.message)?;
    println!("           remedy: quotas {quotas:?}");
    let rows: Vec<Value> = quotas
        .iter()
        .map(|(rank, limit)| json!({"rank": rank, "limit": limit}))
        .collect();
    kubernetes.api.merge(
        &resource.path(),
        &json!({"spec": {"memory": {"gpuQuotas": rows}}}),
    )?;
    resource.await_ready(2 * PATIENCE)?;
    Ok(1)
}

/// The quotas that a refusal of `examples/refused.yaml` names: `limits of A and B by rank`, or one
/// rank's `gpuQuotas[rank=N].limit at least A`.
fn remedy(message: &str) -> Result<Vec<(u32, String)>> {
    let quantity = |word: &str| {
        let word = word.trim_end_matches([',', '.', ';', ')']);
        let end = word.strip_suffix("Mi").or(word.strip_suffix("Gi"))?;
        end.parse::<f64>().ok().map(|_| word.to_owned())
    };
    if let Some((_, rest)) = message.split_once("limits of ") {
        let list = rest.split(" by rank").next().unwrap_or_default();
        let found: Vec<String> = list.split([' ', ',']).filter_map(quantity).collect();
        return Ok((0..).zip(found).collect());
    }
    let mut rows = vec![(0, "30Mi".to_owned()), (1, "60Mi".to_owned())];
    let Some((_, rest)) = message.split_once("gpuQuotas[rank=") else {
        bail!("no remedy is named: {message}");
    };
    let rank: usize = rest.split(']').next().unwrap_or_default().parse()?;
    let limit = rest
        .split_whitespace()
        .find_map(quantity)
        .context("no quantity in the remedy")?;
    rows.get_mut(rank).context("a rank that does not exist")?.1 = limit;
    Ok(rows)
}

pub(super) fn change(world: &World<'_>) -> Passed {
    let kubernetes = tiny::installed(world)?;
    let space = world.namespace("refused-change", "restricted")?;
    let resource = kubernetes.resource(&space.name, "keeps");
    tiny::apply(&kubernetes, &space.name, &tiny::resource(resource.name))?;
    resource.await_ready(PATIENCE)?;
    let before = names_of(&resource)?;
    let restarts_of = |pods: &[Value]| pods.iter().map(restarts).collect::<Vec<_>>();
    let lives = restarts_of(&resource.engine_pods()?);
    let tight = json!({"spec": {"memory": {"gpuQuotas": [{"rank": 0, "limit": "1Mi"}]}}});
    kubernetes.api.merge(&resource.path(), &tight)?;
    resource.await_condition("MemoryFits", "False", PATIENCE)?;
    let available = resource.await_condition("Available", "True", PATIENCE)?;
    expect_eq("reason", &available.reason.as_str(), &"ReplicasAnswer")?;
    expect_eq("pods", &names_of(&resource)?, &before)?;
    let answer = asked(&kubernetes, resource, "tiny")?;
    expect_eq("answer", &answer.status, &200)?;
    let pod = before.first().context("no pod")?;
    let refused = "the spec is refused (MemoryFits says why)";
    told_alone(&kubernetes, resource, (pod, refused), || {
        let available = resource.await_condition("Available", "False", PATIENCE)?;
        expect_eq("reason", &available.reason.as_str(), &"Sleeping")?;
        let fits = resource.condition("MemoryFits")?.context("no MemoryFits")?;
        expect_eq("MemoryFits", &fits.status.as_str(), &"False")
    })?;
    await_service(&kubernetes, resource, "tiny")?;
    expect_eq("pods", &names_of(&resource)?, &before)?;
    let after = restarts_of(&resource.engine_pods()?);
    expect_eq("restarts", &after, &lives)?;
    Ok(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedies_are_read_in_both_forms() {
        let both = remedy("…; try spec.memory.gpuQuotas limits of 170Mi, 310Mi by rank.").unwrap();
        assert_eq!(both, [(0, "170Mi".to_owned()), (1, "310Mi".to_owned())]);
        let one = remedy("try spec.memory.gpuQuotas[rank=1].limit at least 300Mi, or").unwrap();
        assert_eq!(one, [(0, "30Mi".to_owned()), (1, "300Mi".to_owned())]);
        assert!(remedy("no way out").is_err());
    }
}
