//! What became of the adapters of a resource, as the inspection and the engines say. Pure.

mod dynamic;

use plimsoll_crds::names::EXIT_ADAPTER_REFUSED;
use plimsoll_crds::v1alpha1::Reason;
use plimsoll_crds::v1alpha1::conditions::ConditionStatus::{self, False, True, Unknown};
use plimsoll_crds::v1alpha1::facts::AdapterFacts;
use plimsoll_crds::v1alpha1::report::{AdapterReport, EngineState, MemoryReport};

use crate::error::bounded;
use crate::facts::Facts;
use crate::inspect::Model;
use crate::outcome::Outcome;
use crate::pods::PodFacts;

/// Rows of status, as many as `spec.adapters` may have.
const ADAPTERS_MAX: usize = 8;
/// Of a digest, in a sentence: `sha256:` and twelve digits.
const DIGEST_CHARS: usize = 19;

/// The condition; None where no adapter is asked for.
pub(crate) fn ready(facts: &Facts, outcome: &Outcome) -> Option<(ConditionStatus, Reason, String)> {
    let spec = &facts.object.spec;
    if spec.adapters.is_empty() {
        return None;
    }
    let merged = spec.merged().next().map(|_| merged(facts, outcome));
    let dynamic = || dynamic::ready(facts, outcome.revision());
    Some(match (merged, spec.dynamic().next()) {
        (Some(merged), None) => merged,
        (None, _) => dynamic(),
        (Some((True, _, words)), Some(_)) => {
            let (status, reason, of_dynamic) = dynamic();
            (status, reason, format!("{of_dynamic}; merged: {words}"))
        }
        (Some(unready), Some(_)) => unready,
    })
}

/// What became of those that are merged into the weights.
fn merged(facts: &Facts, outcome: &Outcome) -> (ConditionStatus, Reason, String) {
    match &outcome.model {
        Model::Known(model, _) => match refused(facts, outcome) {
            Some(words) => (False, Reason::AdapterRefused, words),
            None => {
                let proved = proved(facts, outcome);
                let one = |of: &AdapterFacts| described(of, &proved);
                let mut each: Vec<String> = model.adapters.iter().map(one).collect();
                each.extend(doubted(facts, outcome));
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
    }
}

/// What the first engine of the wanted revision says that proved its adapters; or what status has of
/// that revision, while none of its engines has come past loading. Of an engine that loads, or failed,
/// nothing is taken: what it says may be why.
pub(crate) fn proved(facts: &Facts, outcome: &Outcome) -> Vec<AdapterReport> {
    let wanted = outcome.revision();
    let mut reports = loaded(facts, wanted).peekable();
    let rows = match (reports.peek(), &facts.status.weights) {
        (Some(_), _) => {
            let mut rows = reports.map(|(_, report)| &*report.adapters);
            rows.find(|rows| !rows.is_empty()).unwrap_or_default()
        }
        (None, Some(before))
            if wanted.is_some() && facts.status.update_revision.as_deref() == wanted =>
        {
            &*before.adapters
        }
        (None, _) => &[],
    };
    let is_asked = |of: &&AdapterReport| {
        let mut asked = facts.object.spec.adapters.iter();
        asked.any(|adapter| adapter.name == of.name)
    };
    let rows = rows.iter().filter(is_asked).take(ADAPTERS_MAX);
    rows.cloned().collect()
}

/// What engines of a revision say that have come past loading and did not fail.
fn loaded<'a>(
    facts: &'a Facts,
    revision: Option<&'a str>,
) -> impl Iterator<Item = (&'a PodFacts, &'a MemoryReport)> {
    let of_it = move |pod: &&PodFacts| Some(pod.revision.as_str()) == revision;
    let pods = facts.live_pods().filter(of_it);
    let reports = pods.filter_map(|pod| Some((pod, facts.report(pod)?)));
    reports.filter(|(_, report)| has_loaded(report.state))
}

/// Why an engine of the wanted revision would not serve the adapters if it were not told to.
fn doubted(facts: &Facts, outcome: &Outcome) -> Option<String> {
    let mut reports = loaded(facts, outcome.revision());
    let (pod, report) = reports.find(|(_, report)| !report.adapters_refused_for.is_empty())?;
    let why = bounded(&report.adapters_refused_for);
    Some(format!("pod {} serves all the same: {why}", pod.name))
}

/// Whether an engine holds what it says of adapters to be fit to be served.
fn has_loaded(state: EngineState) -> bool {
    match state {
        EngineState::Loading | EngineState::Failed => false,
        EngineState::Serving
        | EngineState::Paused
        | EngineState::Sleeping
        | EngineState::Asleep
        | EngineState::Waking
        | EngineState::Resizing
        | EngineState::Draining => true,
    }
}

/// An adapter in a clause: what it is, and its figures once an engine has them.
fn described(of: &AdapterFacts, proved: &[AdapterReport]) -> String {
    let digest: String = of.digest.chars().take(DIGEST_CHARS).collect();
    let about = format!("{}: {} tensors, {digest}", of.name, of.tensors);
    let percent = |per_million: u32| f64::from(per_million) / 1e4;
    let mut proved = proved.iter().filter(|report| report.name == of.name);
    match proved.next() {
        None => about,
        Some(report) => format!(
            "{about}, rank {}, {:.2}% of {} numbers changed, norm ratio {:.3}, {:.2}% lost to rounding{}",
            report.rank,
            percent(report.changed_per_million),
            report.numbers,
            f64::from(report.norm_ratio_per_million) / 1e6,
            percent(report.lost_per_million),
            compared(report),
        ),
    }
}

/// How far its answers are from those of base and adapters side by side.
fn compared(report: &AdapterReport) -> String {
    let apart = report.answers_apart_per_million;
    let percent = |per_million: u32| f64::from(per_million) / 1e4;
    match apart.zip(report.answers_apart_most_per_million) {
        Some((apart, most)) => format!(
            ", answers {:.4}% from unmerged ones ({:.4}% by rounding)",
            percent(apart),
            percent(most)
        ),
        None if report.answers_not_compared.is_empty() => String::new(),
        None => format!(
            ", answers not compared with unmerged ones: {}",
            report.answers_not_compared
        ),
    }
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
