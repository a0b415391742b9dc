//! What is watched, and what each change means: the wiring of one scope, a namespace or all.

use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, future};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{self, Controller};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::utils::Backoff;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::InferenceDeployment;
use serde::de::DeserializeOwned;
use tokio::sync::{OnceCell, mpsc};

use crate::args::Args;
use crate::build::{HASH_ANNOTATION, PodSettings};
use crate::drift;
use crate::gather::Stores;
use crate::memory::Memories;
use crate::metrics::Metrics;
use crate::pods;
use crate::reconcile::{Context, Settings, reconcile, retry};
use crate::reports::Reports;
use crate::token::AdminKey;
use crate::watch::{Change, changes, hash_of};

/// Nudges that wait for the controller; senders wait when it is full.
const NUDGES: usize = 256;
/// Passes at once.
const CONCURRENCY: u16 = 8;
/// Changes that come together are looked at together.
const DEBOUNCE: Duration = Duration::from_millis(20);

type Ref = ObjectRef<InferenceDeployment>;

/// What all scopes share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) key: AdminKey,
    pub(crate) args: Arc<Args>,
}

/// Reconciles the resources of one namespace (`None`: of all) until `stop` resolves.
pub(crate) async fn run(
    shared: Shared,
    namespace: Option<String>,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let Shared {
        client,
        metrics,
        key,
        args,
    } = shared;
    let scope = Scope {
        client: client.clone(),
        namespace,
    };
    let (nudges, nudged) = mpsc::channel(NUDGES);
    let reports = Arc::new(Reports::new(nudges, Arc::clone(&metrics), args.stale_after));

    let ours = watcher::Config::default().labels(names::LABEL_DEPLOYMENT);
    let (deployments, deployment_changes) = scope.deployments();
    let (replica_sets, replica_set_changes) = scope.objects(&ours, replica_set_hash);
    let (pods, pod_changes) = scope.objects(&ours, pods::relevant);
    let (config_maps, config_map_changes) =
        scope.objects::<PartialObjectMeta<ConfigMap>>(&ours, child_hash);
    let (services, service_changes) =
        scope.objects::<PartialObjectMeta<Service>>(&ours, child_hash);
    let (service_accounts, account_changes) =
        scope.objects::<PartialObjectMeta<ServiceAccount>>(&ours, child_hash);
    let (budgets, budget_changes) =
        scope.objects::<PartialObjectMeta<PodDisruptionBudget>>(&ours, child_hash);
    let context = Arc::new(Context {
        client,
        stores: Stores {
            deployments: deployments.clone(),
            replica_sets,
            pods,
            config_maps,
            services,
            service_accounts,
            budgets,
        },
        filled: OnceCell::new(),
        reports,
        memories: Memories::default(),
        metrics,
        key,
        settings: Settings {
            pods: PodSettings {
                sidecar_image: args.sidecar_image.clone(),
                pull_policy: args.image_pull_policy,
            },
            status_interval: args.status_interval,
            unschedulable_after: args.unschedulable_after,
            pod_name: args.pod_name.clone(),
        },
    });
    let forgetting = Arc::clone(&context);
    let touched = deployment_changes.filter_map(move |change| {
        let touched = match change {
            Ok(Change::Touched(object)) => Some(Ok(object)),
            Ok(Change::Gone(object)) => {
                forget(&forgetting, &object);
                None
            }
            Err(_) => None,
        };
        future::ready(touched)
    });
    let nudged = futures::stream::unfold(nudged, async |mut nudged| {
        nudged.recv().await.map(|resource: Ref| (resource, nudged))
    });
    Controller::for_stream(touched, deployments)
        .with_config(
            controller::Config::default()
                .concurrency(CONCURRENCY)
                .debounce(DEBOUNCE),
        )
        .reconcile_on(replica_set_changes)
        .reconcile_on(pod_changes)
        .reconcile_on(config_map_changes)
        .reconcile_on(service_changes)
        .reconcile_on(account_changes)
        .reconcile_on(budget_changes)
        .reconcile_on(nudged)
        .graceful_shutdown_on(stop)
        .run(reconcile, retry, context)
        .for_each(|outcome| {
            if let Err(error) = outcome {
                log(&error);
            }
            future::ready(())
        })
        .await;
}

fn log(error: &controller::Error<crate::error::Error, watcher::Error>) {
    match error {
        // `retry` has told of it.
        controller::Error::ReconcilerFailed(..) => {}
        // A child outlived its owner for a moment.
        controller::Error::ObjectNotFound(object) => {
            tracing::debug!(%object, "a change of what is gone");
        }
        controller::Error::QueueError(error) => tracing::warn!(%error, "a watch failed"),
        controller::Error::RunnerError(error) => tracing::error!(%error, "the controller failed"),
    }
}

/// The resource is gone: nothing of it is kept.
fn forget(context: &Context, object: &InferenceDeployment) {
    let uid = object.uid().unwrap_or_default();
    context.reports.listen(&uid, "", Vec::new());
    context.memories.forget(&uid);
    let namespace = object.namespace().unwrap_or_default();
    // A resource made anew under the same name shows its conditions with its first pass.
    context
        .metrics
        .forget_resource(&namespace, &object.name_any());
}

impl Stores {
    /// Waits until every store holds what the cluster has.
    pub(crate) async fn ready(&self) {
        let Stores {
            deployments,
            replica_sets,
            pods,
            config_maps,
            services,
            service_accounts,
            budgets,
        } = self;
        // They fail only when the watches are dropped, and with them whoever waits here.
        let _ = tokio::join!(
            deployments.wait_until_ready(),
            replica_sets.wait_until_ready(),
            pods.wait_until_ready(),
            config_maps.wait_until_ready(),
            services.wait_until_ready(),
            service_accounts.wait_until_ready(),
            budgets.wait_until_ready(),
        );
    }
}

/// The part of the cluster that is watched.
struct Scope {
    client: Client,
    namespace: Option<String>,
}

impl Scope {
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    fn deployments(
        &self,
    ) -> (
        Store<InferenceDeployment>,
        impl Stream<Item = watcher::Result<Change<InferenceDeployment>>> + Send + 'static,
    ) {
        let (reader, writer) = reflector::store();
        let events = watcher(
            self.api::<InferenceDeployment>(),
            watcher::Config::default(),
        )
        .backoff(Pause::default())
        .modify(|object| object.managed_fields_mut().clear())
        .reflect(writer);
        (
            reader,
            changes(told(names::KIND.to_owned(), events), deployment_hash),
        )
    }

    fn objects<K>(
        &self,
        config: &watcher::Config,
        relevant: fn(&K) -> u64,
    ) -> (Store<K>, impl Stream<Item = Ref> + Send + 'static)
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug
            + Send
            + Sync
            + 'static,
    {
        let (reader, writer) = reflector::store();
        let events = watcher(self.api::<K>(), config.clone())
            .backoff(Pause::default())
            .modify(|object: &mut K| drift::keep_ours(object.meta_mut()))
            .reflect(writer);
        (
            reader,
            owners(changes(told(K::kind(&()).into_owned(), events), relevant)),
        )
    }
}

/// Logs the errors of a watch, which then restarts by itself.
fn told<T: 'static>(
    kind: String,
    events: impl Stream<Item = watcher::Result<T>> + Send + 'static,
) -> impl Stream<Item = watcher::Result<T>> + Send + 'static {
    events.inspect(move |event| {
        if let Err(error) = event {
            tracing::warn!(%kind, %error, "a watch failed and starts again");
        }
    })
}

/// The resources whose children changed.
fn owners<K: Resource + Send + 'static>(
    changes: impl Stream<Item = watcher::Result<Change<K>>> + Send + 'static,
) -> impl Stream<Item = Ref> + Send + 'static {
    changes.filter_map(|change| {
        let owner = match change {
            Ok(Change::Touched(child) | Change::Gone(child)) => owner(&child),
            Err(_) => None,
        };
        future::ready(owner)
    })
}

/// Whose a child is: its owner's, or, where that is none of ours (an engine pod's is its
/// ReplicaSet), the one that its label names.
fn owner(child: &impl Resource) -> Option<Ref> {
    let owners = child.owner_references().iter();
    let mut owners = owners.filter(|owner| owner.kind == names::KIND);
    let name = match owners.next() {
        Some(owner) => &owner.name,
        None => child.labels().get(names::LABEL_DEPLOYMENT)?,
    };
    Some(ObjectRef::new(name).within(child.meta().namespace.as_deref()?))
}

/// Status and labels of a resource mean nothing to us.
fn deployment_hash(object: &InferenceDeployment) -> u64 {
    hash_of(&(object.metadata.generation, deleted(object)))
}

fn child_hash<K: Resource>(object: &K) -> u64 {
    hash_of(&(
        object.annotations().get(HASH_ANNOTATION),
        drift::ours(object.meta()),
        deleted(object),
    ))
}

fn replica_set_hash(set: &ReplicaSet) -> u64 {
    let replicas = set.spec.as_ref().and_then(|spec| spec.replicas);
    hash_of(&(
        child_hash(set),
        replicas,
        crate::gather::replica_failure(set),
    ))
}

fn deleted(object: &impl Resource) -> impl Hash {
    object.meta().deletion_timestamp.is_some()
}

/// Pauses of a watch that fails: half a second, doubled up to five, so that an API server that
/// comes back is noticed soon.
#[derive(Debug)]
struct Pause(Duration);

impl Default for Pause {
    fn default() -> Pause {
        Pause(Duration::from_millis(500))
    }
}

impl Iterator for Pause {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = (pause * 2).min(Duration::from_secs(5));
        Some(pause)
    }
}

impl Backoff for Pause {
    fn reset(&mut self) {
        *self = Pause::default();
    }
}

#[cfg(test)]
mod tests;
