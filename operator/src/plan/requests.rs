//! What the engine's container asks for, against what it may use. The API server refuses a
//! ReplicaSet that asks for more than its own limits, in words about fields that the user never
//! wrote; so it is said here first, about those that were written.

use plimsoll_crds::v1alpha1::convert::ConvertError;
use plimsoll_crds::v1alpha1::template::EngineResources;
use plimsoll_crds::v1alpha1::{InferenceDeployment, quantity};
use plimsoll_planner::Bytes;

const RESOURCES: &str = "spec.template.engine.resources";

/// Checks what `spec.template` asks for against its limits, and memory against `memory_limit`, the
/// limit that the container gets.
///
/// # Errors
/// The first request that is above its limit, or what is no quantity, in words for the user.
pub(super) fn check(object: &InferenceDeployment, memory_limit: u64) -> Result<(), String> {
    let engine = object
        .spec
        .template
        .as_ref()
        .and_then(|template| template.engine.as_ref());
    let Some(EngineResources { requests, limits }) =
        engine.and_then(|engine| engine.resources.as_ref())
    else {
        return Ok(());
    };
    for (name, request) in requests {
        let request = &request.0;
        let asked = amount(&format!("{RESOURCES}.requests.{name}"), request)?;
        match limits.get(name) {
            Some(limit) => {
                let limit = &limit.0;
                if asked > amount(&format!("{RESOURCES}.limits.{name}"), limit)? {
                    return Err(format!(
                        "{RESOURCES}.requests.{name}: {request} is above \
                         {RESOURCES}.limits.{name} {limit}; ask for at most {limit}, or raise the \
                         limit to {request}"
                    ));
                }
            }
            None if name == "memory" && asked > u128::from(memory_limit) * BILLION => {
                return Err(format!(
                    "{RESOURCES}.requests.memory: {request} is above the container's memory limit \
                     {memory_limit} ({}: the ranks' budgets and the host's reserve); ask for at \
                     most {memory_limit}, or write {RESOURCES}.limits.memory: {request}",
                    Bytes::measured(memory_limit)
                ));
            }
            None => {}
        }
    }
    Ok(())
}

const BILLION: u128 = 1_000_000_000;

fn amount(field: &str, text: &str) -> Result<u128, String> {
    quantity::billionths(text).map_err(|source| {
        let field = field.to_owned();
        ConvertError::Quantity { field, source }.to_string()
    })
}
