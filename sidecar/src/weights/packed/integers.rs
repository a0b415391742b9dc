//! Integers as packers lay them out, read as one byte each, counted from 0.
//!
//! | layout | tensor | a word of 32 bits holds |
//! |---|---|---|
//! | `Gptq` | `[in * bits / 32, out]` | consecutive inputs of one output |
//! | `GptqZeros` | `[groups, out * bits / 32]` | consecutive outputs of one group |
//! | `Awq` | `[in, out / 8]`, `[groups, out / 8]` | 8 outputs, in the order 0 2 4 6 1 3 5 7 |
//! | `Compressed` | `[out, in * bits / 32]` | consecutive inputs of one output |
//! | `CompressedZeros` | `[out * bits / 32, groups]` | consecutive outputs of one group |
//! | `Bytes` | `[out, in]` | no words: signed bytes, 128 is added |
//!
//! The first number is in the low bits. Sources: AutoGPTQ `qlinear_cuda.py`, AutoAWQ `gemm.py` and
//! `packing_utils.py`, compressed-tensors `pack_quantized/helpers.py`.

use std::ops::Range;

use crate::model_error::ModelError;
use crate::weights::folder::SafetensorsFolder;

/// Where AutoAWQ puts output i of eight.
const AWQ_PLACE: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];
const WORD_BITS: usize = 32;
const WORD_BYTES: usize = 4;

/// How a matrix of integers is laid out. Its rows are outputs, its columns inputs or groups of them,
/// whatever the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Gptq,
    GptqZeros,
    Awq,
    Compressed,
    CompressedZeros,
    Bytes,
}

impl Layout {
    /// Whether a word holds numbers of one column, or of one row.
    const fn packs_rows(self) -> bool {
        match self {
            Layout::GptqZeros | Layout::Awq | Layout::CompressedZeros => true,
            Layout::Gptq | Layout::Compressed | Layout::Bytes => false,
        }
    }

    /// Whether the tensor's first dimension is that of the columns.
    const fn is_transposed(self) -> bool {
        match self {
            Layout::Gptq | Layout::GptqZeros | Layout::Awq => true,
            Layout::Compressed | Layout::CompressedZeros | Layout::Bytes => false,
        }
    }

    /// Whether the last word of a row may hold fewer numbers.
    const fn pads(self) -> bool {
        match self {
            Layout::Compressed | Layout::CompressedZeros => true,
            Layout::Gptq | Layout::GptqZeros | Layout::Awq | Layout::Bytes => false,
        }
    }
}

/// A matrix of integers in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Integers {
    pub(super) name: String,
    pub(super) layout: Layout,
    /// 4 or 8.
    pub(super) bits: usize,
}

impl Integers {
    /// The shape of the tensor that holds `rows x cols` of them; none where they do not fill its words.
    pub(super) fn shape(&self, rows: usize, cols: usize) -> Option<[usize; 2]> {
        if self.layout == Layout::Bytes {
            return Some([rows, cols]);
        }
        let per_word = WORD_BITS / self.bits;
        let words = |numbers: usize| match self.layout.pads() {
            true => Some(numbers.div_ceil(per_word)),
            false => numbers
                .is_multiple_of(per_word)
                .then_some(numbers / per_word),
        };
        let (rows, cols) = match self.layout.packs_rows() {
            true => (words(rows)?, cols),
            false => (rows, words(cols)?),
        };
        Some(match self.layout.is_transposed() {
            true => [cols, rows],
            false => [rows, cols],
        })
    }

    /// Reads `rows x cols` of them into `out`, row-major.
    ///
    /// # Errors
    /// As [`SafetensorsFolder::read_raw`].
    pub(super) fn read(
        &self,
        files: &SafetensorsFolder,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [u8],
    ) -> Result<(), ModelError> {
        if self.layout == Layout::Bytes {
            files.read_raw(&self.name, rows, cols, out)?;
            out.iter_mut().for_each(|byte| *byte ^= 0x80);
            return Ok(());
        }
        let per_word = WORD_BITS / self.bits;
        let words =
            |numbers: &Range<usize>| numbers.start / per_word..numbers.end.div_ceil(per_word);
        let (down, across) = match self.layout.packs_rows() {
            true => (words(&rows), cols.clone()),
            false => (rows.clone(), words(&cols)),
        };
        let (first, second) = match self.layout.is_transposed() {
            true => (across.clone(), down.clone()),
            false => (down.clone(), across.clone()),
        };
        let bytes = second.start * WORD_BYTES..second.end * WORD_BYTES;
        let mut raw = vec![0; first.len() * bytes.len()];
        files.read_raw(&self.name, first, bytes, &mut raw)?;
        // Bytes from one word to the next one of the same row, and of the same column.
        let (right, below) = match self.layout.is_transposed() {
            true => (down.len() * WORD_BYTES, WORD_BYTES),
            false => (WORD_BYTES, across.len() * WORD_BYTES),
        };
        let place = |at: usize| match self.layout {
            Layout::Awq => AWQ_PLACE[at % per_word],
            _ => at % per_word,
        };
        let number = |word: usize, place: usize| match self.bits {
            8 => raw[word + place],
            _ => raw[word + place / 2] >> (4 * (place % 2)) & 0x0F,
        };
        for (row, out) in rows.zip(out.chunks_exact_mut(cols.len().max(1))) {
            match self.layout.packs_rows() {
                true => {
                    let (start, place) = ((row / per_word - down.start) * below, place(row));
                    for (at, out) in out.iter_mut().enumerate() {
                        *out = number(start + at * right, place);
                    }
                }
                false => {
                    let start = (row - down.start) * below;
                    for (col, out) in cols.clone().zip(out) {
                        let word = (col / per_word - across.start) * right;
                        *out = number(start + word, place(col));
                    }
                }
            }
        }
        Ok(())
    }
}
