//! Whether a prompt leaves room to answer.

use crate::http::error::ApiError;

/// `max_tokens` is cut to what the prompt leaves; `least` tokens must be left.
pub(super) fn check(prompt: usize, least: u32, limit: u32, field: &str) -> Result<(), ApiError> {
    if prompt == 0 {
        let message = format!("{field}: the prompt has no tokens, at least one is needed");
        return Err(ApiError::invalid(Some(field), message));
    }
    if prompt as u64 + u64::from(least) > u64::from(limit) {
        return Err(ApiError::context_length(field, limit, prompt, least));
    }
    Ok(())
}
