//! Revisions as rolling sees them: ReplicaSets and pods from the facts, each pod without a place
//! with what an old one's leaving would do for it.

use std::time::Duration;

use crate::build::spec_hash;
use crate::facts::{Facts, ReplicaSetFacts};
use crate::pods::volumes::Mounting;
use crate::pods::{PodFacts, age};
use crate::rolling::{self, Cure, PodPhase, RevisionPods};
use crate::room;
use crate::sleepers::in_place;
use crate::turns::Stand;

/// The revision of a ReplicaSet. `wanted` is the revision that the spec asks for: its pods are
/// those that old ones may make way for.
pub(super) fn of_set(facts: &Facts, set: &ReplicaSetFacts, wanted: &str) -> RevisionPods {
    let mut pods = pods(facts, &set.revision, wanted);
    if let Some(words) = &set.failure {
        let old = others(facts, wanted);
        let made = pods.iter().filter(|pod| **pod != PodPhase::Leaving).count();
        let missing = (set.replicas as usize).saturating_sub(made);
        let unmade = PodPhase::Unmade {
            for_: age(set.failing_since, facts.now),
            cure: match set.revision == wanted {
                true => room::in_quota(words, &old),
                false => room::crowded(words),
            },
        };
        pods.extend(std::iter::repeat_n(unmade, missing));
    }
    RevisionPods {
        revision: set.revision.clone(),
        replicas: set.replicas,
        answered: set.answered || answers(facts, &set.revision),
        pods,
    }
}

/// Whether a pod of the revision is known to have answered.
pub(super) fn answers(facts: &Facts, revision: &str) -> bool {
    let mut pods = facts.pods.iter().filter(|pod| pod.revision == revision);
    pods.any(|pod| pod.answered)
}

fn pods(facts: &Facts, revision: &str, wanted: &str) -> Vec<PodPhase> {
    let old = others(facts, wanted);
    let pods = facts.pods.iter().filter(|pod| pod.revision == revision);
    let cure = |pod: &PodFacts| cure(facts, pod, (revision == wanted).then_some(&old));
    pods.filter_map(|pod| match pod.counts() && in_place(facts, pod) {
        // A sleeper holds its place as one that answers does.
        true => Some(PodPhase::Ready),
        false => pod.rolling(facts.now, cure(pod)),
    })
    .collect()
}

/// When a pod whose volumes are on their way counts as one without a place.
pub(super) fn next_late(facts: &Facts) -> Option<Duration> {
    let rests = facts.pods.iter().map(|pod| pod.mounting(facts.now));
    rests
        .filter_map(|mounting| match mounting {
            Mounting::Begun(rest) => Some(rest),
            Mounting::No | Mounting::Late(_) => None,
        })
        .min()
}

/// What would cure a pod that has no place; `None` where it has one. `old` are the pods that may
/// make way for it; for an old one, whether a new one may have crowded it out.
fn cure(facts: &Facts, pod: &PodFacts, old: Option<&Vec<&PodFacts>>) -> Option<Cure> {
    let Some(waits) = pod.unschedulable.as_ref() else {
        let late = matches!(pod.mounting(facts.now), Mounting::Late(_));
        // An old one is not crowded out by what may mend it: another claim, say.
        return old.filter(|_| late).map(|old| room::at_claims(pod, old));
    };
    // Who put the gates there knows what they wait for; we do not.
    if !waits.gates.is_empty() {
        return Some(Cure::Nothing);
    }
    Some(match old {
        Some(old) => room::on_nodes(&waits.message, &pod.asks, old),
        None => room::crowded(&waits.message),
    })
}

/// How the resource stands to its turn: whether going on to the revision `wanted` is a rollout that
/// the spec did not ask for, and whether it is under way.
pub(super) fn stand(facts: &Facts, wanted: &str) -> Stand {
    let spec = spec_hash(&facts.object);
    let status = &facts.status;
    let settled = status.observed_generation == Some(facts.identity.generation);
    let (new, old): (Vec<&ReplicaSetFacts>, Vec<&ReplicaSetFacts>) = facts
        .replica_sets
        .iter()
        .partition(|set| set.revision == wanted);
    let runs = || old.iter().filter(|set| set.replicas > 0);
    let begun = new.iter().any(|set| set.replicas > 0);
    if !begun {
        // Of a set that does not say so, the status tells whether it is what this spec led to.
        let unasked = |set: &&&ReplicaSetFacts| match set.spec.is_empty() {
            true => settled && status.update_revision.as_ref() == Some(&set.revision),
            false => set.spec == spec,
        };
        return match runs().any(|set| unasked(&set)) {
            true => Stand::Wants,
            false => Stand::Idle,
        };
    }
    let same = |set: &&ReplicaSetFacts| match set.spec.is_empty() {
        true => set.replicas > 0,
        false => set.spec == spec,
    };
    let live = |wanted_one: bool| {
        let pods = facts.live_pods();
        pods.filter(move |pod| (pod.revision == wanted) == wanted_one)
    };
    let ready = live(true).filter(|pod| in_place(facts, pod)).count();
    let finished = ready >= facts.wanted() as usize && live(false).next().is_none();
    match old.iter().any(same) && !finished {
        true => Stand::Rolls,
        false => Stand::Idle,
    }
}

/// The revision that runs while the next one waits for its turn.
pub(super) fn running(facts: &Facts) -> Option<String> {
    let runs = |revision: &String| {
        let mut sets = facts.replica_sets.iter();
        sets.any(|set| set.revision == *revision && set.replicas > 0)
    };
    let told = facts.status.update_revision.clone().filter(runs);
    let newest = || facts.replica_sets.iter().rfind(|set| set.replicas > 0);
    told.or_else(|| Some(newest()?.revision.clone()))
}

/// Pods of other revisions than `wanted`.
fn others<'a>(facts: &'a Facts, wanted: &str) -> Vec<&'a PodFacts> {
    facts
        .pods
        .iter()
        .filter(|pod| pod.revision != wanted)
        .collect()
}

/// What runs stays, and its number follows the spec: counts by name of the ReplicaSet.
pub(super) fn leave_alone(facts: &Facts) -> Vec<(String, u32)> {
    let alive = facts.replica_sets.iter().filter(|set| set.replicas > 0);
    let (names, revisions): (Vec<String>, Vec<RevisionPods>) = alive
        .map(|set| (set.name.clone(), of_set(facts, set, "")))
        .unzip();
    names
        .into_iter()
        .zip(rolling::rescale(facts.wanted(), &revisions))
        .collect()
}

/// ReplicaSets that pods have answered of, and that do not say so yet.
pub(super) fn to_note(facts: &Facts) -> Vec<String> {
    let sets = facts.replica_sets.iter();
    let new = sets.filter(|set| !set.answered && answers(facts, &set.revision));
    new.map(|set| set.name.clone()).collect()
}
