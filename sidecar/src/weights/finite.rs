//! Floats that are no numbers: NaN and infinities, found in the bytes that are to be kept.

use std::ops::Range;

use plimsoll_planner::Dtype;

use super::encoding::Encoding;
use crate::model_error::{ModelError, shorten};

/// Refuses `rows x cols` of a tensor, as they are to be kept, where one is NaN or infinite: nothing
/// that it takes part in would be a number. Larger than the largest of the type counts, too.
///
/// # Errors
/// [`ModelError::InvalidWeights`] with the tensor, the row and the column.
pub(crate) fn check(
    dtype: Dtype,
    name: &str,
    (rows, cols): (&Range<usize>, &Range<usize>),
    bytes: &[u8],
) -> Result<(), ModelError> {
    let Some(at) = first_wrong(dtype, bytes) else {
        return Ok(());
    };
    let (name, size) = (shorten(name), Encoding::of(dtype).block_bytes());
    let mut number = [0.0];
    Encoding::of(dtype).decode(&bytes[at * size..], 0, &mut number);
    let width = cols.len().max(1);
    let (row, col) = (rows.start + at / width, cols.start + at % width);
    let message = format!(
        "tensor `{name}`: row {row}, column {col} is {} as {dtype}: a damaged file, or a number too large \
         for the type; fetch the files again",
        number[0]
    );
    Err(ModelError::weights("weights", message))
}

/// The place of the first. All bits of its exponent are set.
fn first_wrong(dtype: Dtype, bytes: &[u8]) -> Option<usize> {
    const F32: u32 = 0x7f80_0000;
    let narrow = |mask: u16| {
        let wrong = move |cell: &[u8; 2]| u16::from_le_bytes(*cell) & mask == mask;
        find(bytes.as_chunks::<2>().0, wrong)
    };
    match dtype {
        Dtype::Float32 => find(bytes.as_chunks::<4>().0, |cell| {
            u32::from_le_bytes(*cell) & F32 == F32
        }),
        Dtype::BFloat16 => narrow(0x7f80),
        Dtype::Float16 => narrow(0x7c00),
    }
}

/// A pass without a branch per number, which compilers make vectors of, over each stretch.
fn find<C>(cells: &[C], wrong: impl Fn(&C) -> bool) -> Option<usize> {
    const AT_ONCE: usize = 1024;
    let mut stretches = cells.chunks(AT_ONCE).enumerate();
    stretches.find_map(|(stretch, cells)| {
        if !cells.iter().fold(false, |any, cell| any | wrong(cell)) {
            return None;
        }
        let at = cells.iter().position(&wrong)?;
        Some(stretch * AT_ONCE + at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::encoding::encode;

    const TYPES: [Dtype; 3] = [Dtype::Float32, Dtype::BFloat16, Dtype::Float16];

    fn checked(dtype: Dtype, numbers: &[f32]) -> Result<(), String> {
        let mut bytes = vec![0; numbers.len() * Encoding::of(dtype).block_bytes()];
        encode(dtype, numbers, &mut bytes);
        let block = (&(4..4 + numbers.len() / 25), &(50..75));
        check(dtype, "a", block, &bytes).map_err(|error| error.to_string())
    }

    #[test]
    fn the_first_number_that_is_none_is_named_wherever_it_stands() {
        for dtype in TYPES {
            for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for at in [0, 26, 1023, 1024, 2499] {
                    let mut numbers = vec![-1.5; 2500];
                    numbers[at..].fill(wrong);
                    let message = checked(dtype, &numbers).unwrap_err();
                    let (row, col) = (4 + at / 25, 50 + at % 25);
                    let named = format!("`a`: row {row}, column {col} is {wrong} as {dtype}:");
                    assert!(message.contains(&named), "{message}");
                }
            }
        }
    }

    #[test]
    fn the_largest_numbers_of_a_type_pass_and_what_is_rounded_beyond_them_does_not() {
        for (dtype, most, beyond) in [
            (Dtype::Float32, f32::MAX, None),
            (Dtype::BFloat16, 3.389e38, Some(f32::MAX)),
            (Dtype::Float16, 65_504.0, Some(65_520.0)),
        ] {
            let mut numbers = vec![-most; 25];
            numbers.extend([0.0, -0.0, 1e-45, f32::MIN_POSITIVE, most]);
            numbers.resize(50, most);
            assert_eq!(checked(dtype, &numbers), Ok(()), "{dtype}");
            if let Some(beyond) = beyond {
                numbers[49] = -beyond;
                let message = checked(dtype, &numbers).unwrap_err();
                assert!(message.contains("row 5, column 74 is -inf"), "{message}");
            }
        }
    }
}
