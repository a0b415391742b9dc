//! The wiring of one scope, a namespace or all: watches, passes, and what wakes them.

mod matters;

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, future};
use kube::runtime::controller::{self, Controller};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt};
use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::InferenceDeployment;
use tokio::sync::{OnceCell, mpsc};

use crate::args::Args;
use crate::build::PodSettings;
use crate::mandate::Mandate;
use crate::memory::Memories;
use crate::metrics::Metrics;
use crate::pods;
use crate::reconcile::{Context, Settings, key_of, reconcile, retry};
use crate::reports::Reports;
use crate::steer::Steering;
use crate::stores::{Decoded, Scope, Stores, Watched, Watches};
use crate::token::AdminKey;
use crate::turns::Turns;
use crate::watch::{Change, changes};
use matters::{Ref, owner};

/// Nudges that wait for the controller; senders wait when it is full.
const NUDGES: usize = 256;
/// Passes at once.
const CONCURRENCY: u16 = 8;
/// Changes that come together are looked at together.
const DEBOUNCE: Duration = Duration::from_millis(20);

/// What all scopes share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) watches: Arc<Watches>,
    pub(crate) turns: Arc<Turns>,
    pub(crate) mandate: Mandate,
    pub(crate) key: AdminKey,
    pub(crate) args: Arc<Args>,
    /// The cluster changes the memory limits of pods that run.
    pub(crate) resize: bool,
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
        watches,
        turns,
        mandate,
        key,
        args,
        resize,
    } = shared;
    let scope = Scope {
        client: client.clone(),
        namespace,
        watches: Arc::clone(&watches),
        metrics: Arc::clone(&metrics),
    };
    let (nudges, nudged) = mpsc::channel(NUDGES);
    let steering = Steering::new(nudges.clone(), mandate);
    let reports = Arc::new(Reports::new(nudges, Arc::clone(&metrics), args.stale_after));

    let (deployments, deployment_events) = scope.deployments();
    let (replica_sets, replica_set_changes) = children(&scope, matters::replica_set);
    let (pods, pod_changes) = children(&scope, pods::relevant);
    let (config_maps, config_map_changes) = children(&scope, matters::child);
    let (services, service_changes) = children(&scope, matters::service);
    let (service_accounts, account_changes) = children(&scope, matters::child);
    let (budgets, budget_changes) = children(&scope, matters::child);
    // They carry the labels of their Service.
    let (endpoint_slices, endpoint_changes) = children(&scope, matters::endpoints);
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
            endpoint_slices,
        },
        filled: OnceCell::new(),
        reports,
        steering,
        memories: Memories::default(),
        turns,
        metrics,
        key,
        settings: Settings {
            pods: PodSettings {
                sidecar_image: args.sidecar_image.clone(),
                pull_policy: args.image_pull_policy,
                resize,
            },
            status_interval: args.status_interval,
            renew_every: args.renew_every,
            unschedulable_after: args.unschedulable_after,
            pod_name: args.pod_name.clone(),
        },
    });
    tokio::spawn(tell_turns(watches, Arc::clone(&context)));
    let forgetting = Arc::clone(&context);
    let touched = changes(deployment_events, matters::deployment).filter_map(move |change| {
        let touched = match change {
            Change::Touched(object) => Some(Ok(object)),
            Change::Gone(object) => {
                forget(&forgetting, &object);
                None
            }
        };
        future::ready(touched)
    });
    let nudged = futures::stream::unfold(nudged, async |mut nudged| {
        let resource: ObjectRef<InferenceDeployment> = nudged.recv().await?;
        let namespace = resource.namespace.unwrap_or_default();
        Some((Ref::new(&resource.name).within(&namespace), nudged))
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
        .reconcile_on(endpoint_changes)
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

/// Tells the turns what there is, once it is listed.
async fn tell_turns(watches: Arc<Watches>, context: Arc<Context>) {
    watches.listed().await;
    let all = context.stores.deployments.state();
    let live = all.iter().filter(|it| it.object.is_ok());
    let live = live.filter(|it| it.meta().deletion_timestamp.is_none());
    context.turns.listed(live.map(|it| key_of(&**it)));
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
fn forget(context: &Context, object: &Decoded<InferenceDeployment>) {
    let uid = object.uid().unwrap_or_default();
    context.reports.listen(&uid, "", Vec::new());
    context.steering.keep(&uid, &[]);
    context.memories.forget(&uid);
    context.turns.forget(&key_of(object));
    let namespace = object.namespace().unwrap_or_default();
    // A resource made anew under the same name shows its conditions with its first pass.
    context
        .metrics
        .forget_resource(&namespace, &object.name_any());
}

/// The children of a kind, and the resources whose children changed.
fn children<K>(
    scope: &Scope,
    relevant: fn(&K) -> u64,
) -> (Store<K>, impl Stream<Item = Ref> + Send + 'static)
where
    K: Watched<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + std::fmt::Debug
        + Send
        + Sync
        + 'static,
{
    let ours = watcher::Config::default().labels(names::LABEL_DEPLOYMENT);
    let (store, events) = scope.objects(ours);
    let owners = changes(events, relevant).filter_map(|change| {
        let (Change::Touched(child) | Change::Gone(child)) = change;
        future::ready(owner(&child))
    });
    (store, owners)
}

#[cfg(test)]
mod start_tests;
