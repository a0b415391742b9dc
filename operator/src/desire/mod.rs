//! From facts to what should exist: inspection, plan, revision and rolling step, put together.
//! Pure: the whole decision of a pass, without a client.

mod engines;
mod revisions;
mod sleep;
mod standing;

use std::time::Duration;

use plimsoll_crds::v1alpha1::target::SleepOrder;
use plimsoll_crds::v1alpha1::template::EngineResources;
use plimsoll_crds::v1alpha1::{InferenceDeployment, Target};

use crate::build::{
    PodSettings, Prepared, Revision, disruption_budget, inspect_pod, secret, service,
    service_account,
};
use crate::children::ChildKind;
use crate::error::Error;
use crate::facts::{Facts, ReplicaSetFacts};
use crate::inspect::{self, Model};
use crate::memory::{Memory, Reread};
use crate::outcome::{Outcome, Planned};
use crate::plan::{self, Rejected};
use crate::pods::PodFacts;
use crate::reach::{Reach, reach};
use crate::rolling::{self, RevisionPods, Room};
use crate::sleepers;
use crate::steer::{Steer, Tell, steer};
use crate::turns::{Stand, Turn};

/// Who waits for a turn looks this often whether it has come.
const TURN_PAUSE: Duration = Duration::from_secs(5);

/// What should exist, and what a pass came to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Desire {
    pub(crate) outcome: Outcome,
    /// In the order they are written: what pods need comes before pods.
    pub(crate) children: Vec<Prepared>,
    /// Replica counts by name of the ReplicaSet.
    pub(crate) replicas: Vec<(String, u32)>,
    /// To be deleted before the status is written.
    pub(crate) remove: Vec<(ChildKind, String)>,
    /// Inspect pods to be deleted once the status is written.
    pub(crate) discard: Vec<String>,
    /// Readings of a model that an engine found changed.
    pub(crate) reread: Option<Reread>,
    /// When to look again although nothing changed.
    pub(crate) look_again: Option<Duration>,
    /// An old pod was told to make way for this revision in this step, for lack of this.
    pub(crate) made_way: Option<(String, Room)>,
    /// How the resource stands to its turn to roll.
    pub(crate) stand: Stand,
    /// ReplicaSets to note at that a pod of them has answered.
    pub(crate) answered: Vec<String>,
    /// The newest target, and the pods that are told it once the rest is written.
    pub(crate) told: Option<(Target, Vec<Tell>)>,
    /// The newest sleep, and the pods that are told it alone, whatever becomes of the rest.
    pub(crate) told_sleep: Option<(SleepOrder, Vec<Tell>)>,
    /// Memory limits of pods to ask for.
    pub(crate) limits: Vec<PodLimit>,
}

/// A pod's memory limit that is to be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodLimit {
    pub(crate) uid: String,
    pub(crate) bytes: u64,
    /// What the pod asks its node for is the same; otherwise it is the user's.
    pub(crate) requests: bool,
}

/// Decides a pass.
///
/// # Errors
/// An object of ours cannot be encoded: a mistake of ours.
pub(crate) fn desire(
    facts: &Facts,
    settings: &PodSettings,
    token: &str,
    patience: Duration,
) -> Result<Desire, Error> {
    let (object, identity) = (&facts.object, &facts.identity);
    let named = plan::check_name(object);
    if let Err(Rejected::Invalid(message) | Rejected::Refused { message, .. }) = named {
        return Ok(nothing_for(message));
    }
    let inspection = inspect::decide(facts);
    let mut children = vec![
        service_account(object, identity),
        secret(object, identity, token),
        service(object, identity),
    ];
    let mut remove = Vec::new();
    match facts.wanted() {
        0 | 1 => remove.extend(existing(facts, ChildKind::PodDisruptionBudget)),
        _ => children.push(disruption_budget(object, identity)),
    }
    if let Some(name) = inspection.start.clone() {
        children.push(inspect_pod(object, identity, settings, name));
    }
    let (planned, made) = plan_of(facts, &inspection.model, settings)?;
    let mut desire = Desire {
        outcome: Outcome::of(inspection.model, planned),
        children,
        replicas: Vec::new(),
        remove,
        discard: inspection.discard,
        reread: inspection.reread,
        look_again: inspection.look_again,
        made_way: None,
        answered: revisions::to_note(facts),
        stand: Stand::Idle,
        told: None,
        told_sleep: None,
        limits: Vec::new(),
    };
    desire.look_again = soonest(desire.look_again, revisions::next_late(facts));
    desire.look_again = soonest(desire.look_again, sleepers::next_look(facts));
    let stands = &facts.status.conditions;
    match reach(facts.unreached, &identity.name, stands, facts.now) {
        Reach::Reached => {}
        Reach::Begun(rest) => desire.look_again = soonest(desire.look_again, Some(rest)),
        Reach::Lost(words) => desire.outcome.unreached = Some(words),
    }
    match made {
        Some(made) => roll(facts, made, patience, &mut desire)?,
        None => leave_alone(facts, &mut desire)?,
    }
    Ok(desire)
}

/// A resource that no object can be made for.
fn nothing_for(message: String) -> Desire {
    let model = Model::Inspecting("the spec is refused".to_owned());
    Desire {
        outcome: Outcome::of(model, Planned::Invalid(message)),
        children: Vec::new(),
        replicas: Vec::new(),
        remove: Vec::new(),
        discard: Vec::new(),
        reread: None,
        look_again: None,
        made_way: None,
        answered: Vec::new(),
        stand: Stand::Idle,
        told: None,
        told_sleep: None,
        limits: Vec::new(),
    }
}

fn existing(facts: &Facts, kind: ChildKind) -> Vec<(ChildKind, String)> {
    facts
        .children
        .keys()
        .filter(|(of, _)| *of == kind)
        .cloned()
        .collect()
}

/// Whether the memory limit of a pod's container can change while it runs, or is the user's: an API
/// server before Kubernetes 1.36 changes none in a pod with resources of its own.
fn resizes(object: &InferenceDeployment) -> bool {
    let template = object.spec.template.as_ref();
    let pod = template.and_then(|it| it.spec.as_ref());
    let whole = pod.and_then(|it| it.resources.as_ref());
    let bounded = |it: &EngineResources| !it.limits.is_empty() || !it.requests.is_empty();
    plan::writes_limit(object) || !whole.is_some_and(bounded)
}

fn plan_of(
    facts: &Facts,
    model: &Model,
    settings: &PodSettings,
) -> Result<(Planned, Option<Revision>), Error> {
    let settings = PodSettings {
        resize: settings.resize && resizes(&facts.object),
        ..settings.clone()
    };
    match model {
        Model::Known(model, _) => standing::plan(facts, model, &settings),
        Model::Inspecting(_) | Model::Held(..) | Model::Unavailable(_) | Model::Failed(_) => {
            Ok((Planned::Unresolved, None))
        }
    }
}

impl Desire {
    /// Keeps what the next pass has to know; the revision, where an old pod makes way for it for the
    /// first time.
    pub(crate) fn remember(&self, memory: &mut Memory) -> Option<&str> {
        memory.reread = self.reread;
        memory.inspect_failure = match &self.outcome.model {
            Model::Failed(failure) => Some(failure.clone()),
            Model::Known(..) => None,
            Model::Inspecting(_) | Model::Held(..) | Model::Unavailable(_) => {
                memory.inspect_failure.take()
            }
        };
        let (revision, lack) = self.made_way.as_ref()?;
        let known = memory.replacing.replace((revision.clone(), *lack));
        let first = known.is_none_or(|(known, _)| known != *revision);
        first.then_some(revision)
    }

    /// The API server refuses the pods that the spec describes, in these `words`: what runs stays,
    /// as after any other refusal.
    ///
    /// # Errors
    /// As [`desire`].
    pub(crate) fn refuse(&mut self, facts: &Facts, words: &str) -> Result<(), Error> {
        let message = format!(
            "the API server refuses the pods that the spec describes: {words}; running pods stay; \
             change what it names, in spec.template, spec.model.source or spec.adapters[].source"
        );
        self.outcome.planned = Planned::Invalid(plan::short(&message));
        self.outcome.step = None;
        self.outcome.resizing = false;
        self.told = None;
        self.limits.clear();
        self.made_way = None;
        // A revision's objects, and the pod that was to read the model.
        let pods = |kind| {
            matches!(
                kind,
                ChildKind::ConfigMap | ChildKind::ReplicaSet | ChildKind::Pod
            )
        };
        self.children.retain(|child| !pods(child.kind));
        self.remove.retain(|(kind, _)| !pods(*kind));
        leave_alone(facts, self)
    }
}

/// Nothing leads to a revision: what runs stays, follows the number of pods, and is told who sleeps.
fn leave_alone(facts: &Facts, desire: &mut Desire) -> Result<(), Error> {
    desire.replicas = revisions::leave_alone(facts);
    sleep::steer_others(facts, None, desire)
}

/// Adds the revision's objects, and the replica counts of all revisions.
fn roll(
    facts: &Facts,
    made: Revision,
    patience: Duration,
    desire: &mut Desire,
) -> Result<(), Error> {
    let Revision {
        name,
        config_map,
        replica_set,
        target,
        limit,
    } = made;
    desire.stand = revisions::stand(facts, &name);
    if let (Stand::Wants, Turn::Waits(words)) = (desire.stand, &facts.turn) {
        return wait(facts, words, desire);
    }
    let of = |set: &ReplicaSetFacts| revisions::of_set(facts, set, &name);
    let (new, old): (Vec<&ReplicaSetFacts>, Vec<&ReplicaSetFacts>) = facts
        .replica_sets
        .iter()
        .partition(|set| set.revision == name);
    let new = new.first().map_or_else(
        || RevisionPods {
            revision: name.clone(),
            replicas: 0,
            answered: false,
            pods: Vec::new(),
        },
        |set| of(set),
    );
    let olds: Vec<RevisionPods> = old.iter().map(|set| of(set)).collect();
    let room = match &facts.room {
        Some((revision, room)) if *revision == name => *room,
        _ => Room::Assumed,
    };
    let step = rolling::step(facts.wanted(), &olds, &new, room, patience);

    desire.made_way = step.making_way.map(|lack| (name.clone(), lack));
    let set_name = replica_set.name.clone();
    desire.replicas = old
        .iter()
        .map(|set| set.name.clone())
        .chain([set_name.clone()])
        .zip(&step.replicas)
        .map(|(set, (_, replicas))| (set, *replicas))
        .collect();
    forget_old(facts, &old, &set_name, desire);
    let steer = steer_engines(facts, &name, (&target, limit), desire);
    sleep::steer_others(facts, Some(&name), desire)?;
    let key = (ChildKind::ConfigMap, config_map.name.clone());
    match steer.raising && facts.children.contains_key(&key) {
        true => desire.children.extend(sleep::file(facts, &name)?),
        false => desire.children.push(config_map),
    }
    desire.children.push(replica_set);
    desire.told = Some((target, steer.tell));
    desire.look_again = soonest(desire.look_again, step.look_again);
    if room != Room::Assumed && facts.pods.iter().any(PodFacts::leaving) {
        // A pod whose node is gone leaves without an event.
        desire.look_again = soonest(desire.look_again, Some(patience));
    }
    desire.outcome.step = Some(step);
    Ok(())
}

/// How the engines of a revision stand to its target, and their containers' limits with it.
fn steer_engines(
    facts: &Facts,
    revision: &str,
    (target, limit): (&Target, Option<u64>),
    desire: &mut Desire,
) -> Steer {
    let engines = engines::engines(facts, revision, limit);
    let steer = steer(target.generation, &engines);
    let requests = !plan::requests_memory(&facts.object);
    let asked = |(uid, bytes): &(String, u64)| PodLimit {
        uid: uid.clone(),
        bytes: *bytes,
        requests,
    };
    desire.limits = steer.limits.iter().map(asked).collect();
    desire.look_again = soonest(desire.look_again, steer.look_again);
    desire.outcome.told = steer.stand.clone();
    desire.outcome.resizing = steer.resizing;
    steer
}

/// The next revision's turn has not come: what runs stays, and counts as what is wanted.
fn wait(facts: &Facts, words: &str, desire: &mut Desire) -> Result<(), Error> {
    desire.look_again = soonest(desire.look_again, Some(TURN_PAUSE));
    desire.outcome.waits = Some(words.to_owned());
    if let (Planned::Fits { revision, .. }, Some(running)) =
        (&mut desire.outcome.planned, revisions::running(facts))
    {
        *revision = running;
    }
    leave_alone(facts, desire)
}

/// Empty ReplicaSets that nobody will go back to, and ConfigMaps without a ReplicaSet.
fn forget_old(facts: &Facts, old: &[&ReplicaSetFacts], new: &str, desire: &mut Desire) {
    let has_pods = |set: &ReplicaSetFacts| facts.pods.iter().any(|p| p.revision == set.revision);
    let empty: Vec<&ReplicaSetFacts> = old
        .iter()
        .copied()
        .filter(|set| set.replicas == 0 && !has_pods(set))
        .collect();
    let expired = rolling::expired(&empty);
    let gone = |name: &str| expired.iter().any(|set| set.name == name);
    desire.remove.extend(
        expired
            .iter()
            .map(|s| (ChildKind::ReplicaSet, s.name.clone())),
    );
    let kept = |name: &str| {
        name == new
            || facts
                .replica_sets
                .iter()
                .any(|set| set.name == name && !gone(name))
    };
    let maps = existing(facts, ChildKind::ConfigMap);
    desire
        .remove
        .extend(maps.into_iter().filter(|(_, name)| !kept(name)));
}

/// The earlier of two moments.
pub(crate) fn soonest(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod sleep_story;
#[cfg(test)]
mod sleep_tests;
#[cfg(test)]
mod standing_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod turns_tests;
#[cfg(test)]
mod volumes_tests;
