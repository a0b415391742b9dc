//! The split that stands: engines that run keep theirs while it holds what is asked for, and the
//! cluster says what it is, in the ConfigMap that they were started with. Pure.
//!
//! A split stands where nothing else would replace the pods: the documents and the template that
//! follow from it have the very name of the revision that runs. Whatever else changes makes new
//! pods, and those take the best split there is.

use plimsoll_crds::names::MESSAGE_CHARS;
use plimsoll_crds::v1alpha1::boot::BootSplit;
use plimsoll_crds::v1alpha1::spec::Resplit;
use plimsoll_crds::v1alpha1::status::RestartGain;
use plimsoll_crds::v1alpha1::{Boot, InferenceDeployment, ModelFacts};
use plimsoll_planner::Gain;

use crate::build::{PodSettings, Revision, name_of, revision};
use crate::error::Error;
use crate::facts::{Facts, ReplicaSetFacts};
use crate::outcome::Planned;
use crate::plan::{Accepted, Asked, Rejected, short};

/// What becomes of a spec whose model is known, and the revision that it makes.
///
/// # Errors
/// A document cannot be encoded: a mistake of ours.
pub(super) fn plan(
    facts: &Facts,
    model: &ModelFacts,
    settings: &PodSettings,
) -> Result<(Planned, Option<Revision>), Error> {
    let object = &facts.object;
    let (accepted, restart) = match chosen(facts, object, model, settings)? {
        Ok(chosen) => chosen,
        Err(Rejected::Invalid(message)) => return Ok((Planned::Invalid(message), None)),
        Err(Rejected::Refused { reason, message }) => {
            return Ok((Planned::Refused { reason, message }, None));
        }
    };
    let Accepted {
        documents,
        plan,
        container,
        summary,
    } = accepted;
    let mut made = revision(
        object,
        &facts.identity,
        settings,
        documents,
        container.limit,
    )?;
    made.limit = (settings.resize && !container.written).then_some(container.limit);
    let planned = Planned::Fits {
        plan,
        revision: made.name.clone(),
        summary: match &restart {
            Some(gain) => short(&format!("{summary}; {}", words(gain))),
            None => summary,
        },
        container,
        restart,
    };
    Ok((planned, Some(made)))
}

type Chosen = Result<(Accepted, Option<RestartGain>), Rejected>;

/// The plan of the split that stands, or a free one.
fn chosen(
    facts: &Facts,
    object: &InferenceDeployment,
    model: &ModelFacts,
    settings: &PodSettings,
) -> Result<Chosen, Error> {
    let asked = match Asked::new(object, model) {
        Ok(asked) => asked,
        Err(rejected) => return Ok(Err(rejected)),
    };
    let mut free = asked.plan();
    let resplit = object.spec.parallelism.resplit;
    let stands = match resplit {
        Resplit::Always => None,
        Resplit::Auto | Resplit::Never => standing(facts, &asked, settings)?,
    };
    let Some(split) = stands else {
        if let Ok(accepted) = &mut free {
            as_it_was_born(facts, &asked, settings, accepted)?;
        }
        return Ok(free.map(|free| (free, None)));
    };
    Ok(match (asked.keep(split), resplit) {
        (Ok(kept), _) => {
            let gain = free.ok().and_then(|free| gain(&kept, &free));
            Ok((kept, gain))
        }
        (Err(kept), Resplit::Never) => Err(never(kept, &free)),
        (Err(_), Resplit::Auto | Resplit::Always) => free.map(|free| (free, None)),
    })
}

/// The split of the newest revision that runs, if nothing but memory would replace its pods.
fn standing<'a>(
    facts: &'a Facts,
    asked: &Asked<'_>,
    settings: &PodSettings,
) -> Result<Option<&'a BootSplit>, Error> {
    if !settings.resize {
        return Ok(None);
    }
    for set in newest_first(facts) {
        let Some(known) = facts.boots.get(&set.revision) else {
            continue;
        };
        if name(facts, asked, settings, known)? == set.revision && asked.believes(&known.split) {
            return Ok(Some(&known.split));
        }
    }
    Ok(None)
}

/// What the revision of a split is called under the present spec.
fn name(
    facts: &Facts,
    asked: &Asked<'_>,
    settings: &PodSettings,
    known: &Boot,
) -> Result<String, Error> {
    let boot = asked.boot(known.split.clone());
    name_of(&facts.object, &facts.identity, settings, (&boot, None), 0)
}

/// ReplicaSets that have pods or are to have some: the one that status calls the newest, then the
/// younger before the older.
fn newest_first(facts: &Facts) -> Vec<&ReplicaSetFacts> {
    let has_pods = |set: &&ReplicaSetFacts| {
        set.replicas > 0 || facts.live_pods().any(|pod| pod.revision == set.revision)
    };
    let mut sets: Vec<&ReplicaSetFacts> =
        facts.replica_sets.iter().rev().filter(has_pods).collect();
    let newest = facts.status.update_revision.as_ref();
    sets.sort_by_key(|set| Some(&set.revision) != newest);
    sets
}

/// A free plan may come to the split of a revision that exists: its document stays what its pods were
/// started with.
fn as_it_was_born(
    facts: &Facts,
    asked: &Asked<'_>,
    settings: &PodSettings,
    accepted: &mut Accepted,
) -> Result<(), Error> {
    let boot = &mut accepted.documents.boot;
    let known = facts.boots.values().find(|known| {
        let there = (&known.split.ranks, known.split.max_model_len);
        there == (&boot.split.ranks, boot.split.max_model_len)
    });
    let Some(known) = known.filter(|_| settings.resize) else {
        return Ok(());
    };
    if name(facts, asked, settings, known)? == known.revision && asked.believes(&known.split) {
        boot.split.made_for.clone_from(&known.split.made_for);
    }
    Ok(())
}

/// What a restart would gain; `None` where that is nothing.
fn gain(kept: &Accepted, free: &Accepted) -> Option<RestartGain> {
    let gain = Gain {
        kept_tokens: kept.plan.kv_tokens,
        free_tokens: free.plan.kv_tokens,
        free_max_model_len: free.plan.max_model_len,
    };
    let longer = free.plan.max_model_len > kept.plan.max_model_len;
    (gain.tokens() > 0 || longer).then_some(RestartGain {
        kept_tokens: gain.kept_tokens,
        tokens: gain.free_tokens,
        gained_tokens: gain.tokens(),
        max_model_len: gain.free_max_model_len,
    })
}

fn words(gain: &RestartGain) -> String {
    format!(
        "a restart would make it {} tokens ({} more), maxModelLen {} (spec.parallelism.resplit: \
         Always)",
        gain.tokens, gain.gained_tokens, gain.max_model_len
    )
}

/// A refusal of the split that stands, with what a restart would come to.
fn never(kept: Rejected, free: &Result<Accepted, Rejected>) -> Rejected {
    let way_out = match free {
        Ok(free) => format!(
            "; engines keep their split (spec.parallelism.resplit: Never); Auto restarts them with one \
             that holds {} tokens",
            free.plan.kv_tokens
        ),
        Err(_) => String::new(),
    };
    let with_way_out = |message: &str| {
        // The way out is not what is cut off.
        let room = MESSAGE_CHARS.saturating_sub(way_out.chars().count());
        let cut: String = message.chars().take(room).collect();
        cut + &way_out
    };
    match kept {
        Rejected::Invalid(message) => Rejected::Invalid(with_way_out(&message)),
        Rejected::Refused { reason, message } => Rejected::Refused {
            reason,
            message: with_way_out(&message),
        },
    }
}
