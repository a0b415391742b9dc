//! The operator's copies of the cluster, and the watches that keep them. A watch that fails starts
//! over with a list, so that nothing is missed, and says so in log, metrics and readiness.

mod decode;
mod health;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt, future, stream};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{self, Store};
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use plimsoll_crds::v1alpha1::InferenceDeployment;

pub(crate) use decode::{Decoded, Unreadable, Watched, external, has_ready_endpoint};
use health::Observed;
pub(crate) use health::Watches;

use crate::drift;
use crate::error;
use crate::metrics::Metrics;

/// Pauses after failures in a row: an API server that comes back is noticed soon.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Objects that could not be read, and were told of; beyond that they are told of again.
const TOLD: usize = 1000;

/// The operator's copies of the cluster, of one namespace or of all.
#[derive(Clone)]
pub(crate) struct Stores {
    pub(crate) deployments: Store<Decoded<InferenceDeployment>>,
    pub(crate) replica_sets: Store<ReplicaSet>,
    pub(crate) pods: Store<Pod>,
    pub(crate) config_maps: Store<ConfigMap>,
    pub(crate) services: Store<Service>,
    pub(crate) service_accounts: Store<PartialObjectMeta<ServiceAccount>>,
    pub(crate) budgets: Store<PartialObjectMeta<PodDisruptionBudget>>,
    pub(crate) endpoint_slices: Store<EndpointSlice>,
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
            endpoint_slices,
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
            endpoint_slices.wait_until_ready(),
        );
    }
}

/// The part of the cluster that is watched.
pub(crate) struct Scope {
    pub(crate) client: Client,
    pub(crate) namespace: Option<String>,
    pub(crate) watches: Arc<Watches>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Scope {
    /// The resources, those that cannot be read included.
    pub(crate) fn deployments(
        &self,
    ) -> (
        Store<Decoded<InferenceDeployment>>,
        impl Stream<Item = Event<Decoded<InferenceDeployment>>> + Send + 'static,
    ) {
        let (reader, writer) = reflector::store();
        let events = self
            .events::<InferenceDeployment>(watcher::Config::default())
            .map(Ok)
            .modify(|object| object.managed_fields_mut().clear())
            .reflect(writer);
        (reader, without_errors(events))
    }

    /// Objects of a kind; of one that cannot be read, what is left of it.
    pub(crate) fn objects<K>(
        &self,
        config: watcher::Config,
    ) -> (Store<K>, impl Stream<Item = Event<K>> + Send + 'static)
    where
        K: Watched<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + std::fmt::Debug
            + Send
            + Sync
            + 'static,
    {
        let (reader, writer) = reflector::store();
        let read = self
            .events::<K>(config)
            .filter_map(|event| future::ready(read(event)));
        let events = read.map(Ok).modify(trimmed).reflect(writer);
        (reader, without_errors(events))
    }

    /// The watch of a kind, for ever; its failures are told, and nobody else's concern.
    fn events<K>(
        &self,
        config: watcher::Config,
    ) -> impl Stream<Item = Event<Decoded<K>>> + Send + 'static
    where
        K: Watched<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + std::fmt::Debug
            + Send
            + Sync
            + 'static,
    {
        let api: Api<Decoded<K>> = match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let kind = K::kind(&()).into_owned();
        let observed = self.watches.begin(&kind, self.namespace.as_deref());
        let metrics = Arc::clone(&self.metrics);
        let mut told = HashSet::new();
        let begin = move || watcher(api.clone(), config.clone()).boxed();
        persistent(begin, FIRST_PAUSE).filter_map(move |event| {
            let event = observe(&observed, &kind, event);
            if let Some(Event::Apply(object) | Event::InitApply(object)) = &event {
                tell_unreadable(&kind, object, &metrics, &mut told);
            }
            future::ready(event)
        })
    }
}

/// A watch that is begun anew, with a list, whenever it fails, after a pause that doubles.
fn persistent<T: Send + 'static>(
    begin: impl Fn() -> BoxStream<'static, watcher::Result<Event<T>>> + Send + 'static,
    first_pause: Duration,
) -> impl Stream<Item = watcher::Result<Event<T>>> + Send + 'static {
    struct State<T> {
        running: Option<BoxStream<'static, watcher::Result<Event<T>>>>,
        pause: Duration,
    }
    let state = State {
        running: Some(begin()),
        pause: first_pause,
    };
    stream::unfold((state, begin), move |(mut state, begin)| async move {
        let mut running = match state.running.take() {
            Some(running) => running,
            None => {
                tokio::time::sleep(state.pause).await;
                state.pause = (state.pause * 2).min(LONGEST_PAUSE);
                begin()
            }
        };
        let event = running.next().await?;
        match &event {
            Ok(Event::InitDone | Event::Apply(_) | Event::Delete(_)) => state.pause = first_pause,
            Ok(Event::Init | Event::InitApply(_)) | Err(_) => {}
        }
        state.running = event.is_ok().then_some(running);
        Some((event, (state, begin)))
    })
}

/// Notes how the watch is; what failed goes no further.
fn observe<T>(
    observed: &Observed,
    kind: &str,
    event: watcher::Result<Event<T>>,
) -> Option<Event<T>> {
    match &event {
        Ok(Event::InitDone) => observed.listed(),
        Ok(Event::Apply(_) | Event::Delete(_)) => observed.heard(),
        Ok(Event::Init | Event::InitApply(_)) => {}
        Err(error) => {
            observed.failed();
            tracing::warn!(
                kind,
                error = words(error),
                "a watch failed and starts again"
            );
        }
    }
    event.ok()
}

/// What went wrong, without what was sent.
fn words(error: &watcher::Error) -> String {
    let (doing, error) = match error {
        watcher::Error::InitialListFailed(error) => ("list", error::words(error)),
        watcher::Error::WatchStartFailed(error) => ("begin the watch", error::words(error)),
        watcher::Error::WatchFailed(error) => ("watch", error::words(error)),
        watcher::Error::WatchError(status) => ("watch", error::bounded(&status.message)),
        watcher::Error::NoResourceVersion => ("watch", "an object has no version".to_owned()),
    };
    format!("{doing}: {error}")
}

/// Counts an object that cannot be read, and tells of it once.
fn tell_unreadable<K: Watched>(
    kind: &str,
    object: &Decoded<K>,
    metrics: &Metrics,
    told: &mut HashSet<(Option<String>, String)>,
) {
    let Some(problem) = object.problem() else {
        return;
    };
    metrics.unreadable.with_label_values(&[kind]).inc();
    if told.len() >= TOLD {
        told.clear();
    }
    if told.insert((object.uid(), problem.to_owned())) {
        let (namespace, name) = (object.namespace(), object.name_any());
        tracing::warn!(kind, namespace, name, problem, "an object cannot be read");
    }
}

/// Of an object what passes read: there may be many, and all of them are kept.
pub(crate) fn trimmed<K: Watched>(object: &mut K) {
    drift::keep_ours(object.meta_mut());
    object.trim();
}

/// An object that cannot be read even in part is left as it was last seen.
fn read<K: Watched>(event: Event<Decoded<K>>) -> Option<Event<K>> {
    let object = |decoded: Decoded<K>| Some(Arc::unwrap_or_clone(decoded.object.ok()?));
    match event {
        Event::Apply(decoded) => object(decoded).map(Event::Apply),
        Event::Delete(decoded) => object(decoded).map(Event::Delete),
        Event::InitApply(decoded) => object(decoded).map(Event::InitApply),
        Event::Init => Some(Event::Init),
        Event::InitDone => Some(Event::InitDone),
    }
}

/// Errors went no further than [`observe`]; the traits of watches want them in the type.
fn without_errors<T: Send + 'static>(
    events: impl Stream<Item = watcher::Result<T>> + Send + 'static,
) -> impl Stream<Item = T> + Send + 'static {
    events.filter_map(|event| future::ready(event.ok()))
}

#[cfg(test)]
mod tests;
