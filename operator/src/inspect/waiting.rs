//! What an inspect pod that has not answered waits for: whether it is on its way or in trouble. Pure.
//!
//! The kubelet mounts volumes, then makes the pod's network (condition PodReadyToStartContainers),
//! then pulls images, those of image volumes included, and says `ContainerCreating` all the while.

use std::time::Duration;

use plimsoll_crds::v1alpha1::Reason;

use super::{Model, of_images};
use crate::facts::Facts;
use crate::pods::containers::Pull;
use crate::pods::volumes::Mounting;
use crate::pods::{PodFacts, Waiting, age};

/// A volume that is not mounted after this long is reported as unavailable; attaching one over a
/// network takes tens of seconds.
const MOUNT_PATIENCE: Duration = Duration::from_secs(60);
/// A pod that has no node after this long is reported: nodes come and go, and are added on demand.
const PLACE_PATIENCE: Duration = Duration::from_secs(60);
/// An image that cannot be pulled for this long is reported as unavailable: registries have hiccups.
const PULL_PATIENCE: Duration = Duration::from_secs(30);
/// Reading headers takes seconds; a source that hangs is given up after this, and read again later.
pub(super) const READING_PATIENCE: Duration = Duration::from_secs(600);
/// Why the image of a pod is not there, if it was tried to pull it.
pub(crate) fn pull_trouble(pod: &PodFacts) -> Option<&Waiting> {
    let waiting = pod.engine.waiting.as_ref()?;
    waiting.pull().is_some().then_some(waiting)
}

/// What the pod waits for, and when that may have changed without a word.
pub(super) fn waits(facts: &Facts, pod: &PodFacts) -> (Model, Option<Duration>) {
    let name = &pod.name;
    if let Some(waits) = &pod.unschedulable {
        let text = format!("pod {name}: {}", pod.unplaced(waits));
        if !waits.gates.is_empty() {
            return (Model::Inspecting(text), None);
        }
        let waited = age(waits.since.or(pod.created), facts.now);
        let rest = PLACE_PATIENCE.saturating_sub(waited);
        if rest.is_zero() {
            let text = format!(
                "{text}; nothing is read before it has a node: change what it names in \
                 spec.template, spec.model.source or spec.adapters[].source, or give the cluster what \
                 it lacks"
            );
            return (Model::Held(Reason::Unschedulable, text), None);
        }
        return (Model::Inspecting(text), Some(rest));
    }
    if pod.engine.running {
        let read_for = age(pod.engine.running_since, facts.now);
        let text = format!("pod {name} reads the model's headers");
        let rest = READING_PATIENCE.saturating_sub(read_for);
        return (Model::Inspecting(text), Some(rest));
    }
    if let Some(trouble) = pull_trouble(pod) {
        return not_pulled(facts, pod, trouble);
    }
    if pod.node.is_none() {
        return (Model::Inspecting(format!("pod {name} is starting")), None);
    }
    // An image is pulled after the volumes are mounted, and may take as long as it takes.
    let image = of_images(&facts.object.spec);
    if pod.sandbox.unwrap_or(image) {
        let text = format!("pod {name} waits for its images, which are being pulled");
        return (Model::Inspecting(text), None);
    }
    let rest = MOUNT_PATIENCE.saturating_sub(age(pod.created, facts.now));
    if rest.is_zero() {
        let text = format!(
            "pod {name} does not start, since its volumes ({}) are not mounted or it has no network; \
             see `kubectl describe pod`",
            pod.volumes.words()
        );
        return (Model::Unavailable(text), None);
    }
    // That it waits is said sooner than that it waits for too long.
    let (text, rest) = match pod.mounting(facts.now) {
        Mounting::Late(_) => {
            let volumes = pod.volumes.words();
            let text = format!("pod {name} waits for its volumes ({volumes}), or for its network");
            (text, rest)
        }
        Mounting::Begun(soon) => (format!("pod {name} is starting"), soon.min(rest)),
        Mounting::No => (format!("pod {name} is starting"), rest),
    };
    (Model::Inspecting(text), Some(rest))
}

fn not_pulled(facts: &Facts, pod: &PodFacts, trouble: &Waiting) -> (Model, Option<Duration>) {
    let (name, Waiting { reason, message }) = (&pod.name, trouble);
    let known = facts
        .pull_trouble
        .as_ref()
        .filter(|(uid, _)| *uid == pod.uid);
    let failing = known.map_or(Duration::ZERO, |(_, since)| age(Some(*since), facts.now));
    let rest = PULL_PATIENCE.saturating_sub(failing);
    if rest.is_zero() || trouble.pull() == Some(Pull::Hopeless) {
        let text = format!("pod {name}: {reason}: {message}");
        return (Model::Unavailable(text), None);
    }
    let text = format!("pod {name}: {}", trouble.words());
    (Model::Inspecting(text), Some(rest))
}
