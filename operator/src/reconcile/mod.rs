//! The story of a pass over one resource: gather, plan and build, apply, publish.

use std::sync::Arc;
use std::time::Duration;

use kube::core::ObjectMeta;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Client, Resource, ResourceExt};
use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::{ConditionType, InferenceDeployment, InferenceDeploymentStatus};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::apply::{Writer, Written, apply};
use crate::build::PodSettings;
use crate::children::ChildKind;
use crate::desire::{Desire, desire, soonest};
use crate::error::Error;
use crate::events::Happening;
use crate::facts::{Facts, Holder, Identity};
use crate::gather::{gather, identity};
use crate::inspect::Model;
use crate::memory::{Memories, Memory};
use crate::metrics::Metrics;
use crate::publish::{Publisher, publish, publish_unreadable, tell};
use crate::reports::{Listener, Reports};
use crate::status::status;
use crate::stores::{Decoded, Stores};
use crate::token::AdminKey;
use crate::turns::{Turn, Turns};

/// Pauses after failed passes.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What every pass needs.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) stores: Stores,
    /// Passes run as tasks of their own, and a store wakes only the last of the tasks that wait for
    /// it to be filled: they take turns here, or all but one would wait for ever.
    pub(crate) filled: OnceCell<()>,
    pub(crate) reports: Arc<Reports>,
    pub(crate) memories: Memories,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) turns: Arc<Turns>,
    pub(crate) key: AdminKey,
    pub(crate) settings: Settings,
}

/// What the flags say.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) pods: PodSettings,
    pub(crate) status_interval: Duration,
    pub(crate) renew_every: Duration,
    pub(crate) unschedulable_after: Duration,
    /// Name of the operator's own pod, if it runs in one.
    pub(crate) pod_name: Option<String>,
}

/// One pass.
///
/// # Errors
/// Whatever kept it from its end; it is tried again, see [`retry`].
pub(crate) async fn reconcile(
    object: Arc<Decoded<InferenceDeployment>>,
    context: Arc<Context>,
) -> Result<Action, Error> {
    context.filled.get_or_init(|| context.stores.ready()).await;
    let started = Instant::now();
    let outcome = match &object.object {
        Ok(readable) => pass(Arc::clone(readable), &context).await,
        Err(what) => publish_unreadable(context.publisher(), &object.object_ref(&()), what)
            .await
            .map(|()| Action::await_change()),
    };
    let outcome = match outcome {
        // Deleted in the middle of a pass: its next event, or none, tells.
        Err(error) if error.is_gone() => {
            let (namespace, name) = (object.namespace(), object.name_any());
            tracing::debug!(namespace, name, %error, "gone");
            Ok(Action::requeue(LONGEST_PAUSE))
        }
        outcome => outcome,
    };
    context
        .metrics
        .observe_reconcile(started.elapsed(), outcome.is_ok());
    outcome
}

impl Context {
    fn publisher(&self) -> Publisher<'_> {
        Publisher {
            client: &self.client,
            metrics: &self.metrics,
            interval: self.settings.status_interval,
            renew_every: self.settings.renew_every,
            instance: self.settings.pod_name.as_deref(),
        }
    }
}

async fn pass(object: Arc<InferenceDeployment>, context: &Context) -> Result<Action, Error> {
    // What goes with the resource is the garbage collector's.
    if object.metadata.deletion_timestamp.is_some() {
        context.turns.forget(&key_of(&*object));
        return Ok(Action::await_change());
    }
    let uid = identity(&object.metadata)?.uid;
    let memory = context.memories.of(&uid);
    let mut memory = memory.lock().await;
    if memory.namespace_ends {
        context.turns.forget(&key_of(&*object));
        return Ok(Action::await_change());
    }
    let Settings {
        pods,
        unschedulable_after,
        status_interval: _,
        renew_every: _,
        pod_name: _,
    } = &context.settings;

    let mut facts = gather(object, &context.stores, &context.reports, &mut memory)?;
    let token = context.key.token(&uid);
    context.reports.listen(&uid, &token, listeners(&facts));
    let decide = |facts: &Facts| desire(facts, pods, &token, *unschedulable_after);
    let mut desire = decide(&facts)?;
    facts.turn = context.turns.stand(&key_of(&*facts.object), desire.stand);
    if facts.turn != Turn::Yours {
        desire = decide(&facts)?;
    }

    let writer = Writer {
        client: &context.client,
        metrics: &context.metrics,
        namespace: &facts.identity.namespace,
        name: &facts.identity.name,
    };
    let mut written = Written::default();
    let mut applied = apply(&writer, &facts, &desire, &mut memory, &mut written).await;
    if let Err(Error::Refused(words)) = &applied {
        desire.refuse(&facts, words);
        applied = apply(&writer, &facts, &desire, &mut memory, &mut written).await;
    }
    match &applied {
        Err(error) if error.namespace_ends() => {
            context.reports.listen(&uid, &token, Vec::new());
            memory.namespace_ends = true;
            let Identity {
                namespace, name, ..
            } = &facts.identity;
            tracing::info!(
                namespace,
                name,
                "the namespace is being deleted: nothing is done here"
            );
            return Ok(Action::await_change());
        }
        // What is somebody else's is no event of ours: it is looked for now and then.
        Err(
            error @ Error::Taken {
                holder: Holder::Stranger,
                ..
            },
        ) => {
            desire.outcome.taken = Some(error.to_string());
            written.look_again = soonest(written.look_again, Some(LONGEST_PAUSE));
            applied = Ok(());
        }
        Err(error) => admit(&mut desire, error),
        Ok(()) => {}
    }
    let publisher = context.publisher();
    remember(publisher, &facts, &desire, &mut memory).await;
    for (kind, name, path) in &written.repaired {
        let happening = Happening::repaired(kind.name(), name, path);
        tell(publisher, &facts.object.object_ref(&()), &happening).await;
    }
    desire.outcome.contested = written.contested.take();
    let next = status(&facts, &desire.outcome);
    let deadline = deadline(&facts, &next);
    let wait = publish(publisher, &facts, next, &mut memory).await?;
    for pod in &desire.discard {
        let known = facts.inspect_pods.iter().find(|known| known.name == *pod);
        let uid = known.map(|pod| pod.uid.as_str());
        writer.delete(ChildKind::Pod, pod, uid).await?;
    }
    applied?;
    memory.failures = 0;
    let again = [wait, desire.look_again, written.look_again, deadline];
    let again = again.into_iter().fold(None, soonest);
    Ok(again.map_or_else(Action::await_change, Action::requeue))
}

/// What a resource is called among others.
pub(crate) fn key_of(object: &impl ResourceExt) -> String {
    format!(
        "{}/{}",
        object.namespace().unwrap_or_default(),
        object.name_any()
    )
}

/// A pass that could not be brought to its end says so in the status.
fn admit(desire: &mut Desire, error: &Error) {
    let text = error.to_string();
    if let Model::Inspecting(_) = &desire.outcome.model {
        desire.outcome.model = match error.refuses(ChildKind::Pod) {
            // Admission does not let the source be mounted: Pod Security, a quota.
            true => Model::Unavailable(text.clone()),
            false => Model::Inspecting(text.clone()),
        };
    }
    desire.outcome.trouble = Some(text);
}

async fn remember(publisher: Publisher<'_>, facts: &Facts, desire: &Desire, memory: &mut Memory) {
    memory.reread = desire.reread;
    memory.inspect_failure = match &desire.outcome.model {
        Model::Failed(failure) => Some(failure.clone()),
        Model::Known(..) => None,
        Model::Inspecting(_) | Model::Unavailable(_) => memory.inspect_failure.take(),
    };
    let Some((revision, lack)) = &desire.made_way else {
        return;
    };
    let first = memory
        .replacing
        .as_ref()
        .is_none_or(|(known, _)| known != revision);
    memory.replacing = Some((revision.clone(), *lack));
    if first {
        let resource = facts.object.object_ref(&());
        tell(publisher, &resource, &Happening::replacing(revision)).await;
    }
}

/// The engines that can be listened to.
fn listeners(facts: &Facts) -> Vec<Listener> {
    let resource = ObjectRef::new(&facts.identity.name).within(facts.identity.namespace.as_str());
    let listens = facts.pods.iter().filter(|pod| !pod.finished());
    listens
        .filter_map(|pod| {
            // Before its first start an engine has nothing to say.
            let lives = pod.engine.running || pod.engine.restarts > 0 || pod.ready;
            Some(Listener {
                resource: resource.clone(),
                pod: pod.name.clone(),
                pod_uid: pod.uid.clone(),
                ip: pod.ip.clone().filter(|_| lives)?,
                port: names::PORT_ADMIN,
            })
        })
        .collect()
}

/// When the spec's patience runs out, if work is under way.
fn deadline(facts: &Facts, next: &InferenceDeploymentStatus) -> Option<Duration> {
    let works = next
        .conditions
        .iter()
        .any(|c| c.type_ == ConditionType::Reconciling.as_str());
    works.then(|| facts.deadline_left().max(Duration::from_secs(1)))
}

/// What follows a failed pass: another, after a pause that doubles up to half a minute.
pub(crate) fn retry(
    object: Arc<Decoded<InferenceDeployment>>,
    error: &Error,
    context: Arc<Context>,
) -> Action {
    context
        .metrics
        .errors
        .with_label_values(&[error.label()])
        .inc();
    let ObjectMeta {
        namespace,
        name,
        uid,
        ..
    } = object.meta();
    let memory = context.memories.of(uid.as_deref().unwrap_or_default());
    let failures = memory.try_lock().map_or(0, |mut memory| {
        memory.failures = memory.failures.saturating_add(1);
        memory.failures
    });
    let pause = FIRST_PAUSE
        .saturating_mul(1 << failures.min(10))
        .min(LONGEST_PAUSE);
    tracing::warn!(
        namespace = namespace.as_deref(),
        name = name.as_deref(),
        %error,
        retry_seconds = pause.as_secs_f32(),
        "a pass failed"
    );
    Action::requeue(pause)
}

#[cfg(test)]
mod tests;
