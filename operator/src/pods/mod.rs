//! What matters of a pod: parsed once from the API's object, then carried as a type.

pub(crate) mod asks;
pub(crate) mod containers;
pub(crate) mod limit;
pub(crate) mod volumes;

use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use plimsoll_crds::names;

use crate::rolling::{Cure, PodPhase};
use crate::watch::hash_of;
use asks::Asks;
pub(crate) use containers::Waiting;
use containers::{Held, container_status, unpulled, unready_beside};
use limit::MemoryLimit;
use volumes::Volumes;

/// A pod that should be gone by now, and whose node does not answer, holds no room for ever.
const LEAVING_GRACE: Duration = Duration::from_secs(30);

/// The kubelet's first word on readiness comes within this of the pod's start.
const FIRST_READINESS: Duration = Duration::from_secs(2);
/// What the scheduler says of nodes that a pod's own spec rules out, without quoting it.
const SELECTOR_WORDS: &str = "node affinity/selector";
/// `reason` of a pod that the scheduler is not to look at.
const GATED: &str = "SchedulingGated";

/// One engine or inspect pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodFacts {
    pub(crate) name: String,
    pub(crate) uid: String,
    /// Empty on inspect pods.
    pub(crate) revision: String,
    pub(crate) node: Option<String>,
    pub(crate) ip: Option<String>,
    pub(crate) created: Option<Timestamp>,
    /// When a pod that is being deleted has to be gone.
    pub(crate) leaves_at: Option<Timestamp>,
    pub(crate) ready: bool,
    /// `Pending`, `Running`, `Succeeded` or `Failed`.
    pub(crate) phase: String,
    /// It answered once, in this life of its engine or one before.
    pub(crate) answered: bool,
    /// Since when its readiness is what it is.
    pub(crate) readiness_since: Option<Timestamp>,
    /// Containers of the user's that are not ready.
    pub(crate) unready_beside: Vec<Held>,
    /// Containers whose image was not pulled.
    pub(crate) unpulled: Vec<Held>,
    pub(crate) unschedulable: Option<Unschedulable>,
    /// Its volumes are mounted and it has a network, so that images are what it waits for; `None`:
    /// the kubelet does not say.
    pub(crate) sandbox: Option<bool>,
    /// The API server took the source out of the volume of the model or an adapter and kept the rest.
    pub(crate) source_dropped: bool,
    /// On a node since then, and its volumes are not mounted there, or it has no network.
    pub(crate) unmounted_since: Option<Timestamp>,
    pub(crate) volumes: Volumes,
    pub(crate) asks: Asks,
    pub(crate) limit: MemoryLimit,
    pub(crate) engine: EngineContainer,
}

/// The scheduler finds no node, or is not to look for one yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unschedulable {
    pub(crate) since: Option<Timestamp>,
    pub(crate) message: String,
    /// The gates that keep the scheduler from looking, where there are some.
    pub(crate) gates: Vec<String>,
}

/// The state of the container that matters: the engine, or the inspection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EngineContainer {
    /// Its startup probe has succeeded in this life of the container.
    pub(crate) started: bool,
    /// It answers its readiness probe, whatever the pod's other containers do.
    pub(crate) ready: bool,
    pub(crate) running: bool,
    pub(crate) running_since: Option<Timestamp>,
    pub(crate) restarts: i32,
    pub(crate) waiting: Option<Waiting>,
    /// The newest end of the container: of this life, or of the one before.
    pub(crate) ended: Option<Ended>,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled` and the like.
    pub(crate) reason: String,
    /// Its termination message.
    pub(crate) message: String,
}

impl PodFacts {
    /// Reads the pod's `container`.
    pub(crate) fn read(pod: &Pod, container: &str) -> PodFacts {
        let status = pod.status.as_ref();
        let conditions = status
            .and_then(|status| status.conditions.as_deref())
            .unwrap_or(&[]);
        let find = |kind: &str| conditions.iter().find(|c| c.type_ == kind);
        let since = |kind: &str| instant(find(kind)?.last_transition_time.as_ref());
        let no = |kind: &str| find(kind).filter(|c| c.status == "False");
        let ready = find("Ready").is_some_and(|c| c.status == "True");
        let engine = container_status(pod, container)
            .map(EngineContainer::read)
            .unwrap_or_default();
        let readiness_since = since("Ready");
        // The kubelet first calls a pod unready as it starts it: a later change was one from ready.
        let began = instant(status.and_then(|status| status.start_time.as_ref()));
        let turned = began
            .zip(readiness_since)
            .is_some_and(|(began, turned)| age(Some(began), turned) > FIRST_READINESS);
        let unscheduled = no("PodScheduled").filter(|c| {
            let reason = c.reason.as_deref();
            reason == Some("Unschedulable") || reason == Some(GATED)
        });
        let gates = pod
            .spec
            .iter()
            .flat_map(|spec| spec.scheduling_gates.iter().flatten());
        PodFacts {
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
            revision: pod
                .labels()
                .get(names::LABEL_REVISION)
                .cloned()
                .unwrap_or_default(),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            ip: status
                .and_then(|status| status.pod_ip.clone())
                .filter(|ip| !ip.is_empty()),
            created: instant(pod.metadata.creation_timestamp.as_ref()),
            leaves_at: instant(pod.metadata.deletion_timestamp.as_ref()),
            ready,
            phase: status
                .and_then(|status| status.phase.clone())
                .unwrap_or_default(),
            unschedulable: unscheduled.map(|condition| Unschedulable {
                since: instant(condition.last_transition_time.as_ref()),
                message: condition.message.clone().unwrap_or_default(),
                gates: match condition.reason.as_deref() == Some(GATED) {
                    true => gates.map(|gate| gate.name.clone()).collect(),
                    false => Vec::new(),
                },
            }),
            sandbox: find("PodReadyToStartContainers").map(|c| c.status == "True"),
            source_dropped: source_dropped(pod),
            answered: ready || engine.started || turned,
            readiness_since,
            unready_beside: unready_beside(pod, container),
            unpulled: unpulled(pod),
            // A sandbox comes after the volumes.
            unmounted_since: no("PodReadyToStartContainers").and_then(|_| {
                since("PodScheduled")
                    .filter(|_| status.is_some_and(|s| s.phase.as_deref() == Some("Pending")))
            }),
            volumes: Volumes::read(pod),
            asks: Asks::read(pod),
            limit: MemoryLimit::read(pod, container),
            engine,
        }
    }

    /// What the scheduler says of it, fit to be gone on with, and the selector that it means.
    pub(crate) fn unplaced(&self, waits: &Unschedulable) -> String {
        let words = waits.message.trim_end().trim_end_matches('.');
        let selector = &self.asks.selector;
        match words.contains(SELECTOR_WORDS) && !selector.is_empty() {
            true => format!("{words} (the pod's spec has {selector})"),
            false => words.to_owned(),
        }
    }

    pub(crate) fn leaving(&self) -> bool {
        self.leaves_at.is_some()
    }

    /// A pod that ended for good (evicted, or its node went away): its ReplicaSet replaces it.
    pub(crate) fn finished(&self) -> bool {
        self.phase == "Failed" || self.phase == "Succeeded"
    }

    /// Alive and wanted: neither being deleted nor finished.
    pub(crate) fn counts(&self) -> bool {
        !self.leaving() && !self.finished()
    }

    /// What rolling sees of it; `None` when it no longer counts in any way. `cure` says what the
    /// leaving of a pod of another revision would do for it, where it has no place.
    pub(crate) fn rolling(&self, now: Timestamp, cure: Option<Cure>) -> Option<PodPhase> {
        if let Some(leaves_at) = self.leaves_at {
            let overdue = age(Some(leaves_at), now) > LEAVING_GRACE;
            return (!overdue && !self.finished()).then_some(PodPhase::Leaving);
        }
        if self.finished() {
            return None;
        }
        let waits = self.unschedulable.as_ref();
        let since = waits.map(|waits| waits.since.or(self.created));
        Some(match (cure, since.or(self.unmounted_since.map(Some))) {
            _ if self.ready => PodPhase::Ready,
            _ if self.answered => PodPhase::Unready,
            (Some(cure), Some(since)) => PodPhase::Blocked {
                for_: age(since, now),
                cure,
            },
            (None, _) | (_, None) => PodPhase::Starting,
        })
    }

    /// Answered in this life of its engine, which runs, and does not now. The startup probe is not
    /// enough: the first readiness probe comes up to a period after it.
    pub(crate) fn went_silent(&self) -> bool {
        let lives = self.engine.running && self.engine.started && self.counts();
        let turned = self.readiness_since.zip(self.engine.running_since);
        lives && !self.engine.ready && turned.is_some_and(|(turned, ran)| turned > ran)
    }

    /// Its engine answers, and containers beside it keep the pod from being ready.
    pub(crate) fn held_up_by_others(&self) -> bool {
        !self.ready && self.engine.ready && self.engine.running && self.counts()
    }

    /// The engine stopped and is not back: how it ended last.
    pub(crate) fn failure(&self) -> Option<&Ended> {
        let down = !self.engine.running && !self.leaving();
        self.engine
            .ended
            .as_ref()
            .filter(|_| down || self.finished())
    }
}

impl EngineContainer {
    fn read(status: &ContainerStatus) -> EngineContainer {
        let state = status.state.as_ref();
        EngineContainer {
            started: status.started == Some(true),
            ready: status.ready,
            running: state.is_some_and(|state| state.running.is_some()),
            running_since: state
                .and_then(|state| state.running.as_ref())
                .and_then(|running| instant(running.started_at.as_ref())),
            restarts: status.restart_count,
            waiting: Waiting::read(status),
            ended: ended(state).or_else(|| ended(status.last_state.as_ref())),
        }
    }
}

fn ended(state: Option<&ContainerState>) -> Option<Ended> {
    let terminated = state?.terminated.as_ref()?;
    Some(Ended {
        exit_code: terminated.exit_code,
        reason: terminated.reason.clone().unwrap_or_default(),
        message: terminated.message.clone().unwrap_or_default(),
    })
}

/// What the API server does with a field of a volume that it knows and does not offer.
fn source_dropped(pod: &Pod) -> bool {
    let volumes = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    let is_source =
        |name: &str| name == names::VOLUME_MODEL || name.starts_with(names::VOLUME_ADAPTER);
    let mut sources = volumes.filter(|volume| is_source(&volume.name));
    sources.any(|volume| {
        let claim = volume.persistent_volume_claim.is_some();
        volume.image.is_none() && !claim && volume.host_path.is_none()
    })
}

pub(crate) fn instant(time: Option<&Time>) -> Option<Timestamp> {
    time.map(|time| time.0)
}

/// How long ago `then` was; zero for the future and for what has no time.
pub(crate) fn age(then: Option<Timestamp>, now: Timestamp) -> Duration {
    let since = then.map(|then| now.duration_since(then));
    since
        .and_then(|since| Duration::try_from(since).ok())
        .unwrap_or(Duration::ZERO)
}

/// A hash over what [`PodFacts`] reads: a pod whose hash stays has not changed for us.
pub(crate) fn relevant(pod: &Pod) -> u64 {
    let facts = |name| {
        let PodFacts {
            name,
            uid,
            revision,
            node,
            ip,
            created: _,
            leaves_at,
            ready,
            phase,
            answered,
            readiness_since,
            unready_beside,
            unpulled,
            unschedulable,
            sandbox,
            source_dropped: _,
            unmounted_since,
            volumes: _,
            asks: _,
            limit,
            engine,
        } = PodFacts::read(pod, name);
        let EngineContainer {
            started,
            ready: engine_ready,
            running,
            running_since: _,
            restarts,
            waiting,
            ended,
        } = engine;
        let pod = (
            name,
            uid,
            revision,
            node,
            ip,
            leaves_at.map(Timestamp::as_second),
        );
        let ended = ended.map(|ended| (ended.exit_code, ended.reason, ended.message));
        let unschedulable = unschedulable.map(|waits| (waits.message, waits.gates));
        let second = |at: Option<Timestamp>| at.map(Timestamp::as_second);
        let since = (second(readiness_since), second(unmounted_since));
        hash_of(&(
            pod,
            (ready, phase, answered, since, unschedulable, sandbox),
            (unready_beside, unpulled, limit),
            ((started, engine_ready), running, restarts, waiting, ended),
        ))
    };
    hash_of(&(
        facts(names::CONTAINER_ENGINE),
        facts(names::CONTAINER_INSPECT),
    ))
}

#[cfg(test)]
mod tests;
