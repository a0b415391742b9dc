//! Checks of the weights, as the admin port's own route, vLLM's and SGLang's ask for them.

use crate::engine::control::ControlError;
use crate::forward::WeightCheck;
use crate::http::app::Loaded;
use crate::http::error::ApiError;
use crate::http::generator::uncontrolled;

/// Compares all weights with what was loaded; one entry per rank. Nothing is generated meanwhile. A
/// rank that hangs in it fails the engine, which `/livez` tells; an engine that does not come to it
/// keeps nobody waiting for ever.
///
/// # Errors
/// 503 or 409: why there is no answer.
pub async fn checks(loaded: &Loaded) -> Result<Vec<WeightCheck>, ApiError> {
    let patience = loaded.engine.facts().check_patience;
    let answer = tokio::time::timeout(patience, loaded.engine.check_weights().answer()).await;
    let answer: Result<_, ControlError> = answer.map_err(|_| {
        let message = format!(
            "the engine did not come to the check within {} s: ranks still compute the steps before \
             it, or hang in one; nothing is generated while they do",
            patience.as_secs_f64()
        );
        ApiError::unavailable("check_timed_out", message)
    })?;
    let checks = answer.map_err(|error| uncontrolled(&error))?;
    for (rank, check) in checks.iter().enumerate() {
        if !check.changed.is_empty() {
            tracing::error!(rank, changed = ?check.changed, "weights are not as loaded");
        }
    }
    Ok(checks)
}
