//! How far the engine pods are from what the spec asks for, and what holds them up. Pure.

use plimsoll_crds::v1alpha1::Reason;
use plimsoll_crds::v1alpha1::report::{EngineState, LoadProgress};

use crate::facts::Facts;
use crate::outcome::Outcome;
use crate::pods::containers::Held;
use crate::pods::volumes::Mounting;
use crate::pods::{PodFacts, Unschedulable};
use crate::rolling::{Room, Step};
use crate::room;
use crate::sleepers::{Rest, in_place, rest, went_silent};

/// Load progress is told in steps of this many percent, so that it writes little.
const PERCENT_STEP: u64 = 10;

/// Where the pods stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// As many pods of the wanted revision as asked for answer, or sleep as asked or let, and no others
    /// exist.
    Done,
    /// What it waits for.
    Waits(Reason, String),
    /// What waiting will not help.
    Stuck(Reason, String),
}

/// Where the pods of an accepted spec stand.
pub(crate) fn progress(facts: &Facts, outcome: &Outcome) -> Progress {
    let wanted = facts.wanted() as usize;
    let revision = outcome.revision().unwrap_or_default();
    let (new, old): (Vec<&PodFacts>, Vec<&PodFacts>) = facts
        .pods
        .iter()
        .filter(|pod| !pod.finished())
        .partition(|pod| pod.revision == revision);
    let live: Vec<&PodFacts> = new.iter().copied().filter(|pod| pod.counts()).collect();
    let answering = live.iter().filter(|pod| in_place(facts, pod)).count();
    let old_live = old.iter().filter(|pod| pod.counts()).count();

    if let Some(trouble) = &outcome.trouble {
        return Progress::Waits(Reason::WaitingForPods, trouble.clone());
    }
    if answering == wanted && live.len() == wanted && old_live == 0 {
        return match facts.pods.iter().any(PodFacts::leaving) && wanted == 0 {
            true => Progress::Waits(
                Reason::Draining,
                "engines are finishing their requests".to_owned(),
            ),
            false => Progress::Done,
        };
    }
    if let Some((reason, message)) = hold_up(facts, outcome, (&live, old_live > 0)) {
        return match stuck(outcome, reason) {
            true => Progress::Stuck(reason, message),
            false => Progress::Waits(reason, message),
        };
    }
    if old_live > 0 {
        let how = match &facts.room {
            Some((of, Room::Full | Room::Rationed)) if *of == revision => {
                "; no room for a pod more, so old ones make way first"
            }
            _ => "",
        };
        return Progress::Waits(
            Reason::RollingOut,
            format!("{answering} of {wanted} replicas run revision {revision}{how}"),
        );
    }
    if live.len() > wanted {
        return Progress::Waits(
            Reason::Draining,
            format!(
                "{} of {} engine pods are leaving",
                live.len() - wanted,
                live.len()
            ),
        );
    }
    Progress::Waits(
        Reason::WaitingForPods,
        format!(
            "{} of {wanted} engine pods exist, {answering} answer",
            live.len()
        ),
    )
}

/// Whether waiting will not help a rollout that a pod without a place holds up. Who sets gates
/// opens them when it suits, so they are waited for.
fn stuck(outcome: &Outcome, reason: Reason) -> bool {
    let lacks = matches!(
        reason,
        Reason::Unschedulable | Reason::VolumesNotMounted | Reason::PodsRefused
    );
    lacks && outcome.step.as_ref().is_some_and(|step| step.stuck)
}

/// The worst that holds up one of the wanted revision's pods. `rolls`: pods of an older one live.
fn hold_up(
    facts: &Facts,
    outcome: &Outcome,
    (live, rolls): (&[&PodFacts], bool),
) -> Option<(Reason, String)> {
    let waits = |pod: &&PodFacts| !in_place(facts, pod);
    let waiting: Vec<&PodFacts> = live.iter().copied().filter(waits).collect();
    refused(facts, outcome, (live, rolls))
        .or_else(|| failed(facts, &waiting))
        .or_else(|| unschedulable(facts, &waiting, outcome, rolls))
        .or_else(|| unmounted(facts, &waiting, outcome, rolls))
        .or_else(|| unpulled(&waiting))
        .or_else(|| silent(facts, &waiting))
        .or_else(|| resting(facts, &waiting))
        .or_else(|| beside(&waiting))
        .or_else(|| not_started(&waiting))
        .or_else(|| loading(facts, &waiting))
}

/// What becomes of the old pods while a new one has no place.
fn meanwhile(facts: &Facts, outcome: &Outcome, rolls: bool, remedy: &str) -> String {
    let step = outcome.step.as_ref();
    match step {
        _ if !rolls => format!("; {remedy}"),
        Some(step) if step.making_way.is_some() => "; an old pod makes way for it".to_owned(),
        Some(step) if step.stuck => format!(
            "; pods of the revision before serve on, and none makes way, since that would not help \
             or leave too few; {remedy}"
        ),
        Some(Step {
            makes_way_in: Some(rest),
            ..
        }) => {
            let at = facts.now.saturating_add(*rest).unwrap_or(facts.now);
            format!(
                "; an old pod makes way in {} s (at {at:.0}), and pods of the revision before serve \
                 until then; {remedy}",
                rest.as_secs()
            )
        }
        _ => format!("; pods of the revision before serve on; {remedy}"),
    }
}

/// Pods that nobody made, in the words of who refused them.
fn refused(
    facts: &Facts,
    outcome: &Outcome,
    (live, rolls): (&[&PodFacts], bool),
) -> Option<(Reason, String)> {
    let revision = outcome.revision().unwrap_or_default();
    let mut sets = facts.replica_sets.iter();
    let set = sets.find(|set| set.revision == revision)?;
    let words = set
        .failure
        .as_ref()
        .filter(|_| live.len() < set.replicas as usize)?;
    let remedy = match words.contains("exceeded quota") {
        true => "raise the ResourceQuota, free what it counts, or ask for less",
        false => "change what it names, in spec.template or in the cluster",
    };
    let meanwhile = meanwhile(facts, outcome, rolls, remedy);
    let words = words.trim_end().trim_end_matches('.');
    Some((Reason::PodsRefused, format!("{words}{meanwhile}")))
}

fn failed(facts: &Facts, waiting: &[&PodFacts]) -> Option<(Reason, String)> {
    let told = |pod: &&PodFacts| {
        if let Some(ended) = pod.failure() {
            let words: String = ended.message.trim().chars().take(600).collect();
            return Some(format!(
                "pod {}: exit code {} ({}), {} restarts: {words}",
                pod.name, ended.exit_code, ended.reason, pod.engine.restarts
            ));
        }
        let report = facts.report(pod)?;
        (report.state == EngineState::Failed)
            .then(|| format!("pod {}: {}", pod.name, report.message))
    };
    waiting
        .iter()
        .find_map(told)
        .map(|message| (Reason::PodFailed, message))
}

fn unschedulable(
    facts: &Facts,
    waiting: &[&PodFacts],
    outcome: &Outcome,
    rolls: bool,
) -> Option<(Reason, String)> {
    let (pod, waits) = waiting
        .iter()
        .find_map(|pod| Some((pod, pod.unschedulable.as_ref()?)))?;
    let Unschedulable {
        message: _,
        gates,
        since: _,
    } = waits;
    let words = pod.unplaced(waits);
    let (reason, remedy) = match gates.is_empty() {
        true => (
            Reason::Unschedulable,
            "change what it names in spec.template, or give the cluster room".to_owned(),
        ),
        false => (
            Reason::SchedulingGated,
            format!(
                "who set its gates ({}) has to take them off",
                gates.join(", ")
            ),
        ),
    };
    let meanwhile = meanwhile(facts, outcome, rolls, &remedy);
    Some((reason, format!("pod {}: {words}{meanwhile}", pod.name)))
}

/// A pod that has a node, and whose volumes are not there.
fn unmounted(
    facts: &Facts,
    waiting: &[&PodFacts],
    outcome: &Outcome,
    rolls: bool,
) -> Option<(Reason, String)> {
    let mut late = waiting
        .iter()
        .filter_map(|pod| match pod.mounting(facts.now) {
            Mounting::Late(since) => Some((pod, since)),
            Mounting::No | Mounting::Begun(_) => None,
        });
    let (pod, since) = late.next()?;
    let name = &pod.name;
    let others: Vec<&PodFacts> = facts.pods.iter().collect();
    let holder = room::holders(pod, &others).next();
    let remedy = match (holder, pod.volumes.claims.is_empty()) {
        (Some(holder), _) => format!(
            "pod {} has a claim of these on node {}: a claim that is ReadWriteOnce is on one node at \
             a time, so use one that is ReadWriteMany or ReadOnlyMany, keep all pods on that node \
             (spec.template.spec.nodeSelector), or set spec.replicas to 0 and back, which ends the \
             old pods first",
            holder.name,
            holder.node.as_deref().unwrap_or_default()
        ),
        (None, false) => {
            "a claim that is ReadWriteOnce may be held by another pod on another node: \
                          end that one, or use a claim that is ReadWriteMany or ReadOnlyMany"
                .to_owned()
        }
        (None, true) => "what it names has to exist and be within the node's reach".to_owned(),
    };
    let meanwhile = meanwhile(facts, outcome, rolls, &remedy);
    let node = pod.node.as_deref().unwrap_or_default();
    Some((
        Reason::VolumesNotMounted,
        format!(
            "pod {name} on node {node} waits since {since:.0} for its volumes ({}), or for its \
             network; kubectl describe pod {name} has the node's words{meanwhile}",
            pod.volumes.words()
        ),
    ))
}

/// An image that cannot be pulled, be it the engine's or that of a container beside it.
fn unpulled(waiting: &[&PodFacts]) -> Option<(Reason, String)> {
    let troubled = |pod: &&PodFacts| Some((pod.name.clone(), pod.unpulled.first()?.words()));
    // That the engine answers all the same is said below.
    let mut waiting = waiting.iter().filter(|pod| !pod.held_up_by_others());
    let (name, words) = waiting.find_map(troubled)?;
    Some((Reason::WaitingForPods, format!("pod {name}, {words}")))
}

/// An engine that answered, runs and does not answer: hung, or its node is out of reach.
fn silent(facts: &Facts, waiting: &[&PodFacts]) -> Option<(Reason, String)> {
    let pod = waiting.iter().find(|pod| went_silent(facts, pod))?;
    let since = pod.readiness_since;
    let since = since.map_or_else(String::new, |since| format!(" since {since:.0}"));
    let node = pod.node.as_deref().unwrap_or("unknown");
    Some((
        Reason::EngineSilent,
        format!(
            "pod {} on node {node} answered and does not{since}, though its engine runs; it gets no \
             requests, and is started anew once /livez fails too",
            pod.name
        ),
    ))
}

/// An engine on its way to a sleep that is asked for, or out of one.
fn resting(facts: &Facts, waiting: &[&PodFacts]) -> Option<(Reason, String)> {
    waiting.iter().find_map(|pod| match rest(facts, pod) {
        Rest::GoingToSleep(words) => Some((Reason::GoingToSleep, words)),
        Rest::Waking(words) => Some((Reason::Waking, words)),
        Rest::No | Rest::Asleep | Rest::Dozing | Rest::WokenByHand => None,
    })
}

/// An engine that answers in a pod that a container of the user's keeps from being ready.
fn beside(waiting: &[&PodFacts]) -> Option<(Reason, String)> {
    let pod = waiting.iter().find(|pod| pod.held_up_by_others())?;
    let others = match pod.unready_beside.is_empty() {
        true => "a readiness gate is not met".to_owned(),
        false => {
            let held: Vec<String> = pod.unready_beside.iter().map(Held::words).collect();
            format!("not ready: {}", held.join(", "))
        }
    };
    Some((
        Reason::WaitingForPods,
        format!(
            "pod {}: its engine answers; {others}, so the pod gets no requests",
            pod.name
        ),
    ))
}

fn not_started(waiting: &[&PodFacts]) -> Option<(Reason, String)> {
    let (pod, waits) = waiting
        .iter()
        .find_map(|pod| Some((pod, pod.engine.waiting.as_ref()?)))?;
    let words = waits.words();
    Some((Reason::WaitingForPods, format!("pod {}: {words}", pod.name)))
}

fn loading(facts: &Facts, waiting: &[&PodFacts]) -> Option<(Reason, String)> {
    let pod = waiting.iter().find(|pod| pod.engine.running)?;
    let text = match slowest(facts) {
        Some(LoadProgress {
            stage,
            done_bytes,
            total_bytes,
        }) => {
            let percent = percent(done_bytes, total_bytes) / PERCENT_STEP * PERCENT_STEP;
            format!("engines are loading: {stage}, {percent}%")
        }
        None => format!("pod {} is starting its engine", pod.name),
    };
    Some((Reason::Loading, text))
}

fn percent(done: u64, total: u64) -> u64 {
    let percent = u128::from(done) * 100 / u128::from(total.max(1));
    u64::try_from(percent).unwrap_or(100).min(100)
}

/// The progress of the pod that has the most left to load.
pub(crate) fn slowest(facts: &Facts) -> Option<LoadProgress> {
    let loading = facts
        .live_pods()
        .filter(|pod| !pod.ready)
        .filter_map(|pod| {
            let report = facts.report(pod)?;
            (report.state == EngineState::Loading).then_some(report.progress.as_ref()?)
        });
    loading
        .min_by_key(|progress| percent(progress.done_bytes, progress.total_bytes))
        .cloned()
}
