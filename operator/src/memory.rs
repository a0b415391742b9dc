//! What the operator remembers between passes over a resource. All of it can be lost: a new
//! process finds its way from the cluster alone; what is remembered saves writes and repeats.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use plimsoll_crds::v1alpha1::{InferenceDeploymentStatus, Reason};
use tokio::time::Instant;

use crate::facts::ChildKind;

/// Attempts to inspect one source; then a change of the spec is waited for.
const INSPECT_ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_secs(10);

/// What is remembered of one resource.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// The status that was written last, and when.
    pub(crate) written: Option<(InferenceDeploymentStatus, Instant)>,
    /// What was written last of each child.
    pub(crate) applied: HashMap<(ChildKind, String), Applied>,
    /// The ReplicaSet that the API server last refused.
    pub(crate) refused: Option<RefusedSet>,
    /// The namespace is being deleted, which nothing undoes.
    pub(crate) namespace_ends: bool,
    pub(crate) inspect_failure: Option<Failure>,
    /// The revision whose surge pod found no room, and when an old pod last made way for it.
    pub(crate) replacing: Option<(String, Instant)>,
    /// When work on a generation began.
    pub(crate) working: Option<(i64, Timestamp)>,
    /// Pods whose readiness, and ends of engines that were told about by an Event already;
    /// `None` before the first pass.
    pub(crate) told: Option<Told>,
    /// Passes that failed in a row.
    pub(crate) failures: u32,
}

/// What Events have told of pods, by pod name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) loaded: BTreeSet<String>,
    /// With the restart count at the time.
    pub(crate) failed: BTreeSet<(String, i32)>,
    pub(crate) stale: BTreeSet<String>,
    /// A rollout is under way, and its end has not been told.
    pub(crate) rolling: bool,
}

/// A child as it was written.
#[derive(Clone, Debug)]
pub(crate) struct Applied {
    pub(crate) hash: String,
    /// Of a ReplicaSet.
    pub(crate) replicas: Option<u32>,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<u64>,
    pub(crate) at: Instant,
    /// Times in a row that it was written because somebody had changed it.
    pub(crate) repairs: u32,
}

/// A ReplicaSet that can't be made, whoever asks.
#[derive(Clone, Debug)]
pub(crate) struct RefusedSet {
    pub(crate) hash: String,
    pub(crate) words: String,
    pub(crate) at: Instant,
}

/// An inspection that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Hash of the source, and generation of the spec, that it failed for.
    pub(crate) source: String,
    pub(crate) generation: i64,
    /// The pod that it failed in.
    pub(crate) pod_uid: String,
    pub(crate) reason: Reason,
    pub(crate) message: String,
    pub(crate) attempts: u32,
    /// None: it is not tried again.
    pub(crate) retry_at: Option<Timestamp>,
}

impl Failure {
    /// The failure after one more attempt, with the pause doubled.
    pub(crate) fn after(
        before: Option<&Failure>,
        (source, generation, pod_uid): (&str, i64, &str),
        (reason, message): (Reason, String),
        worth_retrying: bool,
        now: Timestamp,
    ) -> Failure {
        let same = before.filter(|b| b.source == source && b.generation == generation);
        let attempts = same.map_or(0, |before| before.attempts) + 1;
        let pause = FIRST_PAUSE.saturating_mul(1 << (attempts - 1).min(10));
        Failure {
            source: source.to_owned(),
            generation,
            pod_uid: pod_uid.to_owned(),
            reason,
            message,
            attempts,
            retry_at: (worth_retrying && attempts < INSPECT_ATTEMPTS)
                .then(|| now.saturating_add(pause).unwrap_or(Timestamp::MAX)),
        }
    }
}

/// The memories of all resources, by uid.
#[derive(Debug, Default)]
pub(crate) struct Memories(Mutex<HashMap<String, Arc<tokio::sync::Mutex<Memory>>>>);

impl Memories {
    pub(crate) fn of(&self, uid: &str) -> Arc<tokio::sync::Mutex<Memory>> {
        let mut memories = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(memories.entry(uid.to_owned()).or_default())
    }

    pub(crate) fn forget(&self, uid: &str) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inspection_is_tried_a_few_times_with_growing_pauses() {
        let now = Timestamp::UNIX_EPOCH;
        let mut failure = None;
        let mut pauses = Vec::new();
        for _ in 0..5 {
            let text = (Reason::InspectFailed, "boom".to_owned());
            let next = Failure::after(failure.as_ref(), ("s", 1, "p"), text, true, now);
            pauses.push(next.retry_at.map(Timestamp::as_second));
            failure = Some(next);
        }
        assert_eq!(pauses, [Some(10), Some(20), Some(40), Some(80), None]);
        let text = (Reason::InspectFailed, String::new());
        let fresh = Failure::after(failure.as_ref(), ("s", 2, "p"), text, true, now);
        assert_eq!(fresh.attempts, 1);
    }
}
