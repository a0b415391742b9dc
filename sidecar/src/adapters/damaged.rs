//! Rows in which a base has no numbers: no adapter that is merged into them is to blame.

use super::change::Change;
use crate::model_error::{ModelError, shorten};
use crate::weights::TensorSource;
use crate::weights::encoding::{Encoding, limit};

/// Refuses a row of a tensor (`name`, which the base calls `behind`) where the base has none, as it is kept.
///
/// # Errors
/// [`ModelError::InvalidWeights`] with the tensor, the row and the column; where a file fails.
pub(super) fn check(
    base: &dyn TensorSource,
    change: Option<&Change>,
    kept: Encoding,
    [name, behind]: [&str; 2],
    row: usize,
) -> Result<(), ModelError> {
    // Of the base nothing is left.
    if matches!(change, Some(Change::Replaced(_))) {
        return Ok(());
    }
    let width = base.info(behind).map_or(0, |info| info.rows_cols().1);
    let mut numbers = vec![0.0; width];
    base.read_rows(behind, row..row + 1, &mut numbers)?;
    let is_none = |number: &f32| number.is_nan() || number.abs() >= limit(kept);
    let Some(column) = numbers.iter().position(is_none) else {
        return Ok(());
    };
    let message = format!(
        "tensor `{}`: row {row}, column {column} is {} before an adapter is merged into it, which is no {}: \
         a damaged file, or a number too large for the type; fetch the files again",
        shorten(name),
        numbers[column],
        kept.kept_as()
    );
    Err(ModelError::weights("weights", message))
}
