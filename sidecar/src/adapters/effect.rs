//! Whether an adapter does anything: one whose every product is zero would be served as if it were there.

use std::collections::HashMap;

use super::change::Change;
use super::{CONFIG, WEIGHTS, refused};
use crate::model_error::ModelError;

/// # Errors
/// [`ModelError::InvalidAdapter`], with what is zero. Whole tensors, trained tokens and magnitudes are
/// taken to differ from the base's: that would have to be read.
pub(super) fn check(adapter: &str, changes: &HashMap<String, Change>) -> Result<(), ModelError> {
    let (mut unscaled, mut zero_a, mut zero_b) = (true, true, true);
    for change in changes.values() {
        if !change.adds_nothing() {
            return Ok(());
        }
        match change {
            Change::LowRank {
                a,
                b,
                scale,
                magnitude: None,
            }
            | Change::Embedding { a, b, scale } => {
                unscaled &= *scale == 0.0;
                zero_a &= a.is_zero;
                zero_b &= b.is_zero;
            }
            Change::LowRank {
                magnitude: Some(_), ..
            }
            | Change::Bias { .. }
            | Change::Replaced(_)
            | Change::Rows { .. } => {}
        }
    }
    let (file, zero) = match (unscaled, zero_b, zero_a) {
        (true, ..) => (CONFIG, "lora_alpha and alpha_pattern make every scale zero"),
        // Matrices begin with B all zeros.
        (false, true, _) => (WEIGHTS, "every lora_B is zero"),
        (false, false, true) => (WEIGHTS, "every lora_A is zero"),
        (false, false, false) => (
            WEIGHTS,
            "of each module the scale, lora_A or lora_B is zero",
        ),
    };
    let message =
        format!("{zero}, so it changes nothing; leave it out, or give one that was trained");
    Err(refused(adapter, file, message))
}
