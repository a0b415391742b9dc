//! What is known about one resource at one moment: everything that the pure stages read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::report::MemoryReport;
use plimsoll_crds::v1alpha1::{Boot, InferenceDeployment, InferenceDeploymentStatus, Target};

use crate::children::ChildKind;
use crate::memory::{Failure, Reread};
use crate::pods::PodFacts;
use crate::reach::Unreached;
use crate::rolling::Room;
use crate::steer::{Tried, Tries};
use crate::turns::Turn;

/// Everything known about one resource.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) object: Arc<InferenceDeployment>,
    pub(crate) identity: Identity,
    /// The status that was last written.
    pub(crate) status: InferenceDeploymentStatus,
    /// Oldest first.
    pub(crate) replica_sets: Vec<ReplicaSetFacts>,
    /// What engines of each revision were started with, by revision, where its ConfigMap says.
    pub(crate) boots: BTreeMap<String, Boot>,
    /// What engines of each revision begin with, by revision, where its ConfigMap can be read.
    pub(crate) files: BTreeMap<String, Files>,
    /// Engine pods by name, those that are being deleted included.
    pub(crate) pods: Vec<PodFacts>,
    pub(crate) inspect_pods: Vec<PodFacts>,
    /// Other objects made for this resource.
    pub(crate) children: BTreeMap<(ChildKind, String), ChildFacts>,
    /// Objects with names of ours that are not this resource's, and whose they are.
    pub(crate) taken: BTreeMap<(ChildKind, String), Holder>,
    /// The newest report of each pod that ever reported or should have, by pod name.
    pub(crate) reports: BTreeMap<String, ReportFacts>,
    /// Engines that serve and are not ready, by uid of the pod, and since when that is known.
    pub(crate) awake: BTreeMap<String, Timestamp>,
    /// What became of the calls that told engine pods their targets, by uid of the pod.
    pub(crate) tries: BTreeMap<String, Tries>,
    /// What became of the last request for a pod's memory limit, by uid of the pod.
    pub(crate) limits_tried: BTreeMap<String, Tried>,
    /// How the last inspection of this source failed, if it did.
    pub(crate) inspect_failure: Option<Failure>,
    /// The inspect pod whose image cannot be pulled, by uid, and since when.
    pub(crate) pull_trouble: Option<(String, Timestamp)>,
    pub(crate) reread: Option<Reread>,
    /// Engine pods are ready, and the Service leads to none.
    pub(crate) unreached: Option<Unreached>,
    /// Room for a surge pod of a revision, where that is known.
    pub(crate) room: Option<(String, Room)>,
    /// Whether a rollout that the spec did not ask for may begin.
    pub(crate) turn: Turn,
    /// When work on the present spec began.
    pub(crate) working_since: Timestamp,
    pub(crate) now: Timestamp,
}

impl Holder {
    /// Who holds an object, for the resource called `name`.
    pub(crate) fn of(found: &ObjectMeta, name: &str) -> Holder {
        let mut owners = found.owner_references.iter().flatten();
        let before = owners.any(|owner| owner.kind == names::KIND && owner.name == name);
        match before {
            true => Holder::Predecessor,
            false => Holder::Stranger,
        }
    }
}

/// What names a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) generation: i64,
}

/// A revision's ReplicaSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReplicaSetFacts {
    pub(crate) name: String,
    pub(crate) revision: String,
    pub(crate) replicas: u32,
    pub(crate) created: Option<Timestamp>,
    pub(crate) hash: String,
    /// Why it cannot make its pods, if it cannot, and since when.
    pub(crate) failure: Option<String>,
    pub(crate) failing_since: Option<Timestamp>,
    /// Hash of the spec that it was made for, but for the number of replicas; empty where an older
    /// operator made it.
    pub(crate) spec: String,
    /// A pod of it answered once: noted at the ReplicaSet, since pods come and go.
    pub(crate) answered: bool,
}

/// The documents of a revision's ConfigMap.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Files {
    /// `boot.json` as it is written there.
    pub(crate) boot: String,
    pub(crate) target: Target,
}

/// Whose an object is that stands where one of ours should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// It was made for a resource of the same name that was deleted: it is about to go.
    Predecessor,
    Stranger,
}

/// An object made for a resource, as it is in the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChildFacts {
    pub(crate) uid: Option<String>,
    /// Hash of what it was made from, as its annotation says.
    pub(crate) hash: String,
    pub(crate) resource_version: Option<u64>,
    /// The fields that the API server counts as applied by us, see `drift`.
    pub(crate) owned: String,
}

/// The last that was heard of a pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ReportFacts {
    /// None: nothing yet, in the life of this operator.
    pub(crate) report: Option<Arc<MemoryReport>>,
    /// Silent for too long.
    pub(crate) stale: bool,
    /// The pod answered that it does not know our token.
    pub(crate) refused: bool,
}

impl Facts {
    /// Replicas the spec asks for.
    pub(crate) fn wanted(&self) -> u32 {
        self.object.spec.replicas.unwrap_or(1)
    }

    /// Pods that are neither being deleted nor finished.
    pub(crate) fn live_pods(&self) -> impl Iterator<Item = &PodFacts> {
        self.pods.iter().filter(|pod| pod.counts())
    }

    /// The first pod by name that refuses our token, if one does.
    pub(crate) fn refusing_pod(&self) -> Option<&PodFacts> {
        let refused = |pod: &&PodFacts| self.reports.get(&pod.name).is_some_and(|it| it.refused);
        self.live_pods().find(refused)
    }

    pub(crate) fn report(&self, pod: &PodFacts) -> Option<&MemoryReport> {
        self.reports.get(&pod.name)?.report.as_deref()
    }

    /// Time left until work on the present spec has taken too long.
    pub(crate) fn deadline_left(&self) -> Duration {
        let allowed = Duration::from_secs(self.object.spec.progress_deadline_seconds.into());
        allowed.saturating_sub(crate::pods::age(Some(self.working_since), self.now))
    }
}
