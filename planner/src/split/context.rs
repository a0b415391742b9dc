//! The longest sequence that a length of the cache makes room for.

use crate::request::Request;

/// The context in force when the cache holds `blocks` blocks, null block not counted: as asked
/// for, or the model's own as far as the cache reaches.
pub(crate) fn max_model_len(request: &Request, blocks: u64) -> u32 {
    let tokens = blocks.saturating_mul(request.kv.block_size.into());
    let own = request.shape.context;
    request
        .limits
        .max_model_len
        .unwrap_or(u32::try_from(tokens).map_or(own, |t| t.min(own)))
}
