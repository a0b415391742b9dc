//! What an old pod's leaving would do for a pod that has no place: read off the words of whoever
//! refuses it one (the scheduler, a quota), and off what the old pods hold. Pure.

use std::collections::BTreeMap;

use plimsoll_crds::v1alpha1::quantity::billionths;

use crate::pods::PodFacts;
use crate::pods::asks::Asks;
use crate::rolling::Cure;

/// What the scheduler says of a node where another pod stands in the way: of the same kind, at the
/// same port of the node, or with the same claim that one pod may have.
const OCCUPIED: [&str; 3] = ["pod anti-affinity", "free ports", "ReadWriteOncePod"];

/// What the scheduler's words say of all nodes together.
#[derive(Debug, Default, PartialEq, Eq)]
struct Verdict<'a> {
    nodes: u32,
    /// Resources that some node has too little of.
    lacks: Vec<&'a str>,
    /// Nodes that nothing else speaks against.
    full: u32,
    /// Something stands where the pod would, and it may be one of ours: a port, another replica.
    occupied: bool,
    /// Some node is out of service for now, and may be that of an old pod.
    ailing: bool,
    /// The pod is larger than every node: nobody's leaving helps.
    too_large: bool,
}

/// Such as `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't match Pod's node
/// affinity/selector. preemption: 0/3 nodes are available: 1 No preemption victims found for
/// incoming pod, 2 Preemption is not helpful for scheduling.`
fn verdict(words: &str) -> Verdict<'_> {
    let (filters, preemption) = words.split_once("preemption:").unwrap_or((words, ""));
    let mut verdict = Verdict::default();
    let Some((head, reasons)) = filters.split_once("nodes are available:") else {
        return verdict;
    };
    let nodes = head
        .trim()
        .rsplit('/')
        .next()
        .and_then(|count| count.trim().parse().ok());
    verdict.nodes = nodes.unwrap_or(0);
    for reason in reasons.split(". ").next().unwrap_or("").split(", ") {
        let reason = reason.trim().trim_end_matches('.');
        let Some((count, reason)) = reason.split_once(' ') else {
            continue;
        };
        let Ok(count) = count.parse::<u32>() else {
            continue;
        };
        let lacks = match reason {
            "Too many pods" => Some("pods"),
            _ => reason.strip_prefix("Insufficient "),
        };
        if let Some(resource) = lacks {
            verdict.lacks.push(resource);
            verdict.full = verdict.full.max(count);
        } else if OCCUPIED.iter().any(|words| reason.contains(words)) {
            verdict.occupied = true;
            verdict.full = verdict.full.max(count);
        } else if reason.contains("were unschedulable")
            || reason.contains("taint {node.kubernetes.io/")
        {
            verdict.ailing = true;
        }
    }
    // Since Kubernetes 1.33 the scheduler says for a pod that is larger than a node that clearing
    // the node would not help either.
    verdict.too_large = preemption.contains("Preemption is not helpful")
        && !preemption.contains("No preemption victims found");
    verdict
}

/// What the leaving of one of the `old` pods would do for a pod that `asks` for a node and gets
/// none, in the scheduler's `words`.
pub(crate) fn on_nodes(words: &str, asks: &Asks, old: &[&PodFacts]) -> Cure {
    let found = verdict(words);
    if found.too_large || (found.lacks.is_empty() && !found.occupied) {
        return Cure::Nothing;
    }
    // Which of them leaves is its ReplicaSet's choice: the worst counts.
    let placed = old.iter().filter(|pod| pod.node.is_some() && pod.counts());
    let cures = placed.map(|pod| {
        let held = &pod.asks;
        let same = held.placement == asks.placement;
        // A node that neither selector nor taint speaks against is the old pod's, if any is.
        if !same && found.full < found.nodes {
            return Cure::Nothing;
        }
        if found.lacks.iter().any(|name| held.of_resource(name) == 0) {
            return Cure::Nothing;
        }
        let enough = found
            .lacks
            .iter()
            .all(|name| asks.of_resource(name) <= held.of_resource(name));
        match enough && !found.occupied && !(found.ailing && found.full < found.nodes) {
            true => Cure::Sure,
            false => Cure::Perhaps,
        }
    });
    cures.min().unwrap_or(Cure::Nothing)
}

/// Whether a pod may lack what another one took, in the words of who refuses it a place: then the
/// other's leaving may cure it. A selector, a taint or a rule of admission is cured by nobody's
/// leaving, and may be by a spec with other words.
pub(crate) fn crowded(words: &str) -> Cure {
    let found = verdict(words);
    let lacks = !found.lacks.is_empty() || found.occupied;
    match (lacks && !found.too_large) || words.contains("exceeded quota:") {
        true => Cure::Perhaps,
        false => Cure::Nothing,
    }
}

/// The same for a pod that has a node, and whose volumes are not mounted there. A claim may be held
/// where an old pod runs, and nobody says so to us: a pod that answers is not stopped for a guess.
pub(crate) fn at_claims(pod: &PodFacts, old: &[&PodFacts]) -> Cure {
    let mut holders = holders(pod, old).peekable();
    match holders.peek().is_some() && holders.all(|old| !old.ready && !old.leaving()) {
        true => Cure::Perhaps,
        false => Cure::Nothing,
    }
}

/// The pods that have a claim of a pod's mounted on another node.
pub(crate) fn holders<'a>(
    pod: &'a PodFacts,
    others: &'a [&PodFacts],
) -> impl Iterator<Item = &'a PodFacts> {
    let shares = |other: &PodFacts| {
        let claims = &other.volumes.claims;
        claims
            .iter()
            .any(|claim| pod.volumes.claims.contains(claim))
    };
    let elsewhere = |other: &PodFacts| other.node.is_some() && other.node != pod.node;
    let mounted = others
        .iter()
        .copied()
        .filter(|it| it.unmounted_since.is_none());
    mounted.filter(move |it| !it.finished() && elsewhere(it) && shares(it))
}

/// The same for a pod that was not made, in the words of whoever refused it.
///
/// Such as `exceeded quota: team, requested: limits.memory=400Mi, used: limits.memory=400Mi,
/// limited: limits.memory=400Mi`.
pub(crate) fn in_quota(words: &str, old: &[&PodFacts]) -> Cure {
    let Some((_, quota)) = words.split_once("exceeded quota:") else {
        return Cure::Nothing;
    };
    let part = |name: &str, end: &str| -> BTreeMap<&str, u128> {
        let rest = quota.split_once(name).map_or("", |(_, rest)| rest);
        let rest = if end.is_empty() {
            rest
        } else {
            rest.split(end).next().unwrap_or("")
        };
        let pairs = rest
            .split(',')
            .filter_map(|pair| pair.trim().split_once('='));
        pairs
            .filter_map(|(name, amount)| Some((name, billionths(amount.trim()).ok()?)))
            .collect()
    };
    let requested = part("requested: ", ", used:");
    let (used, limited) = (part("used: ", ", limited:"), part("limited: ", ""));
    let fits = |pod: &&PodFacts| {
        requested.iter().all(|(name, asked)| {
            let (Some(used), Some(limit)) = (used.get(name), limited.get(name)) else {
                return false;
            };
            used.saturating_sub(pod.asks.of_resource(name)) + asked <= *limit
        })
    };
    let mut holders = old.iter().filter(|pod| pod.counts()).peekable();
    match !requested.is_empty() && holders.peek().is_some() && holders.all(fits) {
        true => Cure::Sure,
        false => Cure::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{engine_asking, ready};

    const OTHERS: &str = "0/3 nodes are available: 1 Insufficient memory, 2 node(s) didn't match \
        Pod's node affinity/selector. preemption: 0/3 nodes are available: 1 No preemption victims \
        found for incoming pod, 2 Preemption is not helpful for scheduling.";

    fn cure(words: &str, new: serde_json::Value, old: serde_json::Value) -> Cure {
        let (new, old) = (
            engine_asking("new", new, json!({})),
            engine_asking("old", old, ready()),
        );
        on_nodes(words, &new.asks, &[&old])
    }

    fn asks(memory: &str) -> serde_json::Value {
        json!({"containers": [{"name": "engine", "resources": {"requests": {"memory": memory}}}]})
    }

    #[test]
    fn an_old_pod_makes_way_only_for_what_it_holds() {
        let all = "0/1 nodes are available: 1 Insufficient memory.";
        let gpu = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. no new claims to \
            deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found.";
        let mut elsewhere = asks("400Mi");
        elsewhere["nodeSelector"] = json!({"disk": "ssd"});
        let mut with_gpu = asks("400Mi");
        with_gpu["containers"][0]["resources"]["requests"]["nvidia.com/gpu"] = json!("1");
        let large = "0/1 nodes are available: 1 Insufficient memory. preemption: 0/1 nodes are \
            available: 1 Preemption is not helpful for scheduling.";
        let cordoned =
            "0/2 nodes are available: 1 Insufficient memory, 1 node(s) were unschedulable.";
        let spread = "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules.";
        let claimed = "0/2 nodes are available: 2 node(s) unavailable due to \
            PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod.";
        for (words, new, old, wanted) in [
            (all, asks("400Mi"), asks("400Mi"), Cure::Sure),
            (all, asks("500Mi"), asks("400Mi"), Cure::Perhaps),
            (all, asks("400Mi"), elsewhere.clone(), Cure::Sure),
            (OTHERS, asks("400Mi"), asks("0.4Gi"), Cure::Sure),
            (OTHERS, elsewhere, asks("400Mi"), Cure::Nothing),
            (large, asks("9Ti"), asks("400Mi"), Cure::Nothing),
            (gpu, with_gpu.clone(), asks("400Mi"), Cure::Nothing),
            (gpu, with_gpu.clone(), with_gpu, Cure::Sure),
            (cordoned, asks("400Mi"), asks("400Mi"), Cure::Perhaps),
            (spread, asks("400Mi"), asks("400Mi"), Cure::Perhaps),
            (claimed, asks("400Mi"), asks("400Mi"), Cure::Perhaps),
        ] {
            assert_eq!(cure(words, new, old), wanted, "{words}");
        }
        for words in [
            "",
            "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector. \
             preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
            "0/1 nodes are available: 1 node(s) had untolerated taint {gpu: only}.",
            "0/1 nodes are available: 1 node(s) had volume node affinity conflict.",
            "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
            "Scheduling is blocked due to non-empty scheduling gates",
        ] {
            assert_eq!(
                cure(words, asks("1Mi"), asks("1Mi")),
                Cure::Nothing,
                "{words}"
            );
        }
    }

    #[test]
    fn a_quota_is_room_where_an_old_pods_share_is_enough() {
        let mut spec = asks("400Mi");
        spec["containers"][0]["resources"]["limits"] = json!({"memory": "400Mi"});
        let old = engine_asking("old", spec, ready());
        let words = |asked: &str, used: &str, hard: &str| {
            format!(
                "pods \"chat-1-x\" is forbidden: exceeded quota: team, requested: \
                 limits.memory={asked},pods=1, used: limits.memory={used},pods=1, limited: \
                 limits.memory={hard},pods=1"
            )
        };
        for (words, wanted) in [
            (words("419430400", "419430400", "400Mi"), Cure::Sure),
            (words("500Mi", "400Mi", "500Mi"), Cure::Sure),
            (words("500Mi", "400Mi", "400Mi"), Cure::Nothing),
            (words("400Mi", "900Mi", "800Mi"), Cure::Nothing),
            (
                "pods \"x\" is forbidden: violates PodSecurity".to_owned(),
                Cure::Nothing,
            ),
            (
                "exceeded quota: team, requested: , used: , limited: ".to_owned(),
                Cure::Nothing,
            ),
            (
                "exceeded quota: team, requested: a=b".to_owned(),
                Cure::Nothing,
            ),
        ] {
            assert_eq!(in_quota(&words, &[&old]), wanted, "{words}");
        }
        assert_eq!(in_quota(&words("1", "1", "1"), &[]), Cure::Nothing);
    }
}
