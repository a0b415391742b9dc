//! What the operator remembers between passes over a resource. All of it can be lost: a new
//! process finds its way from the cluster alone; what is remembered saves writes and repeats.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use plimsoll_crds::v1alpha1::{InferenceDeploymentStatus, Reason};
use tokio::time::Instant;

use crate::children::ChildKind;
use crate::pods::PodFacts;
use crate::reach::Unreached;
use crate::rolling::Room;
use crate::steer::Tried;

/// Pauses between two attempts to inspect one source, for as long as the resource exists: a
/// registry comes back, a claim is filled, a tag is moved to a model that can be run.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

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
    /// The inspect pod whose image cannot be pulled, by uid, and since when.
    pub(crate) pull_trouble: Option<(String, Timestamp)>,
    /// The model was read anew because an engine found other files, and was as before.
    pub(crate) reread: Option<Reread>,
    /// The revision that old pods made way for, and what was short.
    pub(crate) replacing: Option<(String, Room)>,
    /// Engine pods are ready, and the Service leads to none.
    pub(crate) unreached: Option<Unreached>,
    /// Engines that serve and are not ready, see [`crate::sleepers::awake`].
    pub(crate) awake: BTreeMap<String, Timestamp>,
    /// The last request for each pod's memory limit, by uid of the pod.
    pub(crate) limits: HashMap<String, LimitAsked>,
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
    /// Engines that answered, run and do not answer.
    pub(crate) silent: BTreeSet<String>,
    pub(crate) refused: BTreeSet<String>,
    /// Engines that are asleep, or on their way out of it.
    pub(crate) asleep: BTreeSet<String>,
    /// What engines hold to.
    pub(crate) holdings: BTreeMap<String, Holding>,
    /// A rollout is under way, and its end has not been told.
    pub(crate) rolling: bool,
}

/// What one engine holds to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holding {
    /// The life of its container.
    pub(crate) restarts: i32,
    /// The budgets of its ranks, in bytes.
    pub(crate) budgets: u64,
    /// Tokens of its KV cache.
    pub(crate) tokens: u64,
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

/// A memory limit that was asked for.
#[derive(Clone, Debug)]
pub(crate) struct LimitAsked {
    pub(crate) bytes: u64,
    pub(crate) at: Instant,
    /// The API server's words, if it refused.
    pub(crate) refused: Option<String>,
}

/// A ReplicaSet that can't be made, whoever asks.
#[derive(Clone, Debug)]
pub(crate) struct RefusedSet {
    pub(crate) hash: String,
    pub(crate) words: String,
    pub(crate) at: Instant,
}

impl Memory {
    /// What became of requests for the limits of these pods; those of others are forgotten.
    pub(crate) fn limits_tried(&mut self, pods: &[PodFacts]) -> BTreeMap<String, Tried> {
        let known = |uid: &String| pods.iter().any(|pod| pod.uid == *uid);
        self.limits.retain(|uid, _| known(uid));
        let tried = |asked: &LimitAsked| Tried {
            bytes: asked.bytes,
            ago: asked.at.elapsed(),
            refused: asked.refused.clone(),
        };
        let all = self.limits.iter();
        all.map(|(uid, asked)| (uid.clone(), tried(asked)))
            .collect()
    }
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
    pub(crate) retry_at: Timestamp,
}

/// Readings in a row that found what was known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reread {
    pub(crate) attempts: u32,
    pub(crate) again_at: Timestamp,
}

impl Reread {
    /// One more.
    pub(crate) fn after(before: Option<Reread>, now: Timestamp) -> Reread {
        let attempts = before.map_or(0, |before| before.attempts).saturating_add(1);
        Reread {
            attempts,
            again_at: next_attempt(attempts, now),
        }
    }
}

/// When to try again what was tried this often.
fn next_attempt(attempts: u32, now: Timestamp) -> Timestamp {
    let pause = FIRST_PAUSE.saturating_mul(1 << attempts.saturating_sub(1).min(10));
    now.saturating_add(pause.min(LONGEST_PAUSE))
        .unwrap_or(Timestamp::MAX)
}

impl Failure {
    /// The failure after one more attempt, with the pause doubled.
    pub(crate) fn after(
        before: Option<&Failure>,
        (source, generation, pod_uid): (&str, i64, &str),
        (reason, message): (Reason, String),
        now: Timestamp,
    ) -> Failure {
        let same = before.filter(|b| b.source == source && b.generation == generation);
        let attempts = same.map_or(0, |before| before.attempts).saturating_add(1);
        Failure {
            source: source.to_owned(),
            generation,
            pod_uid: pod_uid.to_owned(),
            reason,
            message,
            attempts,
            retry_at: next_attempt(attempts, now),
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
    fn an_inspection_is_tried_again_for_ever_with_pauses_that_grow_to_ten_minutes() {
        let now = Timestamp::UNIX_EPOCH;
        let mut failure = None;
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let text = (Reason::InspectFailed, "boom".to_owned());
            let next = Failure::after(failure.as_ref(), ("s", 1, "p"), text, now);
            pauses.push(next.retry_at.as_second());
            failure = Some(next);
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
        let text = (Reason::InspectFailed, String::new());
        let fresh = Failure::after(failure.as_ref(), ("s", 2, "p"), text, now);
        assert_eq!(fresh.attempts, 1);
        let many = Reread {
            attempts: u32::MAX,
            again_at: now,
        };
        assert_eq!(Reread::after(Some(many), now).again_at.as_second(), 600);
    }
}
