//! How an engine stands to the sleep that `spec.sleep` asks for. Pure.
//!
//! The newest sleep is told once, with the target or alone, and the same to pods of all revisions; what an
//! engine does beside, whoever has the pod's admin port decides. So a pod that went to sleep as asked and
//! was woken by hand is as it was left, and one that sleeps without being asked is an engine that does not
//! answer. One that sleeps by its own clock does what `idleAfter` says; where a request wakes it, its pod
//! is ready all the while.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use plimsoll_crds::v1alpha1::report::{EngineState, MemoryReport, SleepReason};
use plimsoll_crds::v1alpha1::sleep::SleepSpec;
use plimsoll_crds::v1alpha1::status::State;
use plimsoll_crds::v1alpha1::{ConditionType, Reason, TargetOutcome};
use plimsoll_planner::Bytes;

use crate::facts::{Facts, ReportFacts};
use crate::pods::{PodFacts, age};

/// The kubelet looks every few seconds whether an engine that woke up answers.
const FIRST_LOOK: Duration = Duration::from_secs(20);

/// How one engine stands to the sleep that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// Whether it answers is all there is to it.
    No,
    /// Asleep as asked.
    Asleep,
    /// Asleep by its own clock, as the spec lets it.
    Dozing,
    /// It was put to sleep as asked, and woken by hand since.
    WokenByHand,
    /// On its way to a sleep that is asked for, in words.
    GoingToSleep(String),
    /// On its way out of one, in words.
    Waking(String),
}

/// The level that the spec asks engines to sleep at, if it does.
pub(crate) fn asked(facts: &Facts) -> Option<u32> {
    facts.object.spec.sleep.as_ref().and_then(SleepSpec::asked)
}

/// Whether engines fall asleep by their own clock.
fn by_the_clock(facts: &Facts) -> bool {
    let sleep = facts.object.spec.sleep.as_ref();
    sleep.and_then(SleepSpec::idle_seconds).is_some()
}

/// Whether requests wake engines.
fn wakes(facts: &Facts) -> bool {
    let sleep = facts.object.spec.sleep.as_ref();
    sleep.is_some_and(|sleep| sleep.wake_on_request)
}

/// Whether a pod is what the spec asks for: it answers, or sleeps where it should or may.
pub(crate) fn in_place(facts: &Facts, pod: &PodFacts) -> bool {
    match rest(facts, pod) {
        Rest::Asleep | Rest::Dozing | Rest::WokenByHand => true,
        // Ready, it answers: whoever sleeps in the Service is woken by whoever asks.
        Rest::No | Rest::GoingToSleep(_) | Rest::Waking(_) => {
            pod.ready && (asked(facts).is_none() || wakes(facts))
        }
    }
}

/// How the pods sleep, together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sleepers {
    /// Some, or none, and others answer.
    Some(u32),
    /// All, or all but those that were woken by hand.
    All,
    /// All, and a request wakes the one that it reaches.
    InService,
}

/// How the pods of a resource sleep that are all where the spec wants them.
pub(crate) fn together(facts: &Facts) -> Sleepers {
    let (mut asleep, mut others, mut reachable) = (0, 0, false);
    for pod in facts.live_pods() {
        match rest(facts, pod) {
            Rest::Asleep | Rest::Dozing => {
                asleep += 1;
                reachable |= pod.ready;
            }
            Rest::WokenByHand => {}
            Rest::No | Rest::GoingToSleep(_) | Rest::Waking(_) => others += 1,
        }
    }
    match (asleep, others) {
        (0, _) if asked(facts).is_none() || wakes(facts) => Sleepers::Some(0),
        (_, 0) if wakes(facts) && reachable => Sleepers::InService,
        (_, 0) => Sleepers::All,
        _ => Sleepers::Some(asleep),
    }
}

/// Whether there are pods, and all of them sleep as asked or let, outside the Service.
pub(crate) fn all_asleep(facts: &Facts) -> bool {
    let asleep = |pod: &PodFacts| matches!(rest(facts, pod), Rest::Asleep | Rest::Dozing);
    let mut live = facts.live_pods().peekable();
    live.peek().is_some() && live.all(|pod| asleep(pod) && !pod.ready)
}

/// Whether an engine that answered is silent for no reason that the spec gives.
pub(crate) fn went_silent(facts: &Facts, pod: &PodFacts) -> bool {
    pod.went_silent() && rest(facts, pod) == Rest::No
}

/// How an engine stands to the sleep that the spec asks for.
pub(crate) fn rest(facts: &Facts, pod: &PodFacts) -> Rest {
    let asked = asked(facts);
    let known = facts.reports.get(&pod.name);
    let mute = known.is_some_and(|known| known.stale || known.refused);
    // A report outlives the engine that made it.
    if !pod.counts() || mute || !pod.engine.running {
        return Rest::No;
    }
    let Some(report) = facts.report(pod) else {
        return unheard(facts, pod, asked);
    };
    let told = report.sleep_told();
    let told = told.filter(|told| told.generation >= facts.identity.generation);
    let outcome = told.map(|told| told.outcome);
    let applied = outcome == Some(TargetOutcome::Applied);
    let words = |going: &str| match told {
        Some(told) if outcome == Some(TargetOutcome::Refused) => {
            format!("pod {}: {}", pod.name, told.message)
        }
        _ => format!("pod {} {going}", pod.name),
    };
    let dozes = report.sleep_reason == Some(SleepReason::Idle) && by_the_clock(facts);
    match (asked, report.state) {
        (_, EngineState::Loading | EngineState::Draining | EngineState::Failed) => Rest::No,
        (_, EngineState::Asleep) if wakes(facts) && stuck(report) => Rest::Waking(format!(
            "pod {}: did not wake: {}",
            pod.name, report.message
        )),
        (Some(level), EngineState::Asleep) if deep(report, level) => Rest::Asleep,
        (_, EngineState::Sleeping | EngineState::Asleep | EngineState::Waking) if dozes => {
            Rest::Dozing
        }
        // A request woke it, or may at any time.
        (Some(_), _) if applied && wakes(facts) => Rest::No,
        (Some(_), _) if applied => Rest::WokenByHand,
        (Some(_), _) => Rest::GoingToSleep(words("is going to sleep")),
        (None, EngineState::Sleeping | EngineState::Asleep | EngineState::Waking) if !applied => {
            Rest::Waking(words("is waking up"))
        }
        (None, EngineState::Serving) if about_to_be_ready(facts, pod).is_some() => {
            Rest::Waking(format!("pod {} is awake, and about to be ready", pod.name))
        }
        (None, _) => Rest::No,
    }
}

/// A pod that this operator has not heard yet: as the one before left it.
fn unheard(facts: &Facts, pod: &PodFacts, asked: Option<u32>) -> Rest {
    let mut conditions = facts.status.conditions.iter();
    let available = conditions.find(|it| it.type_ == ConditionType::Available.as_str());
    let slept = facts.status.state == Some(State::Sleeping)
        || available.is_some_and(|it| it.reason == Reason::Sleeping.as_str());
    let rows = facts.status.memory.iter().flat_map(|memory| &memory.gpus);
    let known = rows.into_iter().any(|row| row.pod == pod.name);
    if pod.ready && wakes(facts) {
        return if slept { Rest::Dozing } else { Rest::No };
    }
    if known && by_the_clock(facts) && !pod.ready && pod.engine.running {
        return Rest::Dozing;
    }
    match asked.is_some() && pod.ready {
        true => Rest::GoingToSleep(format!("pod {} is not heard yet", pod.name)),
        false if asked.is_some() && slept && known && pod.engine.running => Rest::Asleep,
        false => Rest::No,
    }
}

/// How long an engine that serves again, and whose pod does not know it yet, is given.
fn about_to_be_ready(facts: &Facts, pod: &PodFacts) -> Option<Duration> {
    // One that is ready is kept from requests by something else.
    if pod.engine.ready || !(slept_before(facts) || by_the_clock(facts)) {
        return None;
    }
    let since = facts.awake.get(&pod.uid).copied().unwrap_or(facts.now);
    let rest = FIRST_LOOK.saturating_sub(age(Some(since), facts.now));
    (!rest.is_zero()).then_some(rest)
}

/// When to look again at engines that woke up, although nothing happens.
pub(crate) fn next_look(facts: &Facts) -> Option<Duration> {
    let woke = facts.live_pods().filter(|pod| {
        let waking = matches!(rest(facts, pod), Rest::Waking(_));
        waking && facts.awake.contains_key(&pod.uid)
    });
    woke.filter_map(|pod| about_to_be_ready(facts, pod)).min()
}

/// Engines that say that they serve and are not ready, by uid of the pod, and since when: as
/// `before` has it, or since now. Not those on their way to a sleep, or called back from there.
pub(crate) fn awake(
    pods: &[PodFacts],
    reports: &BTreeMap<String, ReportFacts>,
    before: &BTreeMap<String, Timestamp>,
    now: Timestamp,
) -> BTreeMap<String, Timestamp> {
    let serves = |pod: &&PodFacts| {
        let known = reports.get(&pod.name);
        let report = known.and_then(|known| known.report.as_deref());
        let serves = |report: &MemoryReport| {
            let told = report.sleep_told().map(|told| told.outcome);
            report.state == EngineState::Serving && told != Some(TargetOutcome::Deferred)
        };
        report.is_some_and(serves) && !pod.engine.ready
    };
    let since = |pod: &PodFacts| before.get(&pod.uid).copied().unwrap_or(now);
    let pods = pods.iter().filter(serves);
    pods.map(|pod| (pod.uid.clone(), since(pod))).collect()
}

/// Whether a sleeper that a request should wake did not wake for one.
fn stuck(report: &MemoryReport) -> bool {
    let by_hand = report.sleep_reason == Some(SleepReason::Control);
    !report.wakes_on_request && !report.message.is_empty() && !by_hand
}

fn deep(report: &MemoryReport, level: u32) -> bool {
    report.sleep_level.is_some_and(|is| u32::from(is) >= level)
}

fn slept_before(facts: &Facts) -> bool {
    let mut conditions = facts.status.conditions.iter();
    let ready = conditions.find(|it| it.type_ == ConditionType::Ready.as_str());
    let reason = ready.and_then(|ready| Reason::parse(&ready.reason));
    matches!(
        reason,
        Some(Reason::Sleeping | Reason::GoingToSleep | Reason::Waking)
    )
}

/// What a resource says of which all pods sleep.
pub(crate) fn words(facts: &Facts) -> String {
    let (mut asleep, mut held, mut woken) = (0, 0, None);
    for pod in facts.live_pods() {
        match rest(facts, pod) {
            Rest::Asleep | Rest::Dozing => {
                asleep += 1;
                held += held_bytes(facts, pod);
            }
            Rest::WokenByHand => {
                woken.get_or_insert(&pod.name);
            }
            Rest::No | Rest::GoingToSleep(_) | Rest::Waking(_) => {}
        }
    }
    let by_hand = woken.map_or_else(String::new, |name| {
        format!("; pod {name} was woken by hand since")
    });
    let why = match asked(facts) {
        Some(_) => "as asked (spec.sleep)",
        None => "by their own clock (spec.sleep.idleAfter)",
    };
    let woken = match wakes(facts) {
        true => "; a request wakes them",
        false => "",
    };
    format!(
        "asleep {why}, {asleep} of {} pods, {} held{woken}{by_hand}",
        facts.wanted(),
        Bytes::measured(held)
    )
}

/// What a pod's ranks hold, as it reported or as the status has it.
pub(crate) fn held_bytes(facts: &Facts, pod: &PodFacts) -> u64 {
    if let Some(report) = facts.report(pod) {
        return report.ranks.iter().map(|rank| rank.driver_bytes).sum();
    }
    let rows = facts.status.memory.iter().flat_map(|memory| &memory.gpus);
    let of_pod = rows.filter(|row| row.pod == pod.name);
    of_pod.map(|row| row.driver_bytes).sum()
}

/// Pods whose engine is asleep, whoever asked, and those of `before` that are waking up.
pub(crate) fn asleep(
    facts: &Facts,
    before: Option<&std::collections::BTreeSet<String>>,
) -> std::collections::BTreeSet<String> {
    let slept = |name: &String| before.is_some_and(|before| before.contains(name));
    let live = facts.live_pods().filter(|pod| {
        let state = facts.report(pod).map(|report| report.state);
        match state {
            Some(EngineState::Asleep) => true,
            Some(EngineState::Waking) => slept(&pod.name),
            _ => false,
        }
    });
    live.map(|pod| pod.name.clone()).collect()
}
