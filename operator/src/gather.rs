//! Gather: all that the operator reads of the cluster, from its own copies (the watches keep
//! them), so that a pass asks the API server nothing.
#![expect(
    clippy::disallowed_methods,
    reason = "the one file that reads, the time included"
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::Store;
use kube::{Resource, ResourceExt};
use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::{Boot, InferenceDeployment, Target};

use crate::build::{ANSWERED_ANNOTATION, HASH_ANNOTATION, SPEC_ANNOTATION};
use crate::children::ChildKind;
use crate::drift;
use crate::error::Error;
use crate::facts::{ChildFacts, Facts, Files, Holder, Identity, ReplicaSetFacts};
use crate::inspect;
use crate::memory::Memory;
use crate::pods::{PodFacts, instant};
use crate::reach::{Behind, Unreached};
use crate::reports::Reports;
use crate::sleepers;
use crate::steer::Steering;
use crate::stores::{Stores, external, has_ready_endpoint};
use crate::turns::Turn;
use crate::working::working_since;

/// The label of an EndpointSlice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Everything known about `object`.
///
/// # Errors
/// The object lacks what the API server gives every object.
pub(crate) fn gather(
    object: Arc<InferenceDeployment>,
    stores: &Stores,
    (reports, steering): (&Reports, &Steering),
    memory: &mut Memory,
) -> Result<Facts, Error> {
    let identity = identity(&object.metadata)?;
    let now = now();
    let status = match &memory.written {
        Some((status, _)) => status.clone(),
        None => object.status.clone().unwrap_or_default(),
    };
    let working_since = working_since(&status, memory, identity.generation, now);
    let room = memory.replacing.clone();
    let (pods, inspect_pods) = pods(stores, &identity);
    let Children { ours, taken } = children(stores, &identity, memory);
    let unreached = unreached(stores, &identity, &pods, memory, now);
    let reports = reports.of(&identity.uid);
    let awake = sleepers::awake(&pods, &reports, &memory.awake, now);
    memory.awake.clone_from(&awake);
    let (boots, files) = documents(stores, &identity, memory);
    Ok(Facts {
        replica_sets: replica_sets(stores, &identity, memory),
        boots,
        files,
        children: ours,
        taken,
        reports,
        awake,
        tries: steering.of(&identity.uid),
        limits_tried: memory.limits_tried(&pods),
        inspect_failure: memory.inspect_failure.clone(),
        pull_trouble: pull_trouble(&inspect_pods, memory, now),
        reread: memory.reread,
        unreached,
        object,
        identity,
        status,
        pods,
        inspect_pods,
        room,
        turn: Turn::Yours,
        working_since,
        now,
    })
}

/// What names an object.
///
/// # Errors
/// The object lacks what the API server gives every object.
pub(crate) fn identity(meta: &ObjectMeta) -> Result<Identity, Error> {
    let namespace = meta.namespace.clone();
    Ok(Identity {
        namespace: namespace.ok_or(Error::Incomplete("namespace"))?,
        name: meta.name.clone().ok_or(Error::Incomplete("name"))?,
        uid: meta.uid.clone().ok_or(Error::Incomplete("uid"))?,
        generation: meta.generation.ok_or(Error::Incomplete("generation"))?,
    })
}

/// The time, for what is told outside of a pass.
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

/// The inspect pod whose image cannot be pulled, and since when that is known.
fn pull_trouble(
    inspections: &[PodFacts],
    memory: &mut Memory,
    now: Timestamp,
) -> Option<(String, Timestamp)> {
    let mut troubled = inspections
        .iter()
        .filter(|pod| inspect::pull_trouble(pod).is_some());
    let uid = troubled.next().map(|pod| pod.uid.clone());
    let before = memory.pull_trouble.take();
    memory.pull_trouble = uid.map(|uid| match before {
        Some((known, since)) if known == uid => (uid, since),
        _ => (uid, now),
    });
    memory.pull_trouble.clone()
}

/// What keeps requests from every engine although some are ready, and since when that is known.
fn unreached(
    stores: &Stores,
    identity: &Identity,
    pods: &[PodFacts],
    memory: &mut Memory,
    now: Timestamp,
) -> Option<Unreached> {
    let here = |meta: &ObjectMeta| meta.namespace.as_deref() == Some(identity.namespace.as_str());
    let of_service = |slice: &EndpointSlice| {
        here(&slice.metadata) && slice.labels().get(SERVICE_NAME) == Some(&identity.name)
    };
    let service = |service: &Service| {
        here(&service.metadata) && service.metadata.name.as_ref() == Some(&identity.name)
    };
    let slices = stores.endpoint_slices.state_filter(of_service);
    let behind = Behind {
        external: stores
            .services
            .find(service)
            .is_some_and(|it| external(&it)),
        endpoint: slices.iter().any(|slice| has_ready_endpoint(slice)),
    };
    let ready = pods.iter().any(|pod| pod.ready && pod.counts());
    memory.unreached = behind.unreached(ready, memory.unreached, now);
    memory.unreached
}

/// Whether the object was made for the resource that `identity` names. An owner that does not
/// control it may be named by anybody, so that an object of theirs goes with the resource.
fn owned<K: Resource>(object: &K, identity: &Identity) -> bool {
    object.meta().namespace.as_deref() == Some(identity.namespace.as_str())
        && object
            .owner_references()
            .iter()
            .any(|owner| owner.controller == Some(true) && owner.uid == identity.uid)
}

/// As [`owned`], or known to be ours by its uid: somebody may have taken its owner off.
fn is_ours<K: Resource>(object: &K, kind: ChildKind, identity: &Identity, memory: &Memory) -> bool {
    let written = memory.applied.get(&(kind, object.name_any()));
    owned(object, identity)
        || written.is_some_and(|written| written.uid.is_some() && written.uid == object.uid())
}

fn pods(stores: &Stores, identity: &Identity) -> (Vec<PodFacts>, Vec<PodFacts>) {
    let (mut engines, mut inspections) = (Vec::new(), Vec::new());
    // Engine pods belong to a ReplicaSet, so the label tells whose they are.
    let ours = stores.pods.state_filter(|pod| {
        pod.metadata.namespace.as_deref() == Some(identity.namespace.as_str())
            && pod.labels().get(names::LABEL_DEPLOYMENT) == Some(&identity.name)
    });
    for pod in ours {
        match pod.labels().get(names::LABEL_ROLE).map(String::as_str) {
            Some(names::ROLE_ENGINE) => {
                engines.push(PodFacts::read(&pod, names::CONTAINER_ENGINE));
            }
            Some(names::ROLE_INSPECT) if owned(&*pod, identity) => {
                inspections.push(PodFacts::read(&pod, names::CONTAINER_INSPECT));
            }
            _ => {}
        }
    }
    engines.sort_by(|a, b| a.name.cmp(&b.name));
    inspections.sort_by(|a, b| a.name.cmp(&b.name));
    (engines, inspections)
}

/// Oldest first. A set that this process wrote a moment ago is seen as it was written.
fn replica_sets(stores: &Stores, identity: &Identity, memory: &Memory) -> Vec<ReplicaSetFacts> {
    let ours = stores.replica_sets.state_filter(|set| {
        let here = set.metadata.namespace.as_deref() == Some(identity.namespace.as_str());
        here && is_ours(set, ChildKind::ReplicaSet, identity, memory)
            && set.metadata.deletion_timestamp.is_none()
    });
    let read = |set: &Arc<ReplicaSet>| {
        let name = set.name_any();
        let replicas = set
            .spec
            .as_ref()
            .and_then(|spec| spec.replicas)
            .unwrap_or(1);
        let replicas = u32::try_from(replicas).unwrap_or(0);
        let newer = memory
            .applied
            .get(&(ChildKind::ReplicaSet, name.clone()))
            .filter(|applied| {
                applied.resource_version
                    > resource_version(set.metadata.resource_version.as_deref())
            });
        ReplicaSetFacts {
            revision: set
                .labels()
                .get(names::LABEL_REVISION)
                .cloned()
                .unwrap_or_default(),
            replicas: newer
                .and_then(|applied| applied.replicas)
                .unwrap_or(replicas),
            created: instant(set.metadata.creation_timestamp.as_ref()),
            hash: set
                .annotations()
                .get(HASH_ANNOTATION)
                .cloned()
                .unwrap_or_default(),
            failure: replica_failure(set).map(|(_, words)| words),
            failing_since: replica_failure(set).and_then(|(since, _)| since),
            spec: set
                .annotations()
                .get(SPEC_ANNOTATION)
                .cloned()
                .unwrap_or_default(),
            answered: set.annotations().contains_key(ANSWERED_ANNOTATION),
            name,
        }
    };
    let mut sets: Vec<ReplicaSetFacts> = ours.iter().map(read).collect();
    sets.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
    sets
}

/// What engines were started with, and what they begin with when they start again, by revision: of
/// ConfigMaps of ours whose documents can be read, and are of the revision that they are labelled with.
fn documents(
    stores: &Stores,
    identity: &Identity,
    memory: &Memory,
) -> (BTreeMap<String, Boot>, BTreeMap<String, Files>) {
    let ours = stores.config_maps.state_filter(|map| {
        let here = map.metadata.namespace.as_deref() == Some(identity.namespace.as_str());
        here && is_ours(map, ChildKind::ConfigMap, identity, memory)
    });
    let boot = |map: &ConfigMap| {
        let text = map.data.as_ref()?.get(names::BOOT_KEY)?;
        let boot: Boot = serde_json::from_str(text).ok()?;
        let labelled = map.labels().get(names::LABEL_REVISION) == Some(&boot.revision);
        labelled.then(|| (text.clone(), boot))
    };
    let target = |map: &ConfigMap| -> Option<Target> {
        serde_json::from_str(map.data.as_ref()?.get(names::TARGET_KEY)?).ok()
    };
    let (mut boots, mut files) = (BTreeMap::new(), BTreeMap::new());
    for map in &ours {
        let Some((text, document)) = boot(map) else {
            continue;
        };
        let revision = document.revision.clone();
        if let Some(target) = target(map) {
            files.insert(revision.clone(), Files { boot: text, target });
        }
        boots.insert(revision, document);
    }
    (boots, files)
}

/// Since when, and why, a ReplicaSet cannot make its pods, if it says so (quota, admission).
pub(crate) fn replica_failure(set: &ReplicaSet) -> Option<(Option<Timestamp>, String)> {
    let conditions = set.status.as_ref()?.conditions.as_ref()?;
    let failure = conditions
        .iter()
        .find(|c| c.type_ == "ReplicaFailure" && c.status == "True")?;
    let since = instant(failure.last_transition_time.as_ref());
    Some((since, failure.message.clone()?))
}

/// A resource version as the number it is. Those that are not compare as unknown.
pub(crate) fn resource_version(text: Option<&str>) -> Option<u64> {
    text.and_then(|text| text.parse().ok())
}

/// Children by whose they are: ours, and those of another resource.
fn children(stores: &Stores, identity: &Identity, memory: &Memory) -> Children {
    let mut all = Children::default();
    let who = (identity, memory);
    let Stores {
        deployments: _,
        replica_sets,
        pods: _,
        config_maps,
        services,
        service_accounts,
        budgets,
        endpoint_slices: _,
    } = stores;
    all.collect(ChildKind::ReplicaSet, replica_sets, who);
    all.collect(ChildKind::ConfigMap, config_maps, who);
    all.collect(ChildKind::Service, services, who);
    all.collect(ChildKind::ServiceAccount, service_accounts, who);
    all.collect(ChildKind::PodDisruptionBudget, budgets, who);
    all
}

#[derive(Default)]
struct Children {
    ours: BTreeMap<(ChildKind, String), ChildFacts>,
    taken: BTreeMap<(ChildKind, String), Holder>,
}

impl Children {
    fn collect<K>(
        &mut self,
        kind: ChildKind,
        store: &Store<K>,
        (identity, memory): (&Identity, &Memory),
    ) where
        K: Resource + Clone + 'static,
        K::DynamicType: std::hash::Hash + Eq + Clone,
    {
        let ours = |child: &K| is_ours(child, kind, identity, memory);
        let named = store.state_filter(|child| {
            let label = child.labels().get(names::LABEL_DEPLOYMENT);
            child.meta().namespace.as_deref() == Some(identity.namespace.as_str())
                && (label == Some(&identity.name) || ours(child))
        });
        for child in named {
            let key = (kind, child.name_any());
            if !ours(&child) {
                let holder = Holder::of(child.meta(), &identity.name);
                self.taken.insert(key, holder);
            } else if child.meta().deletion_timestamp.is_none() {
                let hash = child.annotations().get(HASH_ANNOTATION).cloned();
                let facts = ChildFacts {
                    uid: child.uid(),
                    hash: hash.unwrap_or_default(),
                    resource_version: resource_version(child.resource_version().as_deref()),
                    owned: drift::ours(child.meta()).to_owned(),
                };
                self.ours.insert(key, facts);
            }
        }
    }
}
