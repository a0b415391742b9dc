//! What of a change matters, and to which resource: everything else is noise that wakes nobody. Pure.

use std::hash::Hash;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::InferenceDeployment;

use crate::build::HASH_ANNOTATION;
use crate::drift;
use crate::stores::{Decoded, external, has_ready_endpoint};
use crate::watch::hash_of;

/// A resource, as the controller names it.
pub(super) type Ref = ObjectRef<Decoded<InferenceDeployment>>;

/// Whose a child is: its owner's, or, where that is none of ours (an engine pod's is its
/// ReplicaSet), the one that its label names.
pub(super) fn owner(child: &impl Resource) -> Option<Ref> {
    let owners = child.owner_references().iter();
    let mut owners = owners.filter(|owner| owner.kind == names::KIND);
    let name = match owners.next() {
        Some(owner) => &owner.name,
        None => child.labels().get(names::LABEL_DEPLOYMENT)?,
    };
    Some(ObjectRef::new(name).within(child.meta().namespace.as_deref()?))
}

/// Status and labels of a resource mean nothing to us.
pub(super) fn deployment(object: &Decoded<InferenceDeployment>) -> u64 {
    hash_of(&(object.meta().generation, deleted(object), object.problem()))
}

pub(super) fn child<K: Resource>(object: &K) -> u64 {
    hash_of(&(
        object.annotations().get(HASH_ANNOTATION),
        drift::ours(object.meta()),
        deleted(object),
    ))
}

pub(super) fn replica_set(set: &ReplicaSet) -> u64 {
    let replicas = set.spec.as_ref().and_then(|spec| spec.replicas);
    hash_of(&(child(set), replicas, crate::gather::replica_failure(set)))
}

pub(super) fn service(service: &Service) -> u64 {
    hash_of(&(child(service), external(service)))
}

/// Which endpoints come and go is noise.
pub(super) fn endpoints(slice: &EndpointSlice) -> u64 {
    hash_of(&(has_ready_endpoint(slice), deleted(slice)))
}

fn deleted(object: &impl Resource) -> impl Hash {
    object.meta().deletion_timestamp.is_some()
}

#[cfg(test)]
mod tests;
