//! Conditions of a resource, told from facts and outcome. Pure. `lastTransitionTime` moves only
//! when a condition's status flips.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use plimsoll_crds::v1alpha1::conditions::ConditionStatus::{self, False, True, Unknown};
use plimsoll_crds::v1alpha1::{ConditionType, ModelFacts, Reason};
use plimsoll_planner::Bytes;

use crate::adapters;
use crate::enforcement;
use crate::facts::Facts;
use crate::inspect::Model;
use crate::outcome::{Outcome, Planned};
use crate::plan::short;
use crate::progress::{Progress, progress};
use crate::sleepers::{self, Sleepers};
use crate::steer::Stand;
use crate::weights;

/// One verdict: a status, its reason and its words.
type Verdict = (ConditionStatus, Reason, String);

/// All conditions of a resource, in the order of the API's table.
pub(crate) fn conditions(facts: &Facts, outcome: &Outcome) -> Vec<Condition> {
    let (ready, stalled) = ready(facts, outcome);
    let waits = ready.0 != True;
    let asleep = ready.1 == Reason::Sleeping;
    let reconciling = match &outcome.waits {
        Some(words) if !waits || asleep => Some((True, Reason::WaitingForTurn, words.clone())),
        // Asleep as asked: there is nothing to wait for.
        _ => (waits && !stalled && !asleep).then(|| (True, ready.1, ready.2.clone())),
    };
    let stalled = (waits && stalled).then(|| (True, ready.1, ready.2.clone()));
    let verdicts = [
        (ConditionType::Ready, Some(ready)),
        (ConditionType::Available, Some(available(facts, asleep))),
        (
            ConditionType::ModelResolved,
            Some(model_resolved(facts, outcome)),
        ),
        (
            ConditionType::AdaptersReady,
            adapters::ready(facts, outcome),
        ),
        (ConditionType::MemoryFits, Some(memory_fits(outcome))),
        (
            ConditionType::QuotaEnforced,
            Some(enforcement::enforced(facts, outcome)),
        ),
        (ConditionType::MemoryPressure, Some(memory_pressure(facts))),
        (
            ConditionType::TargetApplied,
            Some(target_applied(facts, outcome)),
        ),
        (ConditionType::WeightsVerified, weights::verified(facts)),
        (ConditionType::Reconciling, reconciling),
        (ConditionType::Stalled, stalled),
    ];
    let present = verdicts
        .into_iter()
        .filter_map(|(kind, verdict)| Some((kind, verdict?)));
    present
        .map(|(kind, verdict)| condition(facts, kind, verdict))
        .collect()
}

fn condition(facts: &Facts, kind: ConditionType, verdict: Verdict) -> Condition {
    let (status, reason, message) = verdict;
    debug_assert!(
        kind.allows(status, reason),
        "{kind} {} {reason}",
        status.as_str()
    );
    let before = facts
        .status
        .conditions
        .iter()
        .find(|before| before.type_ == kind.as_str());
    let unchanged = before.filter(|before| before.status == status.as_str());
    Condition {
        type_: kind.as_str().to_owned(),
        status: status.as_str().to_owned(),
        reason: reason.as_str().to_owned(),
        message: short(&message),
        last_transition_time: match unchanged {
            Some(before) => before.last_transition_time.clone(),
            None => Time(whole_seconds(facts.now)),
        },
        observed_generation: Some(facts.identity.generation),
    }
}

/// Kubernetes writes times in whole seconds.
pub(crate) fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// Ready, and whether waiting will not help.
fn ready(facts: &Facts, outcome: &Outcome) -> (Verdict, bool) {
    let stalled = |reason, message: &str| ((False, reason, message.to_owned()), true);
    if let Some(message) = &outcome.taken {
        return stalled(Reason::NameTaken, message);
    }
    match &outcome.planned {
        Planned::Invalid(message) => return stalled(Reason::InvalidSpec, message),
        Planned::Refused { reason, message } => return stalled(*reason, message),
        Planned::Unresolved => match &outcome.model {
            Model::Failed(failure) => return stalled(failure.reason, &failure.message),
            Model::Unavailable(message) => return stalled(Reason::SourceUnavailable, message),
            Model::Held(reason, message) => return stalled(*reason, message),
            Model::Inspecting(message) => {
                return late(facts, (Reason::Inspecting, message.clone()));
            }
            Model::Known(..) => {
                return late(facts, (Reason::WaitingForPods, trouble(outcome)));
            }
        },
        Planned::Fits { .. } => {}
    }
    match progress(facts, outcome) {
        Progress::Done if facts.wanted() == 0 => (
            (True, Reason::ScaledToZero, "spec.replicas is 0".to_owned()),
            false,
        ),
        Progress::Done if sleepers::together(facts) == Sleepers::All => {
            ((False, Reason::Sleeping, sleepers::words(facts)), false)
        }
        Progress::Done if outcome.contested.is_some() => {
            let name = outcome.contested.as_deref().unwrap_or_default();
            let text = format!(
                "Service {name}: somebody changes it again and again, so that requests may reach no \
                 engine although all replicas answer; it is put back after ever longer pauses: stop \
                 whoever writes it (kubectl get service {name} -o yaml --show-managed-fields)"
            );
            ((False, Reason::ServiceContested, text), false)
        }
        Progress::Done if outcome.unreached.is_some() => {
            let text = outcome.unreached.clone().unwrap_or_default();
            ((False, Reason::NoEndpoints, text), false)
        }
        Progress::Done => (serving(facts), false),
        Progress::Waits(reason, message) => late(facts, (reason, message)),
        Progress::Stuck(reason, message) => ((False, reason, message), true),
    }
}

/// All pods are where the spec wants them, and at least one answers.
fn serving(facts: &Facts) -> Verdict {
    let wanted = facts.wanted();
    let text = match sleepers::together(facts) {
        Sleepers::InService | Sleepers::All => {
            return (True, Reason::WakesOnRequest, sleepers::words(facts));
        }
        Sleepers::Some(0) => format!("{wanted} of {wanted} replicas answer"),
        Sleepers::Some(asleep) => {
            let answer = wanted.saturating_sub(asleep);
            format!("{answer} of {wanted} replicas answer, {asleep} sleep as spec.sleep lets them")
        }
    };
    (True, Reason::Serving, text)
}

fn trouble(outcome: &Outcome) -> String {
    outcome
        .trouble
        .clone()
        .unwrap_or_else(|| "engine pods are being made".to_owned())
}

/// Not ready yet; stalled once it takes longer than the spec allows.
fn late(facts: &Facts, (reason, message): (Reason, String)) -> (Verdict, bool) {
    if facts.deadline_left() > Duration::ZERO {
        return ((False, reason, message), false);
    }
    let text = format!(
        "no success within spec.progressDeadlineSeconds {} ({reason}): {message}",
        facts.object.spec.progress_deadline_seconds
    );
    ((False, Reason::ProgressDeadlineExceeded, text), true)
}

fn available(facts: &Facts, asleep: bool) -> Verdict {
    let ready = facts.live_pods().filter(|pod| pod.ready).count();
    let wanted = facts.wanted();
    match (ready, wanted) {
        (0, 0) => (False, Reason::ScaledToZero, "spec.replicas is 0".to_owned()),
        // Whatever else is wrong with the spec.
        (0, _) if asleep || sleepers::all_asleep(facts) => {
            (False, Reason::Sleeping, sleepers::words(facts))
        }
        (0, _) => (
            False,
            Reason::NoReadyReplicas,
            format!("0 of {wanted} engine pods answer"),
        ),
        _ => (
            True,
            Reason::ReplicasAnswer,
            format!("{ready} of {wanted} engine pods answer"),
        ),
    }
}

fn model_resolved(facts: &Facts, outcome: &Outcome) -> Verdict {
    match (&outcome.model, &outcome.planned) {
        (Model::Known(model, _), _) => (True, Reason::Inspected, describe(model)),
        (Model::Failed(failure), _) => {
            let attempts = failure.attempts;
            let next = match failure.retry_at > facts.now {
                true => format!(
                    "; attempt {attempts}, next at {}",
                    whole_seconds(failure.retry_at)
                ),
                false => format!("; attempt {attempts}, and the next is under way"),
            };
            let message: String = failure.message.chars().take(900).collect();
            (False, failure.reason, format!("{message}{next}"))
        }
        (Model::Unavailable(message), _) => (False, Reason::SourceUnavailable, message.clone()),
        (Model::Held(reason, message), _) => (Unknown, *reason, message.clone()),
        (Model::Inspecting(_), Planned::Invalid(message)) => {
            (Unknown, Reason::InvalidSpec, message.clone())
        }
        (Model::Inspecting(message), _) => (Unknown, Reason::Inspecting, message.clone()),
    }
}

/// A model in a sentence, and what there is to know of its files.
pub(crate) fn describe(model: &ModelFacts) -> String {
    let facts = format!(
        "{:?}, {} parameters, {} in the file, {} layers, {} query and {} KV heads, context {}, {}",
        model.architecture,
        model.parameters,
        model.file_dtype,
        model.layers,
        model.query_heads,
        model.kv_heads,
        model.context_length,
        model.digest,
    );
    let notes = model.notes.iter().map(|note| format!("; {note}"));
    short(&notes.fold(facts, |text, note| text + &note))
}

fn memory_fits(outcome: &Outcome) -> Verdict {
    match &outcome.planned {
        Planned::Fits { summary, .. } => (True, Reason::PlanFits, summary.clone()),
        Planned::Refused { reason, message } => (False, *reason, message.clone()),
        Planned::Invalid(message) => (Unknown, Reason::InvalidSpec, message.clone()),
        Planned::Unresolved => {
            let text = "the plan waits for the model's facts".to_owned();
            (Unknown, Reason::ModelUnresolved, text)
        }
    }
}

fn memory_pressure(facts: &Facts) -> Verdict {
    let reports = facts
        .live_pods()
        .filter_map(|pod| Some((pod, facts.report(pod)?)));
    let mut seen = false;
    for (pod, report) in reports {
        seen = true;
        if let Some(rank) = report
            .ranks
            .iter()
            .find(|rank| rank.driver_bytes > rank.budget_bytes)
        {
            let bytes = Bytes::measured;
            let text = format!(
                "pod {} rank {} holds {} of its {}",
                pod.name,
                rank.rank,
                bytes(rank.driver_bytes),
                bytes(rank.budget_bytes)
            );
            return (True, Reason::OverBudget, text);
        }
    }
    if let Some(pod) = facts.refusing_pod() {
        let text = format!(
            "pod {} refuses the operator's token (401), so what it holds is not known; its Secret \
             is written again and reaches it within minutes; if it does not, delete the pod",
            pod.name
        );
        return (Unknown, Reason::ReportsRefused, text);
    }
    match seen {
        true => (
            False,
            Reason::WithinBudget,
            "every rank is within its budget".to_owned(),
        ),
        // Between a restart of the operator and the first report nothing has changed.
        false => unchanged_pressure(facts),
    }
}

/// How engines stand to the newest target, and those that are told its sleep alone to that: the worse
/// of both first.
fn target_applied(facts: &Facts, outcome: &Outcome) -> Verdict {
    let slept = match &outcome.slept {
        // That they are awake is no news where nobody speaks of sleep.
        Stand::Applied(_) if facts.object.spec.sleep.is_none() => &Stand::Nobody,
        slept => slept,
    };
    let (worse, other) = match slept.rank() > outcome.told.rank() {
        true => (slept, &outcome.told),
        false => (&outcome.told, slept),
    };
    let also = other.words().map(|words| format!("; {words}"));
    let said = |words: &String| words.clone() + &also.unwrap_or_default();
    match worse {
        Stand::Applied(words) => (True, Reason::Applied, said(words)),
        Stand::Pending(words) => (False, Reason::TargetPending, said(words)),
        Stand::Deferred(words) => (False, Reason::TargetDeferred, said(words)),
        Stand::Refused(words) => (False, Reason::TargetRefused, said(words)),
        Stand::Nobody => {
            let text = "no engine of the newest revision runs".to_owned();
            (Unknown, Reason::NoReports, text)
        }
    }
}

fn unchanged_pressure(facts: &Facts) -> Verdict {
    let rows = facts
        .status
        .memory
        .as_ref()
        .map(|memory| memory.gpus.as_slice())
        .unwrap_or(&[]);
    let known = rows
        .iter()
        .any(|row| facts.live_pods().any(|pod| pod.name == row.pod));
    let over = rows.iter().any(|row| row.driver_bytes > row.budget_bytes);
    match (known, over) {
        (true, true) => (True, Reason::OverBudget, "as last reported".to_owned()),
        (true, false) => (
            False,
            Reason::WithinBudget,
            "every rank is within its budget".to_owned(),
        ),
        (false, _) => (
            Unknown,
            Reason::NoReports,
            "no engine has reported yet".to_owned(),
        ),
    }
}
