//! The sleep that engines are told alone: those of other revisions than the newest, and all while the spec
//! leads to no revision or its rollout waits. Who sleeps is no matter of what runs. Pure.

use crate::build::{Prepared, config_map, sleep_order};
use crate::error::Error;
use crate::facts::Facts;
use crate::outcome::{Outcome, Planned};
use crate::steer::{Stand, steer, steer_sleep};

use super::{Desire, engines, soonest};

/// Steers the engines of other revisions than `newest` to the newest sleep, and brings it into the files
/// that they begin with. Without a newest one, says also how all stand to the newest target.
///
/// # Errors
/// A document cannot be encoded: a mistake of ours.
pub(super) fn steer_others(
    facts: &Facts,
    newest: Option<&str>,
    desire: &mut Desire,
) -> Result<(), Error> {
    let order = sleep_order(&facts.object);
    let steer = steer_sleep(order.generation, &engines::others(facts, newest));
    desire.look_again = soonest(desire.look_again, steer.look_again);
    desire.outcome.slept = steer.stand;
    desire.told_sleep = Some((order, steer.tell));
    if newest.is_none() {
        desire.outcome.told = left_alone(facts, &desire.outcome);
    }
    for revision in facts.files.keys() {
        if Some(revision.as_str()) != newest && lives(facts, revision) {
            desire.children.extend(file(facts, revision)?);
        }
    }
    Ok(())
}

/// The ConfigMap of a revision with the newest sleep, where it has another: an engine that starts again
/// begins asleep if it should, and awake if not. Its memory, and the generation of that, stay.
///
/// # Errors
/// A document cannot be encoded: a mistake of ours.
pub(super) fn file(facts: &Facts, revision: &str) -> Result<Option<Prepared>, Error> {
    let Some(files) = facts.files.get(revision) else {
        return Ok(None);
    };
    let order = sleep_order(&facts.object);
    let target = files.target.clone().with_sleep(&order);
    if target == files.target {
        return Ok(None);
    }
    let documents = (files.boot.as_str(), &target);
    config_map(&facts.object, &facts.identity, revision, documents).map(Some)
}

/// Whether the revision has pods, or is to have some.
fn lives(facts: &Facts, revision: &str) -> bool {
    let mut sets = facts.replica_sets.iter();
    sets.any(|set| set.revision == revision && set.replicas > 0)
        || facts.live_pods().any(|pod| pod.revision == revision)
}

/// How engines stand to the newest target that nobody tells them now.
fn left_alone(facts: &Facts, outcome: &Outcome) -> Stand {
    let generation = facts.identity.generation;
    match steer(generation, &engines::all(facts)).stand {
        Stand::Pending(_) => Stand::Pending(format!(
            "generation {generation} waits, and engines keep the memory that they have: {}",
            why(outcome)
        )),
        stand @ (Stand::Nobody | Stand::Applied(_) | Stand::Deferred(_) | Stand::Refused(_)) => {
            stand
        }
    }
}

fn why(outcome: &Outcome) -> &'static str {
    match &outcome.planned {
        Planned::Refused { .. } => "the spec is refused (MemoryFits says why)",
        Planned::Invalid(_) => "the spec cannot be used as it is (Ready says why)",
        Planned::Unresolved => "the model is not read (ModelResolved says why)",
        Planned::Fits { .. } => "the rollout waits for its turn",
    }
}
