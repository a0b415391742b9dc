//! The kinds of objects that are made for a resource.

/// Kinds of objects that are made for a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ChildKind {
    ServiceAccount,
    Secret,
    Service,
    PodDisruptionBudget,
    ConfigMap,
    ReplicaSet,
    Pod,
}

impl ChildKind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            ChildKind::ServiceAccount => "ServiceAccount",
            ChildKind::Secret => "Secret",
            ChildKind::Service => "Service",
            ChildKind::PodDisruptionBudget => "PodDisruptionBudget",
            ChildKind::ConfigMap => "ConfigMap",
            ChildKind::ReplicaSet => "ReplicaSet",
            ChildKind::Pod => "Pod",
        }
    }
}
