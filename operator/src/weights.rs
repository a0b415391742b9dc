//! Which weights the engines answer with, as they say themselves. Pure.

use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::conditions::ConditionStatus::{self, False, True};
use plimsoll_crds::v1alpha1::weights::{WeightsRow, WeightsStatus};
use plimsoll_crds::v1alpha1::{ConditionType, Reason};

use crate::adapters;
use crate::facts::Facts;
use crate::outcome::Outcome;
use crate::pods::PodFacts;

/// None while no engine has weights.
pub(crate) fn status(facts: &Facts, outcome: &Outcome) -> Option<WeightsStatus> {
    let rows = rows(facts);
    let first = rows.first()?.version.clone();
    let agree = rows.iter().all(|row| row.version == first);
    Some(WeightsStatus {
        version: agree.then_some(first),
        adapters: adapters::proved(facts, outcome),
        pods: rows.into_iter().take(names::STATUS_ROWS).collect(),
    })
}

/// Of all pods: status has no room for more than some.
fn rows(facts: &Facts) -> Vec<WeightsRow> {
    let pods = facts.live_pods();
    pods.filter_map(|pod| row(facts, pod)).collect()
}

/// Of the pod's newest report, or what status has from before.
fn row(facts: &Facts, pod: &PodFacts) -> Option<WeightsRow> {
    let Some(report) = facts.report(pod) else {
        let before = facts.status.weights.as_ref()?;
        return before.pods.iter().find(|row| row.pod == pod.name).cloned();
    };
    let version = &report.weight_version;
    (!version.is_empty()).then(|| WeightsRow {
        pod: pod.name.clone(),
        version: version.chars().take(VERSION_CHARS).collect(),
        verified: report.weights_verified,
    })
}

/// An engine's own bound on a version is 256 bytes.
const VERSION_CHARS: usize = 256;

/// The condition; None before the first engine was woken or updated.
pub(crate) fn verified(facts: &Facts) -> Option<(ConditionStatus, Reason, String)> {
    let rows = rows(facts);
    let wrong = rows.iter().find(|row| row.verified == Some(false));
    if let Some(row) = wrong {
        let pod = facts.live_pods().find(|pod| pod.name == row.pod);
        let said = pod
            .and_then(|pod| facts.report(pod))
            .map(|report| report.message.as_str());
        let said = said.filter(|said| !said.is_empty()).map(str::to_owned);
        let why = said.or_else(|| words_before(facts)).unwrap_or_else(|| {
            format!(
                "pod {}: the weights that it holds are not whole; it does not answer",
                row.pod
            )
        });
        let why = match why.starts_with("pod ") {
            true => why,
            false => format!("pod {}: {why}", row.pod),
        };
        return Some((False, Reason::NotAsLoaded, why));
    }
    rows.iter().any(|row| row.verified == Some(true)).then(|| {
        let text = "weights and answers are what they were after the load, or the last update, of \
                    every engine that was woken or updated";
        (True, Reason::AsLoaded, text.to_owned())
    })
}

/// What the condition says since the pod reported last.
fn words_before(facts: &Facts) -> Option<String> {
    let mut conditions = facts.status.conditions.iter();
    let kind = ConditionType::WeightsVerified.as_str();
    let before = conditions.find(|before| before.type_ == kind && before.status == "False");
    before.map(|before| before.message.clone())
}
