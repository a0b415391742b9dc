//! What becomes of a model whose embedding and head are one tensor.

use std::collections::HashMap;

use super::change::Change;
use super::merged::{EMBEDDING, HEAD};
use super::{Base, WEIGHTS, embeddings, refused};
use crate::model_error::ModelError;

/// Whether a tied base becomes one with two tables; a second table that is the same once more is taken
/// out of `changes`. `ties`: both sides were trained as one.
///
/// # Errors
/// [`ModelError::InvalidAdapter`] where the head would have to follow the embedding and cannot; where a
/// file fails.
pub(super) fn unties(
    adapter: &str,
    ties: bool,
    base: Base<'_>,
    changes: &mut HashMap<String, Change>,
) -> Result<bool, ModelError> {
    let refuse = |message: String| Err(refused(adapter, WEIGHTS, message));
    let touched = [EMBEDDING, HEAD].map(|tensor| changes.contains_key(tensor));
    if !base.was_tied || touched == [false, false] {
        return Ok(false);
    }
    let rows = matches!(changes.get(EMBEDDING), Some(Change::Rows { .. }));
    if !base.shape.tied {
        let what = match (rows, ties) {
            (false, false) => return Ok(false),
            (true, _) => "trainable_token_indices",
            (false, true) => "ensure_weight_tying",
        };
        return refuse(format!(
            "{what}: it was trained with {EMBEDDING} and {HEAD} as one, and an adapter before it made \
             two of them; put it first, or merge both with PEFT"
        ));
    }
    // PEFT lets the other side follow trained tokens.
    match (rows, touched[1]) {
        (true, false) => return Ok(false),
        (true, true) => {
            return refuse(format!(
                "trains tokens of {EMBEDDING}, which a tied head follows, and {HEAD} besides: merge it \
                 with PEFT"
            ));
        }
        (false, _) => {}
    }
    if !ties {
        return Ok(true);
    }
    // Both sides are one tensor; a second one is the same once more.
    match (changes.get(EMBEDDING), changes.get(HEAD)) {
        (Some(Change::Replaced(_)), None) => Ok(false),
        (Some(Change::Replaced(one)), Some(Change::Replaced(other))) => {
            if let Some(row) = embeddings::unlike(one, other)? {
                return refuse(format!(
                    "ensure_weight_tying, and {EMBEDDING} and {HEAD} differ in row {row}"
                ));
            }
            changes.remove(HEAD);
            Ok(false)
        }
        _ => refuse(
            "ensure_weight_tying with a tied base is merged for modules_to_save with embed_tokens \
             alone; merge it with PEFT"
                .to_owned(),
        ),
    }
}
