//! Tokens that were trained alone: rows of the embedding that take the place of the base's.

use std::collections::{BTreeMap, HashMap};

use super::change::Change;
use super::factor::Factor;
use super::keys::Part;
use super::merged::EMBEDDING;
use super::{WEIGHTS, refused};
use crate::model_error::{ModelError, shorten};

/// What becomes of the embedding; None where no tokens are named and none are there. `ids`: of the
/// file's rows, in their order.
///
/// # Errors
/// [`ModelError::InvalidAdapter`], with the token or the tensor.
pub(super) fn change(
    adapter: &str,
    ids: &[u64],
    dims: &HashMap<String, Vec<usize>>,
    mut tensors: BTreeMap<String, Factor>,
) -> Result<Option<Change>, ModelError> {
    let refuse = |message: String| Err(refused(adapter, WEIGHTS, message));
    let module = EMBEDDING.trim_end_matches(".weight");
    let found = tensors.remove(module);
    if let Some(other) = tensors.keys().next() {
        let other = shorten(other);
        return refuse(format!(
            "has trained tokens of {other}; those of {module} alone are merged"
        ));
    }
    let tensor = match (found, ids) {
        (None, []) => return Ok(None),
        (Some(_), []) => {
            return refuse("has trained tokens, and trainable_token_indices names none".to_owned());
        }
        (None, [..]) => {
            let part = Part::Tokens.name();
            return refuse(format!(
                "has no {module}.{part}, and trainable_token_indices names tokens"
            ));
        }
        (Some(tensor), [..]) => tensor,
    };
    let [vocabulary, hidden] = dims[EMBEDDING][..] else {
        unreachable!("an embedding has rows and columns")
    };
    if tensor.info.shape != [ids.len(), hidden] {
        let shape = &tensor.info.shape;
        let wanted = [ids.len(), hidden];
        return refuse(format!(
            "its trained tokens are {shape:?}, config and base ask for {wanted:?}"
        ));
    }
    let mut rows = BTreeMap::new();
    for (by, id) in ids.iter().enumerate() {
        match usize::try_from(*id).ok().filter(|row| *row < vocabulary) {
            None => return refuse(format!("token {id} is not below the base's {vocabulary}")),
            Some(row) if rows.insert(row, by).is_some() => {
                return refuse(format!("token {id} is trained twice"));
            }
            Some(_) => {}
        }
    }
    Ok(Some(Change::Rows { rows, tensor }))
}
