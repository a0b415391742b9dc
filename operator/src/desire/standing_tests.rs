//! Splits that stand: which changes keep them, and what is said where another would hold more.

use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::spec::Resplit;
use plimsoll_crds::v1alpha1::{Boot, InferenceDeployment, Reason};

use super::*;
use crate::status::status;
use crate::testing::*;

const PATIENCE: Duration = Duration::from_secs(60);

fn desired(facts: &Facts) -> Desire {
    desire(facts, &settings(), "token", PATIENCE).unwrap()
}

/// The newest revision and its document.
fn newest(desire: &Desire) -> (String, Boot) {
    let mut maps = desire.children.iter();
    let map = maps.rfind(|child| child.kind == ChildKind::ConfigMap);
    let text = &map.unwrap().object["data"][names::BOOT_KEY];
    let boot = serde_json::from_str(text.as_str().unwrap()).unwrap();
    (desire.outcome.revision().unwrap().to_owned(), boot)
}

/// The example's two ranks of 300 and 700 MiB, answering in pods of two.
fn running() -> (Facts, Boot) {
    let mut facts = inspected(SMOLLM2);
    let (revision, boot) = newest(&desired(&facts));
    facts.replica_sets = vec![replica_set(&format!("smollm2-{revision}"), &revision, 2)];
    facts.pods = ["a", "b"]
        .map(|pod| engine(pod, &revision, ready()))
        .to_vec();
    facts.boots.insert(revision, boot.clone());
    (facts, boot)
}

fn changed(facts: &Facts, change: impl FnOnce(&mut InferenceDeployment)) -> Facts {
    let mut facts = facts.clone();
    let mut object = (*facts.object).clone();
    change(&mut object);
    object.metadata.generation = Some(4);
    facts.identity.generation = 4;
    facts.object = object.into();
    facts
}

fn quotas(object: &mut InferenceDeployment, limits: [&str; 2]) {
    for (row, limit) in object.spec.memory.gpu_quotas.iter_mut().zip(limits) {
        row.limit.0 = limit.to_owned();
    }
}

fn with_quotas(facts: &Facts, limits: [&str; 2]) -> Facts {
    changed(facts, |object| quotas(object, limits))
}

fn memory_limit(desire: &Desire) -> String {
    let mut sets = desire.children.iter();
    let set = sets.rfind(|child| child.kind == ChildKind::ReplicaSet);
    let pod = &set.unwrap().object["spec"]["template"]["spec"];
    let limits = &pod["containers"][0]["resources"]["limits"];
    limits["memory"].as_str().unwrap().to_owned()
}

#[test]
fn new_memory_keeps_split_pods_and_document_and_moves_target_and_limit() {
    let (facts, boot) = running();
    let before = desired(&facts);
    assert_eq!(newest(&before).1, boot);
    type Change = fn(&mut InferenceDeployment);
    let table: [(Change, bool); 5] = [
        (|object| quotas(object, ["320Mi", "760Mi"]), true),
        (|object| quotas(object, ["280Mi", "640Mi"]), true),
        (|object| quotas(object, ["300Mi", "900Mi"]), true),
        (
            |object| object.spec.memory.gpu_memory_utilization = 0.5,
            false,
        ),
        (
            |object| {
                let size = &mut object.spec.memory.kv_cache.size;
                *size = Some(serde_json::from_value("200Mi".into()).unwrap());
            },
            false,
        ),
    ];
    for (index, (change, moves_limit)) in table.into_iter().enumerate() {
        let after = desired(&changed(&facts, change));
        assert_eq!(newest(&after), newest(&before), "{index}");
        let (target, _) = after.told.as_ref().unwrap();
        let (old, _) = before.told.as_ref().unwrap();
        assert!(!target.same_demand(old), "{index}");
        let moved = memory_limit(&after) != memory_limit(&before);
        assert_eq!(moved, moves_limit, "{index}");
        assert_eq!(after.replicas, before.replicas, "no surge: {index}");
        assert_eq!(after.stand, Stand::Idle, "{index}");
    }
}

#[test]
fn a_split_that_does_not_hold_is_given_up_refused_or_replaced_as_the_spec_says() {
    let (facts, _) = running();
    let revision = newest(&desired(&facts)).0;
    let asked = |resplit: Resplit, limits: [&str; 2]| {
        let facts = changed(&facts, |object| {
            quotas(object, limits);
            object.spec.parallelism.resplit = resplit;
        });
        let desire = desired(&facts);
        let status = status(&facts, &desire.outcome);
        (desire, status)
    };
    // Mirrored: rank 1 cannot hold two of three heads, their columns and rows any more.
    let swapped = ["700Mi", "200Mi"];
    let (auto, _) = asked(Resplit::Auto, swapped);
    assert_ne!(auto.outcome.revision(), Some(revision.as_str()));
    assert!(auto.outcome.revision().is_some());
    let (never, told) = asked(Resplit::Never, swapped);
    let Planned::Refused { reason, message } = &never.outcome.planned else {
        panic!("{:?}", never.outcome.planned)
    };
    assert_eq!(*reason, Reason::QuotaTooSmall);
    for words in [
        "rank 1 needs",
        "200.00 MiB",
        "resplit: Never",
        "Auto restarts",
    ] {
        assert!(message.contains(words), "{words}: {message}");
    }
    assert_eq!(told.update_revision, None, "nothing was planned before");
    assert_eq!(never.replicas, desired(&facts).replicas);
    // Where it holds, and another would hold more.
    let uneven = ["900Mi", "500Mi"];
    for resplit in [Resplit::Auto, Resplit::Never] {
        let (kept, told) = asked(resplit, uneven);
        assert_eq!(kept.outcome.revision(), Some(revision.as_str()));
        let gain = told.memory.unwrap().restart.unwrap();
        assert!(gain.gained_tokens > 0, "{gain:?}");
        assert_eq!(gain.tokens, gain.kept_tokens + gain.gained_tokens);
        let fits = told.conditions.iter().find(|it| it.type_ == "MemoryFits");
        let words = format!("a restart would make it {} tokens", gain.tokens);
        assert!(fits.unwrap().message.contains(&words), "{fits:?}");
    }
    let (always, told) = asked(Resplit::Always, uneven);
    assert_ne!(always.outcome.revision(), Some(revision.as_str()));
    assert_eq!(told.memory.unwrap().restart, None);
    // The best split is the one that stands.
    let (always, _) = asked(Resplit::Always, ["300Mi", "700Mi"]);
    assert_eq!(always.outcome.revision(), Some(revision.as_str()));
}

#[test]
fn who_restarts_anyway_takes_the_best_split() {
    let (facts, boot) = running();
    let uneven = with_quotas(&facts, ["900Mi", "500Mi"]);
    assert_eq!(newest(&desired(&uneven)).1.split, boot.split);
    let best = |change: fn(&mut InferenceDeployment)| {
        let after = newest(&desired(&changed(&uneven, change))).1;
        assert_ne!(after.split.ranks, boot.split.ranks);
    };
    best(|object| object.spec.limits.max_num_seqs = 8);
    best(|object| object.spec.model.served_names = vec!["other".to_owned()]);
    best(|object| {
        let template = object.spec.template.get_or_insert_default();
        template.metadata.get_or_insert_default().labels =
            [("a".to_owned(), "b".to_owned())].into();
    });
    // Nobody runs who could keep it.
    let mut stopped = uneven.clone();
    stopped.replica_sets[0].replicas = 0;
    stopped.pods.clear();
    assert_ne!(newest(&desired(&stopped)).1.split.ranks, boot.split.ranks);
    // Of two, the one that status calls the newest.
    let mut two = uneven.clone();
    let (other, document) = newest(&desired(&stopped));
    let set = replica_set(&format!("smollm2-{other}"), &other, 1);
    two.replica_sets.push(set);
    two.boots.insert(other.clone(), document);
    assert_eq!(newest(&desired(&two)).0, other);
    two.status.update_revision = facts.replica_sets.first().map(|set| set.revision.clone());
    assert_eq!(newest(&desired(&two)).1.split, boot.split);
}

#[test]
fn a_document_that_somebody_changed_is_not_believed() {
    let (facts, boot) = running();
    let uneven = with_quotas(&facts, ["900Mi", "500Mi"]);
    let free = newest(&desired(&with_quotas(
        &inspected(SMOLLM2),
        ["900Mi", "500Mi"],
    )));
    let harms: [fn(&mut Boot); 3] = [
        |boot| boot.split.made_for.budget_bytes = vec![1 << 40, 1],
        |boot| boot.split.made_for.budget_bytes.clear(),
        |boot| boot.split.ranks[0].kv_heads = [7, 3],
    ];
    for harm in harms {
        let mut facts = uneven.clone();
        harm(facts.boots.values_mut().next().unwrap());
        assert_eq!(newest(&desired(&facts)), free);
    }
    // Nor is what its split was made for where a free plan comes to the same split.
    let mut same = facts.clone();
    let known = same.boots.values_mut().next().unwrap();
    known.split.made_for.budget_bytes = vec![1 << 40, 1];
    assert_eq!(newest(&desired(&same)).1, boot);
}

#[test]
fn a_cluster_that_cannot_resize_pods_replaces_them() {
    let still = PodSettings {
        resize: false,
        ..settings()
    };
    let (facts, _) = running();
    let name = |facts: &Facts| {
        let desire = desire(facts, &still, "token", PATIENCE).unwrap();
        newest(&desire).0
    };
    let first = name(&facts);
    assert_eq!(
        name(&changed(&facts, |_| {})),
        first,
        "a generation is no reason"
    );
    assert_ne!(name(&with_quotas(&facts, ["320Mi", "760Mi"])), first);
}

#[test]
fn a_pod_with_resources_of_its_own_is_replaced_unless_the_user_wrote_the_engines_limit() {
    let engine = "engine: {resources: {limits: {memory: 3Gi}}}, ";
    for (engine, stays) in [("", false), (engine, true)] {
        let resources = "spec: {resources: {limits: {memory: 8Gi}}}";
        let yaml = format!("{SMOLLM2}  template: {{{engine}{resources}}}\n");
        let mut facts = inspected(&yaml);
        let (revision, boot) = newest(&desired(&facts));
        facts.replica_sets = vec![replica_set(&format!("smollm2-{revision}"), &revision, 1)];
        facts.pods = vec![crate::testing::engine("a", &revision, ready())];
        facts.boots.insert(revision.clone(), boot);
        let same = changed(&facts, |_| {});
        assert_eq!(newest(&desired(&same)).0, revision);
        let after = desired(&with_quotas(&facts, ["320Mi", "760Mi"]));
        assert_eq!(newest(&after).0 == revision, stays, "{engine}");
        assert!(after.limits.is_empty(), "nobody resizes it");
    }
}
