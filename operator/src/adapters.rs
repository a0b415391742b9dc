//! What became of the adapters of a resource, as the inspection and the engines say. Pure.

use plimsoll_crds::names::EXIT_ADAPTER_REFUSED;
use plimsoll_crds::v1alpha1::Reason;
use plimsoll_crds::v1alpha1::conditions::ConditionStatus::{self, False, True, Unknown};
use plimsoll_crds::v1alpha1::facts::AdapterFacts;

use crate::facts::Facts;
use crate::inspect::Model;
use crate::outcome::Outcome;
use crate::pods::PodFacts;

/// The condition; None where no adapter is asked for.
pub(crate) fn ready(facts: &Facts, outcome: &Outcome) -> Option<(ConditionStatus, Reason, String)> {
    if facts.object.spec.adapters.is_empty() {
        return None;
    }
    let one = |of: &AdapterFacts| format!("{}: {} tensors, {}", of.name, of.tensors, of.digest);
    Some(match &outcome.model {
        Model::Known(model, _) => match refused(facts, outcome) {
            Some(words) => (False, Reason::AdapterRefused, words),
            None => {
                let each: Vec<String> = model.adapters.iter().map(one).collect();
                (True, Reason::AdaptersMerged, each.join("; "))
            }
        },
        Model::Failed(failure) if failure.reason == Reason::AdapterInvalid => {
            (False, Reason::AdapterInvalid, failure.message.clone())
        }
        Model::Failed(_) | Model::Inspecting(_) | Model::Held(..) | Model::Unavailable(_) => {
            let text = "the adapters are read with the model, see ModelResolved".to_owned();
            (Unknown, Reason::ModelUnresolved, text)
        }
    })
}

/// The words of an engine of the wanted revision that ended for an adapter's sake, and did not come
/// further since.
fn refused(facts: &Facts, outcome: &Outcome) -> Option<String> {
    let wanted = outcome.revision();
    let said = |pod: &PodFacts| {
        let ended = pod.engine.ended.as_ref()?;
        let refuses = ended.exit_code == i32::from(EXIT_ADAPTER_REFUSED) && !pod.engine.started;
        refuses.then(|| format!("pod {}: {}", pod.name, ended.message.trim()))
    };
    facts
        .live_pods()
        .filter(|pod| Some(pod.revision.as_str()) == wanted)
        .find_map(said)
}
