//! Apply: creates children and changes them by server-side apply, only those that differ from what
//! exists, and never one that is somebody else's.

mod decide;
mod limits;
mod writer;

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;
use tokio::time::Instant;

use crate::build::Prepared;
use crate::children::ChildKind;
use crate::desire::{Desire, soonest};
use crate::error::Error;
use crate::facts::Facts;
use crate::gather::resource_version;
use crate::memory::{Applied, Memory, RefusedSet};
use decide::{Write, decide, repairs};
use writer::Way;
pub(crate) use writer::{WRITE_TIMEOUT, Writer, answered};

/// A ReplicaSet that the API server refused is offered to it again after this long: what refuses
/// it may be a rule of the cluster, and those change.
const REFUSED_PAUSE: Duration = Duration::from_secs(300);

/// Repairs in a row that are no accident, and how long after the last the fight counts as over.
const CONTESTED_REPAIRS: u32 = 3;
const CONTESTED_FOR: Duration = Duration::from_secs(60);
const CONTESTED_LOOK: Duration = Duration::from_secs(1);

/// What a pass wrote.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// Children that somebody had changed: kind, name, and the field that told.
    pub(crate) repaired: Vec<(ChildKind, String, String)>,
    /// The Service is not as it should be, and is put back later.
    pub(crate) later: bool,
    /// The Service, by name, where somebody keeps changing it.
    pub(crate) contested: Option<String>,
    /// When to look again although nothing changed.
    pub(crate) look_again: Option<Duration>,
}

/// Brings the cluster to what should exist, and tells in `written` what that took.
///
/// # Errors
/// The first write that fails; the rest waits for the next pass.
pub(crate) async fn apply(
    writer: &Writer<'_>,
    facts: &Facts,
    desire: &Desire,
    memory: &mut Memory,
    written: &mut Written,
) -> Result<(), Error> {
    let asking = limits::ask(writer, facts, &desire.limits, (&mut *memory, &mut *written));
    asking.await;
    let mut taken = None;
    for child in &desire.children {
        let replicas = desire.replicas.iter().find(|(name, _)| *name == child.name);
        let replicas = replicas
            .filter(|_| child.kind == ChildKind::ReplicaSet)
            .map(|(_, n)| *n);
        match write(writer, facts, (child, replicas), memory, written).await {
            // No pod needs a budget: somebody else's of that name keeps none from being made.
            Err(error @ Error::Taken { .. }) if child.kind == ChildKind::PodDisruptionBudget => {
                taken = Some(error);
            }
            outcome => outcome?,
        }
    }
    // That a revision answered is noted before another is given up for it.
    let mut counts: Vec<&(String, u32)> = desire.replicas.iter().collect();
    counts.sort_by_key(|(name, _)| !desire.answered.contains(name));
    for (name, replicas) in counts {
        let Some(set) = facts.replica_sets.iter().find(|set| set.name == *name) else {
            continue;
        };
        let answered = set.answered || desire.answered.contains(name);
        if set.replicas != *replicas || answered != set.answered {
            let key = (ChildKind::ReplicaSet, name.clone());
            let answer = writer
                .scale(name, (*replicas, answered), uid_of(facts, &key))
                .await?;
            let repaired = memory.applied.get(&key).map_or(0, |before| before.repairs);
            let now = as_written(&set.hash, Some(*replicas), &answer, repaired);
            memory.applied.insert(key, now);
        }
    }
    for key in &desire.remove {
        writer.delete(key.0, &key.1, uid_of(facts, key)).await?;
        memory.applied.remove(key);
    }
    written.contested = contested(memory, written);
    taken.map_or(Ok(()), Err)
}

/// The Service, if somebody changes it again and again: between two repairs requests may reach no
/// engine.
fn contested(memory: &Memory, written: &mut Written) -> Option<String> {
    let of_service = |(kind, _): &&(ChildKind, String)| *kind == ChildKind::Service;
    let (key, applied) = memory.applied.iter().find(|(key, _)| of_service(key))?;
    if applied.repairs < CONTESTED_REPAIRS {
        return None;
    }
    // A pause that is not over means that it is as somebody else wants it, until then.
    let rest = CONTESTED_FOR.saturating_sub(applied.at.elapsed());
    if !written.later && rest.is_zero() {
        return None;
    }
    written.look_again = soonest(written.look_again, Some(rest.max(CONTESTED_LOOK)));
    Some(key.1.clone())
}

/// Writes a child if it must be; a ReplicaSet with its count.
async fn write(
    writer: &Writer<'_>,
    facts: &Facts,
    (child, replicas): (&Prepared, Option<u32>),
    memory: &mut Memory,
    written: &mut Written,
) -> Result<(), Error> {
    let key = (child.kind, child.name.clone());
    if let Some(holder) = facts.taken.get(&key) {
        return Err(Error::Taken {
            kind: child.kind.name(),
            name: child.name.clone(),
            holder: *holder,
        });
    }
    let before = memory.applied.get(&key);
    let repair = match decide(child, facts, before) {
        Write::No => return Ok(()),
        Write::Later(rest) => {
            written.later |= child.kind == ChildKind::Service && facts.children.contains_key(&key);
            written.look_again = soonest(written.look_again, Some(rest));
            return Ok(());
        }
        Write::Anew => None,
        Write::Repair(lost) => Some(lost),
    };
    still_refused(child, memory, written)?;
    let repairs = match &repair {
        Some(_) => repairs(before),
        None => before.map_or(0, |before| before.repairs),
    };
    let way = match (&repair, facts.children.get(&key)) {
        (Some(lost), Some(known)) if lost.item => Way::Reset {
            uid: known.uid.as_deref(),
        },
        (_, Some(known)) => Way::Ours {
            uid: known.uid.as_deref(),
        },
        (_, None) => Way::New {
            uid: before.and_then(|before| before.uid.as_deref()),
        },
    };
    let mut object = child.object.clone();
    if let Some(replicas) = replicas {
        object["spec"]["replicas"] = json!(replicas);
    }
    let answer = writer.write(child, &object, way).await;
    let answer = answer.map_err(|error| refusal(child, error, memory, written))?;
    if let Some(lost) = repair {
        written
            .repaired
            .push((child.kind, child.name.clone(), lost.path));
    }
    let now = as_written(&child.hash, replicas, &answer, repairs);
    memory.applied.insert(key, now);
    Ok(())
}

/// # Errors
/// The API server refused this very ReplicaSet a short time ago.
fn still_refused(child: &Prepared, memory: &Memory, written: &mut Written) -> Result<(), Error> {
    let refused = memory
        .refused
        .as_ref()
        .filter(|refused| refused.hash == child.hash);
    let Some(refused) = refused else {
        return Ok(());
    };
    let rest = REFUSED_PAUSE.saturating_sub(refused.at.elapsed());
    if rest.is_zero() {
        return Ok(());
    }
    written.look_again = soonest(written.look_again, Some(rest));
    Err(Error::Refused(refused.words.clone()))
}

/// Pods that the API server finds invalid are so because of what the user put into them: an answer
/// to the spec, and no trouble of the cluster's, nor of the source where no volume is blamed.
fn refusal(child: &Prepared, error: Error, memory: &mut Memory, written: &mut Written) -> Error {
    let of_the_template = match child.kind {
        ChildKind::ReplicaSet => true,
        ChildKind::Pod => !error.blames("spec.volumes"),
        _ => false,
    };
    if !of_the_template || !error.is_invalid() {
        return error;
    }
    let words = error.to_string();
    memory.refused = Some(RefusedSet {
        hash: child.hash.clone(),
        words: words.clone(),
        at: Instant::now(),
    });
    written.look_again = soonest(written.look_again, Some(REFUSED_PAUSE));
    Error::Refused(words)
}

fn uid_of<'a>(facts: &'a Facts, key: &(ChildKind, String)) -> Option<&'a str> {
    facts.children.get(key)?.uid.as_deref()
}

fn as_written(hash: &str, replicas: Option<u32>, answer: &ObjectMeta, repairs: u32) -> Applied {
    Applied {
        hash: hash.to_owned(),
        replicas,
        uid: answer.uid.clone(),
        resource_version: resource_version(answer.resource_version.as_deref()),
        at: Instant::now(),
        repairs,
    }
}
