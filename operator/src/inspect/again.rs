//! When a model that is known is read again. Pure.
//!
//! A source is read when it is first seen or changes, after each failure, and when an engine of
//! the wanted revision finds other files than were inspected: the tag was moved, or the claim
//! filled anew. An engine that runs has its files open, and nothing is asked of the source then.

use std::time::Duration;

use plimsoll_crds::names::EXIT_OTHER_FILES;

use super::{Decision, Model, look_at};
use crate::facts::Facts;
use crate::memory::Reread;
use crate::pods::{PodFacts, age};

/// Decides about a model that is `known`. What runs goes on with that until another was read.
pub(super) fn reread(
    facts: &Facts,
    key: &str,
    name: String,
    ours: &[&PodFacts],
    mut known: Decision,
) -> Decision {
    let here: Vec<&PodFacts> = ours.iter().copied().filter(|pod| !pod.leaving()).collect();
    if !files_changed(facts) {
        known
            .discard
            .extend(here.iter().map(|pod| pod.name.clone()));
        return known;
    }
    known.reread = facts.reread;
    let Some(pod) = here.first() else {
        let rest = facts.reread.map_or(Duration::ZERO, |before| {
            age(Some(facts.now), before.again_at)
        });
        match rest {
            // One that is going has the name still.
            Duration::ZERO => known.start = ours.is_empty().then_some(name),
            rest => known.look_again = Some(rest),
        }
        return known;
    };
    let before = known.model.clone();
    let seen = look_at(facts, key, pod, |model| Decision { model, ..known });
    match &seen.model {
        Model::Known(..) if seen.model != before => seen,
        Model::Known(..) | Model::Failed(_) => {
            let again = Reread::after(facts.reread, facts.now);
            Decision {
                model: before,
                look_again: Some(age(Some(facts.now), again.again_at)),
                reread: Some(again),
                ..seen
            }
        }
        Model::Inspecting(_) | Model::Held(..) | Model::Unavailable(_) => Decision {
            model: before,
            ..seen
        },
    }
}

/// Whether an engine of the wanted revision found other files than it was configured for: it says so
/// by its exit code. One that has started since then has found the right ones.
fn files_changed(facts: &Facts) -> bool {
    let wanted = facts.status.update_revision.as_deref();
    let refuses = |pod: &PodFacts| {
        let ended = pod.engine.ended.as_ref();
        let code = ended.map(|ended| ended.exit_code);
        code == Some(EXIT_OTHER_FILES.into()) && !pod.engine.started
    };
    facts
        .live_pods()
        .any(|pod| Some(pod.revision.as_str()) == wanted && refuses(pod))
}
