//! The story of a pass over one resource: gather, plan and build, apply, publish.

use std::sync::Arc;
use std::time::Duration;

use kube::core::ObjectMeta;
use kube::runtime::controller::Action;
use kube::{Client, Resource, ResourceExt};
use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::InferenceDeployment;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::apply::{Writer, Written, apply};
use crate::build::PodSettings;
use crate::children::ChildKind;
use crate::desire::{Desire, desire, soonest};
use crate::ending::{self, Ending};
use crate::error::Error;
use crate::events::Happening;
use crate::facts::{Facts, Identity};
use crate::gather::{gather, identity};
use crate::memory::{Memories, Memory};
use crate::metrics::Metrics;
use crate::publish::{Publisher, publish, publish_unreadable, tell};
use crate::reports::{Reports, listeners};
use crate::status::status;
use crate::steer::{Addressee, Steering, Tell, Told, What};
use crate::stores::{Decoded, Stores};
use crate::token::AdminKey;
use crate::turns::{Turn, Turns};

/// What every pass needs.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) stores: Stores,
    /// Passes run as tasks of their own, and a store wakes only the last of the tasks that wait for
    /// it to be filled: they take turns here, or all but one would wait for ever.
    pub(crate) filled: OnceCell<()>,
    pub(crate) reports: Arc<Reports>,
    pub(crate) steering: Steering,
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
        Err(error) => match ending::no_failure(&error) {
            Some(rest) => {
                let (namespace, name) = (object.namespace(), object.name_any());
                tracing::debug!(namespace, name, %error, "gone");
                Ok(Action::requeue(rest))
            }
            None => Err(error),
        },
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

    let mut facts = gather(
        object,
        &context.stores,
        (&context.reports, &context.steering),
        &mut memory,
    )?;
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
        desire.refuse(&facts, words)?;
        applied = apply(&writer, &facts, &desire, &mut memory, &mut written).await;
    }
    let written_first = applied
        .as_ref()
        .map_or_else(ending::but_a_budget, |()| true);
    if let Err(error) = &applied {
        match ending::of_writes(error) {
            Ending::Nothing => return Ok(give_up(&facts, &mut memory, context)),
            Ending::Taken(words, rest) => {
                desire.outcome.taken = Some(words);
                written.look_again = soonest(written.look_again, Some(rest));
                applied = Ok(());
            }
            Ending::Again => desire.outcome.admit(error),
        }
    }
    let pods: Vec<&str> = facts.pods.iter().map(|pod| pod.uid.as_str()).collect();
    context.steering.keep(&uid, &pods);
    if written_first && applied.is_ok() {
        tell_targets(&facts, &desire, &token, context)?;
    }
    tell_sleep(&facts, &desire, &token, context)?;
    let publisher = context.publisher();
    remember(publisher, &facts, &desire, &mut memory).await;
    for (kind, name, path) in &written.repaired {
        let happening = Happening::repaired(kind.name(), name, path);
        tell(publisher, &facts.object.object_ref(&()), &happening).await;
    }
    desire.outcome.contested = written.contested.take();
    let next = status(&facts, &desire.outcome);
    let deadline = ending::deadline(&facts, &next);
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

/// Tells engines their newest target, once the files that they start with have it; where a
/// memory limit does not come, the files keep what it holds.
fn tell_targets(
    facts: &Facts,
    desire: &Desire,
    token: &str,
    context: &Context,
) -> Result<(), Error> {
    let Some((target, pods)) = &desire.told else {
        return Ok(());
    };
    let body = encoded(target)?;
    call(facts, pods, (token, context), |tell| Told {
        what: What::Target,
        generation: target.generation,
        body: body.clone(),
        held: tell.held,
    });
    Ok(())
}

/// Tells the others the newest sleep, whatever else of the pass failed: who begins again with a file that
/// does not have it yet reports so, and is told again.
fn tell_sleep(facts: &Facts, desire: &Desire, token: &str, context: &Context) -> Result<(), Error> {
    let Some((order, pods)) = &desire.told_sleep else {
        return Ok(());
    };
    let body = encoded(order)?;
    call(facts, pods, (token, context), |_| Told {
        what: What::Sleep,
        generation: order.generation,
        body: body.clone(),
        held: false,
    });
    Ok(())
}

fn encoded(document: &impl serde::Serialize) -> Result<hyper::body::Bytes, Error> {
    let body = serde_json::to_vec(document).map_err(|source| Error::Encode {
        what: names::TARGET_KEY,
        source,
    })?;
    Ok(body.into())
}

/// Tells these pods, where they have an address.
fn call(
    facts: &Facts,
    pods: &[Tell],
    (token, context): (&str, &Context),
    told: impl Fn(&Tell) -> Told,
) {
    for listener in listeners(facts) {
        if let Some(tell) = pods.iter().find(|it| it.uid == listener.pod_uid) {
            let addressee = Addressee {
                resource: listener.resource,
                pod: listener.pod,
                uid: listener.pod_uid,
                ip: listener.ip,
                port: listener.port,
            };
            let owner = &facts.identity.uid;
            context.steering.tell(owner, token, addressee, told(tell));
        }
    }
}

/// The namespace is being deleted: nothing is done here any more.
fn give_up(facts: &Facts, memory: &mut Memory, context: &Context) -> Action {
    let Identity {
        namespace,
        name,
        uid,
        generation: _,
    } = &facts.identity;
    context.reports.listen(uid, "", Vec::new());
    context.steering.keep(uid, &[]);
    memory.namespace_ends = true;
    tracing::info!(
        namespace,
        name,
        "the namespace is being deleted: nothing is done here"
    );
    Action::await_change()
}

/// What a resource is called among others.
pub(crate) fn key_of(object: &impl ResourceExt) -> String {
    format!(
        "{}/{}",
        object.namespace().unwrap_or_default(),
        object.name_any()
    )
}

/// Keeps what the next pass has to know, and tells of an old pod that makes way.
async fn remember(publisher: Publisher<'_>, facts: &Facts, desire: &Desire, memory: &mut Memory) {
    if let Some(revision) = desire.remember(memory) {
        let resource = facts.object.object_ref(&());
        tell(publisher, &resource, &Happening::replacing(revision)).await;
    }
}

/// What follows a failed pass: another.
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
    let pause = ending::pause(failures);
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
