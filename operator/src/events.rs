//! Events: what happened, told once, from the difference between two statuses and from what
//! became of pods. Pure, but for the writer at the end.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::events::EventType;
use plimsoll_crds::names::{EXIT_PLAN_DIFFERS, KIND};
use plimsoll_crds::v1alpha1::report::{EngineState, SleepReason, WokenBy};
use plimsoll_crds::v1alpha1::{ConditionType, EventReason, InferenceDeploymentStatus, Reason};
use plimsoll_planner::Bytes;

use crate::facts::Facts;
use crate::memory::Told;
use crate::plan::short;
use crate::pods::PodFacts;
use crate::resizes;
use crate::sleepers;

/// An Event to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Happening {
    pub(crate) warning: bool,
    pub(crate) reason: EventReason,
    pub(crate) note: String,
}

impl Happening {
    fn normal(reason: EventReason, note: impl AsRef<str>) -> Happening {
        Happening {
            warning: false,
            reason,
            note: short(note.as_ref()),
        }
    }

    fn warning(reason: EventReason, note: impl AsRef<str>) -> Happening {
        Happening {
            warning: true,
            reason,
            note: short(note.as_ref()),
        }
    }

    /// An old pod makes way for one of `revision`.
    pub(crate) fn replacing(revision: &str) -> Happening {
        let note = format!(
            "no room for an additional pod of revision {revision}: an old pod is stopped first"
        );
        Happening::warning(EventReason::RolloutReplacing, note)
    }

    /// The resource cannot be read.
    pub(crate) fn unreadable(words: &str) -> Happening {
        Happening::warning(EventReason::InvalidSpec, words)
    }

    /// Somebody changed what is the operator's in a child.
    pub(crate) fn repaired(kind: &str, name: &str, path: &str) -> Happening {
        let note = format!(
            "{kind} {name}: somebody changed or removed {path}, which belongs to the operator; it \
             is as before again (change the spec of the {KIND} instead)"
        );
        Happening::warning(EventReason::ChildRepaired, note)
    }

    pub(crate) fn kind(&self) -> EventType {
        if self.warning {
            EventType::Warning
        } else {
            EventType::Normal
        }
    }

    /// What the operator was doing, as Events name it.
    pub(crate) const fn action(&self) -> &'static str {
        match self.reason {
            EventReason::ModelInspected
            | EventReason::InspectStuck
            | EventReason::ModelRejected => "Inspect",
            EventReason::MemoryPlanned
            | EventReason::MemoryInsufficient
            | EventReason::InvalidSpec
            | EventReason::NameTaken => "Plan",
            EventReason::RolloutStarted
            | EventReason::RolloutReplacing
            | EventReason::RolloutStuck
            | EventReason::RolloutFinished
            | EventReason::ProgressDeadlineExceeded => "Roll",
            EventReason::ChildRepaired => "Repair",
            EventReason::EngineLoaded
            | EventReason::EngineSlept
            | EventReason::EngineWoken
            | EventReason::EngineResized
            | EventReason::EngineSilent
            | EventReason::EngineFailed
            | EventReason::PlanDrift
            | EventReason::OverBudget
            | EventReason::ReportStale
            | EventReason::ReportRefused => "Report",
        }
    }
}

/// What happened between the status before and the next.
pub(crate) fn between(
    before: &InferenceDeploymentStatus,
    next: &InferenceDeploymentStatus,
) -> Vec<Happening> {
    let mut all = Vec::new();
    let find = |status: &InferenceDeploymentStatus, kind: ConditionType| {
        status
            .conditions
            .iter()
            .find(|c| c.type_ == kind.as_str())
            .cloned()
    };
    let flip = |kind: ConditionType| Flip {
        before: find(before, kind),
        next: find(next, kind),
    };

    let model = flip(ConditionType::ModelResolved);
    if model.turned("True") || model.says_anew("True") {
        all.push(Happening::normal(
            EventReason::ModelInspected,
            model.words(),
        ));
    }
    if model.turned("False") || (model.is("False") && model.changed_reason()) {
        all.push(Happening::warning(
            EventReason::ModelRejected,
            model.words(),
        ));
    }
    let fits = flip(ConditionType::MemoryFits);
    if fits.turned("True") || fits.says_anew("True") {
        all.push(Happening::normal(EventReason::MemoryPlanned, fits.words()));
    }
    if fits.turned("False") || fits.says_anew("False") {
        all.push(Happening::warning(
            EventReason::MemoryInsufficient,
            fits.words(),
        ));
    }
    let stalled = flip(ConditionType::Stalled);
    if stalled.is("True") && (stalled.turned("True") || stalled.changed_reason()) {
        match stalled.reason() {
            Some(Reason::InvalidSpec) => {
                all.push(Happening::warning(
                    EventReason::InvalidSpec,
                    stalled.words(),
                ));
            }
            Some(Reason::NameTaken) => {
                all.push(Happening::warning(EventReason::NameTaken, stalled.words()));
            }
            Some(Reason::ProgressDeadlineExceeded) => all.push(Happening::warning(
                EventReason::ProgressDeadlineExceeded,
                stalled.words(),
            )),
            Some(Reason::Unschedulable | Reason::VolumesNotMounted | Reason::PodsRefused) => {
                // Nothing rolls before the model is known.
                let reason = match model.is("Unknown") {
                    true => EventReason::InspectStuck,
                    false => EventReason::RolloutStuck,
                };
                all.push(Happening::warning(reason, stalled.words()));
            }
            _ => {}
        }
    }
    if flip(ConditionType::MemoryPressure).turned("True") {
        let pressure = flip(ConditionType::MemoryPressure);
        all.push(Happening::warning(
            EventReason::OverBudget,
            pressure.words(),
        ));
    }
    rollout(before, next, &mut all);
    all
}

fn rollout(
    before: &InferenceDeploymentStatus,
    next: &InferenceDeploymentStatus,
    all: &mut Vec<Happening>,
) {
    if let (Some(old), Some(new)) = (&before.update_revision, &next.update_revision)
        && old != new
        && before.replicas > 0
    {
        let note = format!("revision {new} replaces {old}");
        all.push(Happening::normal(EventReason::RolloutStarted, note));
    }
}

/// A condition before and after.
struct Flip {
    before: Option<Condition>,
    next: Option<Condition>,
}

impl Flip {
    fn is(&self, status: &str) -> bool {
        self.next.as_ref().is_some_and(|next| next.status == status)
    }

    fn turned(&self, status: &str) -> bool {
        self.is(status)
            && self
                .before
                .as_ref()
                .is_none_or(|before| before.status != status)
    }

    fn changed_reason(&self) -> bool {
        self.before.as_ref().map(|c| &c.reason) != self.next.as_ref().map(|c| &c.reason)
    }

    /// The same status in other words.
    fn says_anew(&self, status: &str) -> bool {
        let words = |condition: &Option<Condition>| condition.as_ref().map(|c| c.message.clone());
        self.is(status) && words(&self.before) != words(&self.next)
    }

    fn reason(&self) -> Option<Reason> {
        Reason::parse(&self.next.as_ref()?.reason)
    }

    fn words(&self) -> String {
        self.next
            .as_ref()
            .map(|next| next.message.clone())
            .unwrap_or_default()
    }
}

/// What became of pods and rollouts since `told`, which is brought up to date. The first look at
/// a resource takes what it finds as told.
pub(crate) fn of_pods(
    facts: &Facts,
    next: &InferenceDeploymentStatus,
    told: &mut Option<Told>,
) -> Vec<Happening> {
    let older_pods = next.updated_replicas < next.replicas;
    let rolled = told.as_ref().is_some_and(|before| before.rolling);
    let now = Told {
        rolling: !serves(next) && (rolled || older_pods),
        loaded: names(facts, |pod| pod.ready),
        failed: facts
            .pods
            .iter()
            .filter(|pod| pod.failure().is_some_and(|ended| ended.exit_code != 0))
            .map(|pod| (pod.name.clone(), pod.engine.restarts))
            .collect(),
        stale: names(facts, |pod| {
            facts.reports.get(&pod.name).is_some_and(|r| r.stale)
        }),
        silent: names(facts, |pod| sleepers::went_silent(facts, pod)),
        asleep: sleepers::asleep(facts, told.as_ref().map(|told| &told.asleep)),
        holdings: resizes::holdings(facts, told.as_ref().map(|told| &told.holdings)),
        refused: names(facts, |pod| {
            facts.reports.get(&pod.name).is_some_and(|r| r.refused)
        }),
    };
    let Some(before) = told.replace(now) else {
        return Vec::new();
    };
    let now = told.as_mut().expect("just set");
    // A pod that lost its readiness and found it again has not loaded again.
    let exists = |name: &String| facts.pods.iter().any(|pod| pod.name == *name);
    now.loaded
        .extend(before.loaded.iter().filter(|name| exists(name)).cloned());
    let failed_before = before
        .failed
        .iter()
        .filter(|(name, _)| exists(name))
        .cloned();
    now.failed.extend(failed_before);

    let mut all = Vec::new();
    for name in now.loaded.difference(&before.loaded) {
        all.push(Happening::normal(
            EventReason::EngineLoaded,
            format!("pod {name} answers"),
        ));
    }
    for (name, restarts) in now.failed.difference(&before.failed) {
        if let Some(pod) = facts.pods.iter().find(|pod| pod.name == *name) {
            all.push(engine_failed(pod, *restarts));
        }
    }
    for name in now.silent.difference(&before.silent) {
        let note = format!("pod {name}: its engine answered and does not any more; it still runs");
        all.push(Happening::warning(EventReason::EngineSilent, note));
    }
    slept_and_woken(facts, &before, now, &mut all);
    let resized = resizes::notes(&before.holdings, &now.holdings);
    let resized = resized
        .into_iter()
        .map(|note| Happening::normal(EventReason::EngineResized, note));
    all.extend(resized);
    for name in now.stale.difference(&before.stale) {
        let note = format!("pod {name} has been silent for too long; its rows are its last");
        all.push(Happening::warning(EventReason::ReportStale, note));
    }
    for name in now.refused.difference(&before.refused) {
        let note =
            format!("pod {name} refuses the operator's token (401); its Secret is rewritten");
        all.push(Happening::warning(EventReason::ReportRefused, note));
    }
    if before.rolling && serves(next) {
        let revision = next.update_revision.as_deref().unwrap_or_default();
        let note = format!("all {} replicas run revision {revision}", next.replicas);
        all.push(Happening::normal(EventReason::RolloutFinished, note));
    }
    all
}

fn slept_and_woken(facts: &Facts, before: &Told, now: &Told, all: &mut Vec<Happening>) {
    for pod in facts.live_pods() {
        let flip = (
            before.asleep.contains(&pod.name),
            now.asleep.contains(&pod.name),
        );
        let Some(report) = facts.report(pod) else {
            continue;
        };
        let held = Bytes::measured(sleepers::held_bytes(facts, pod));
        let name = &pod.name;
        match (flip, report.state) {
            ((false, true), _) => {
                let level = report.sleep_level.unwrap_or_default();
                let who = report.sleep_reason.map_or("", |who| match who {
                    SleepReason::Control => " by its control routes",
                    SleepReason::Target => " as spec.sleep asks",
                    SleepReason::Idle => " by its own clock",
                });
                let note =
                    format!("pod {name} sleeps{who} at level {level}, and holds {held} still");
                all.push(Happening::normal(EventReason::EngineSlept, note));
            }
            ((true, false), EngineState::Serving | EngineState::Paused) => {
                let who = report.woken_by.map_or("", |who| match who {
                    WokenBy::Control => ", woken by its control routes,",
                    WokenBy::Target => ", woken as spec.sleep asks,",
                    WokenBy::Request => ", woken by a request,",
                });
                let note = format!("pod {name} is awake{who} and holds {held}");
                all.push(Happening::normal(EventReason::EngineWoken, note));
            }
            _ => {}
        }
    }
}

fn names(facts: &Facts, which: impl Fn(&PodFacts) -> bool) -> std::collections::BTreeSet<String> {
    facts
        .pods
        .iter()
        .filter(|pod| which(pod))
        .map(|pod| pod.name.clone())
        .collect()
}

/// Every replica runs the wanted revision and answers.
fn serves(status: &InferenceDeploymentStatus) -> bool {
    let ready = status
        .conditions
        .iter()
        .find(|c| c.type_ == ConditionType::Ready.as_str());
    let all = [Reason::Serving, Reason::WakesOnRequest].map(Reason::as_str);
    ready.is_some_and(|c| c.status == "True" && all.contains(&c.reason.as_str()))
}

fn engine_failed(pod: &PodFacts, restarts: i32) -> Happening {
    let (code, reason, words) = match pod.failure() {
        Some(ended) => (ended.exit_code, ended.reason.as_str(), ended.message.trim()),
        None => (0, "", ""),
    };
    let note = format!(
        "pod {}: exit code {code} ({reason}), {restarts} restarts: {words}",
        pod.name
    );
    let reason = match code == i32::from(EXIT_PLAN_DIFFERS) {
        true => EventReason::PlanDrift,
        false => EventReason::EngineFailed,
    };
    Happening::warning(reason, note)
}
