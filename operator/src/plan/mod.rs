//! Plan: a spec and a model's facts become a request, and the planner's answer becomes what the
//! engine is told, or the words of a refusal. Pure.

mod requests;

use plimsoll_crds::names::MESSAGE_CHARS;
use plimsoll_crds::v1alpha1::convert::{self, ConvertError};
use plimsoll_crds::v1alpha1::engine::EngineConfig;
use plimsoll_crds::v1alpha1::{InferenceDeployment, ModelFacts, Reason};
use plimsoll_planner::refusal::Reason as RefusalReason;
use plimsoll_planner::{Bytes, Plan, Refusal, Request, cpu_capacity, cpu_memory_limit};

use crate::build::engine_config;

/// The Service carries the resource's name, and Service names are DNS labels.
const NAME_CHARS: usize = 63;

/// A plan that fits, and what follows from it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Accepted {
    pub(crate) config: EngineConfig,
    /// Memory limit of the engine's container: the ranks' budgets and the host reserve.
    pub(crate) memory_limit: u64,
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
    let mut request = convert::request(&object.spec, model).map_err(|error| invalid(&error))?;
    let limit = written_limit(object).map_err(|error| invalid(&error))?;
    request.ranks = cpu_capacity(&request, limit).map_err(|refusal| match refusal.reason {
        RefusalReason::Invalid { .. } if limit.is_some() => host_memory(&refusal),
        _ => refused(&refusal),
    })?;
    let plan = plimsoll_planner::plan(&request).map_err(|refusal| refused(&refusal))?;
    let needed = cpu_memory_limit(&request).unwrap_or(Bytes::ZERO);
    let memory_limit = limit.unwrap_or(needed).max(needed).get();
    requests::check(object, memory_limit).map_err(|message| Rejected::Invalid(short(&message)))?;
    Ok(Accepted {
        summary: summary(&request, &plan),
        config: engine_config(object, model, &request, convert::plan_status(&plan)),
        memory_limit,
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
    convert::quantity_bytes("spec.template.engine.resources.limits.memory", &limit.0).map(Some)
}

fn invalid(error: &ConvertError) -> Rejected {
    Rejected::Invalid(short(&error.to_string()))
}

/// The planner does not know where in the spec the container's limit is written.
fn host_memory(refusal: &Refusal) -> Rejected {
    let message = refusal.message().replace(
        "the engine container's memory limit",
        "spec.template.engine.resources.limits.memory",
    );
    Rejected::Refused {
        reason: Reason::HostMemoryInsufficient,
        message: short(&message),
    }
}

fn refused(refusal: &Refusal) -> Rejected {
    let message = short(&refusal.message());
    let reason = match &refusal.reason {
        RefusalReason::Invalid { .. } => return Rejected::Invalid(message),
        RefusalReason::ContextTooLong => Reason::ContextTooLong,
        RefusalReason::KvCacheTooSmall => Reason::KVCacheTooSmall,
        RefusalReason::QuotaTooSmall => Reason::QuotaTooSmall,
        RefusalReason::MemoryTooSmall => Reason::MemoryTooSmall,
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
