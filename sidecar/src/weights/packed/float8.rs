//! Weights that are floats of 8 bits (e4m3, without infinities) times a scale: one for all, one for each
//! row, or one for each block of rows and columns.
//!
//! Sources: OCP 8-bit floating point, revision 1.0, table 1; transformers `finegrained_fp8.py`;
//! compressed-tensors `naive_quantized/base.py`.

use std::ops::Range;

use super::grid::{AT_ONCE, pieces};
use crate::model_error::{ModelError, shorten};
use crate::weights::TensorSource;
use crate::weights::folder::SafetensorsFolder;

/// A matrix of such numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Float8 {
    pub(super) name: String,
    pub(super) scales: String,
    /// Rows and columns that share a scale.
    pub(super) block: [usize; 2],
    /// Scales of a row of blocks.
    pub(super) across: usize,
}

impl Float8 {
    /// Reads `rows x cols` as numbers.
    ///
    /// # Errors
    /// Where one is none; as the files'.
    pub(super) fn read(
        &self,
        files: &SafetensorsFolder,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), ModelError> {
        if out.is_empty() {
            return Ok(());
        }
        let table: [f32; 256] = std::array::from_fn(|code| number(u8::try_from(code).unwrap_or(0)));
        let at_once = (AT_ONCE / cols.len()).max(1);
        let mut codes = vec![0; at_once.min(rows.len()) * cols.len()];
        for (piece, out) in pieces(rows, at_once).zip(out.chunks_mut(at_once * cols.len())) {
            let codes = &mut codes[..piece.len() * cols.len()];
            files.read_raw(&self.name, piece.clone(), cols.clone(), codes)?;
            let each = codes
                .chunks_exact(cols.len())
                .zip(out.chunks_exact_mut(cols.len()));
            let mut scales = vec![0.0; self.across];
            let mut held = None;
            for (row, (codes, out)) in piece.zip(each) {
                let block = row / self.block[0];
                if held != Some(block) {
                    files.read_block(
                        &self.scales,
                        block..block + 1,
                        0..self.across,
                        &mut scales,
                    )?;
                    held = Some(block);
                }
                for ((col, code), out) in cols.clone().zip(codes).zip(out) {
                    *out = table[usize::from(*code)] * scales[col / self.block[1]];
                }
                if let Some(at) = codes.iter().position(|code| code & 0x7F == 0x7F) {
                    let message = format!(
                        "tensor `{}`: the number at [{row}, {}] is NaN",
                        shorten(&self.name),
                        cols.start + at
                    );
                    return Err(ModelError::weights("weights", message));
                }
            }
        }
        Ok(())
    }
}

/// What a code stands for.
fn number(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 0x0F), f32::from(code & 0x07));
    let magnitude = match exponent {
        15 if code & 0x07 == 0x07 => f32::NAN,
        0 => mantissa * 2f32.powi(-9),
        _ => (8.0 + mantissa) * 2f32.powi(exponent - 10),
    };
    if code & 0x80 == 0 {
        magnitude
    } else {
        -magnitude
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_table() {
        let of = [
            (0x00, 0.0),
            (0x01, 2f32.powi(-9)),
            (0x07, 7.0 * 2f32.powi(-9)),
            (0x08, 2f32.powi(-6)),
            (0x38, 1.0),
            (0x39, 1.125),
            (0x7E, 448.0),
            (0xB8, -1.0),
            (0xFE, -448.0),
        ];
        for (code, expected) in of {
            assert_eq!(number(code), expected, "{code:#04x}");
        }
        assert!(number(0x7F).is_nan() && number(0xFF).is_nan());
        assert!(number(0x80) == 0.0 && number(0x80).is_sign_negative());
    }
}
