//! Plan: a spec and a model's facts become a request, and the planner's answer becomes what the
//! engine is told, or the words of a refusal. Pure.

mod requests;

use plimsoll_crds::names::{MESSAGE_CHARS, NAME_CHARS};
use plimsoll_crds::v1alpha1::convert::{self, ConvertError};
use plimsoll_crds::v1alpha1::engine::PlanStatus;
use plimsoll_crds::v1alpha1::{InferenceDeployment, ModelFacts, Reason};
use plimsoll_planner::refusal::Reason as RefusalReason;
use plimsoll_planner::{
    Bytes, MEMORY_LIMIT, Plan, Refusal, Request, cpu_memory_limit, plan_within,
};

use crate::build::{Documents, documents};
use crate::outcome::ContainerMemory;

/// Where a user writes the container's memory limit.
const LIMIT_FIELD: &str = "spec.template.engine.resources.limits.memory";

/// A plan that fits, and what follows from it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Accepted {
    pub(crate) documents: Documents,
    pub(crate) plan: PlanStatus,
    /// Memory of the engine's container.
    pub(crate) container: ContainerMemory,
    /// The plan's figures in a sentence, for a condition and an Event.
    pub(crate) summary: String,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// The spec cannot be used as it is.
    Invalid(String),
    /// It is too big for what it may use.
    Refused { reason: Reason, message: String },
}

/// What can be said of a spec before the model is known.
///
/// # Errors
/// A name that no Service can carry.
pub(crate) fn check_name(object: &InferenceDeployment) -> Result<(), Rejected> {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let label = name.len() <= NAME_CHARS
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    match label {
        true => Ok(()),
        false => Err(Rejected::Invalid(format!(
            "metadata.name: {name:?} has {} characters; its Service needs at most {NAME_CHARS} \
             lower-case letters, digits and '-', a letter first: create it under another name",
            name.len()
        ))),
    }
}

/// Plans a spec for a model.
///
/// # Errors
/// [`Rejected`], in words for the user of at most 1,000 characters.
pub(crate) fn plan(object: &InferenceDeployment, model: &ModelFacts) -> Result<Accepted, Rejected> {
    let request = convert::request(&object.spec, model).map_err(|error| invalid(&error))?;
    let limit = written_limit(object).map_err(|error| invalid(&error))?;
    let (request, plan) = plan_within(&request, limit).map_err(|refusal| refused(&refusal))?;
    let needed = cpu_memory_limit(&request).unwrap_or(Bytes::ZERO);
    let container = ContainerMemory {
        limit: limit.unwrap_or(needed).max(needed).get(),
        needed: needed.get(),
    };
    requests::check(object, container.limit)
        .map_err(|message| Rejected::Invalid(short(&message)))?;
    Ok(Accepted {
        summary: summary(&request, &plan),
        documents: documents(object, model, &request, &plan),
        plan: convert::plan_status(&plan),
        container,
    })
}

/// `spec.template.engine.resources.limits.memory`, if it is written.
fn written_limit(object: &InferenceDeployment) -> Result<Option<Bytes>, ConvertError> {
    let engine = object
        .spec
        .template
        .as_ref()
        .and_then(|template| template.engine.as_ref());
    let resources = engine.and_then(|engine| engine.resources.as_ref());
    let Some(limit) = resources.and_then(|resources| resources.limits.get("memory")) else {
        return Ok(None);
    };
    convert::quantity_bytes(LIMIT_FIELD, &limit.0).map(Some)
}

fn invalid(error: &ConvertError) -> Rejected {
    Rejected::Invalid(short(&error.to_string()))
}

fn refused(refusal: &Refusal) -> Rejected {
    // The planner does not know where in the spec the container's limit is written.
    let message = refusal.message().replace(MEMORY_LIMIT, LIMIT_FIELD);
    let message = short(&message);
    let reason = match &refusal.reason {
        RefusalReason::Invalid { .. } => return Rejected::Invalid(message),
        RefusalReason::ContextTooLong => Reason::ContextTooLong,
        RefusalReason::KvCacheTooSmall => Reason::KVCacheTooSmall,
        RefusalReason::QuotaTooSmall => Reason::QuotaTooSmall,
        RefusalReason::MemoryTooSmall => Reason::MemoryTooSmall,
        RefusalReason::HostMemoryTooSmall { .. } => Reason::HostMemoryInsufficient,
    };
    Rejected::Refused { reason, message }
}

/// The first characters of a text, as many as conditions and Events hold.
pub(crate) fn short(text: &str) -> String {
    text.chars().take(MESSAGE_CHARS).collect()
}

fn summary(request: &Request, plan: &Plan) -> String {
    let ranks = plan.ranks.iter().map(|rank| {
        let heads = &rank.shard.kv_heads;
        format!(
            "rank {}: {} of {} planned, KV heads {}-{}",
            rank.rank,
            rank.total(),
            rank.budget,
            heads.start,
            heads.end.saturating_sub(1).max(heads.start),
        )
    });
    let ranks: Vec<String> = ranks.collect();
    short(&format!(
        "{}; {} tokens of KV cache, maxModelLen {}, {} weights",
        ranks.join("; "),
        plan.kv_tokens,
        plan.max_model_len,
        request.dtype
    ))
}

#[cfg(test)]
mod tests;
