//! Weights of a Hugging Face folder that are packed: GPTQ, AWQ, compressed-tensors and FP8, read as the
//! matrices that they stand for. Those that blocks hold to the last bit are handed on as such and stay so in
//! memory: GGUF's Q4_0 and Q8_0, and the planner's own where there are zero points or groups of 128; FP8,
//! groups of other sizes, and scales that f16 has not are expanded. Groups of columns that are apart (act
//! order) are read as blocks one after the other, with a list of their columns.
//!
//! What is small is read when the folder is opened, once: scales, groups, and zero points that should be
//! the middle; so a bad one is told before anything is loaded.

mod compressed;
mod find;
mod float8;
mod gptq;
mod grid;
mod groups;
mod integers;
mod module;
mod scheme;

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use plimsoll_planner::{BlockFormat, Dtype, ModelShape};

use super::folder::SafetensorsFolder;
use super::{TensorInfo, TensorSource, check_block, needed, other_type, rounded};
use crate::model_error::ModelError;
use float8::Float8;
use grid::Grid;
pub(crate) use scheme::Scheme;

/// Types that facts and messages show for packed matrices.
pub(crate) const LABELS: [&str; 6] = [GPTQ[0], GPTQ[1], AWQ, INT[0], INT[1], FLOAT8];
/// Of 4 and of 8 bits.
const GPTQ: [&str; 2] = ["GPTQ-INT4", "GPTQ-INT8"];
const AWQ: &str = "AWQ-INT4";
/// As compressed-tensors has them.
const INT: [&str; 2] = ["INT4", "INT8"];
const FLOAT8: &str = "FP8";

/// How the first packed tensor of a model is packed, if one is.
pub(crate) fn first(tensors: &dyn TensorSource) -> Option<&str> {
    let mut names = tensors.names().into_iter();
    names.find_map(|name| {
        let dtype = tensors.info(name)?.dtype.as_str();
        LABELS.contains(&dtype).then_some(dtype)
    })
}

/// How the numbers of a matrix are packed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Numbers {
    Grid(Grid),
    Float8(Float8),
}

/// A matrix, as its readers see it, and how it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Packed {
    info: TensorInfo,
    numbers: Numbers,
    /// Tensors of the file that are parts of it.
    parts: Vec<String>,
}

impl Packed {
    /// The blocks that hold its numbers.
    fn blocks(&self) -> Option<BlockFormat> {
        match &self.numbers {
            Numbers::Grid(grid) => grid.blocks(self.info.rows_cols().1).ok(),
            Numbers::Float8(_) => None,
        }
    }

    /// The order of their columns, where it is not the file's.
    fn order(&self) -> Option<&[u32]> {
        match &self.numbers {
            Numbers::Grid(grid) => grid.groups.order().filter(|_| self.blocks().is_some()),
            Numbers::Float8(_) => None,
        }
    }
}

/// The tensors of a folder, of which some are packed.
#[derive(Debug)]
pub(crate) struct PackedFolder {
    files: SafetensorsFolder,
    order: Vec<String>,
    packed: HashMap<String, Packed>,
}

impl PackedFolder {
    /// Finds what is packed, and adds what whoever runs the model should know to `told`.
    ///
    /// # Errors
    /// [`ModelError`] with the tensor that is not as its scheme has it.
    pub(crate) fn open(
        files: SafetensorsFolder,
        scheme: &Scheme,
        shape: &ModelShape,
        told: &mut Vec<String>,
    ) -> Result<PackedFolder, ModelError> {
        let needed = needed(shape);
        let packed = find::all(&files, scheme, &needed, told)?;
        let needed: HashSet<&str> = needed.iter().map(|(name, _)| name.as_str()).collect();
        let mut hidden: HashSet<&str> = HashSet::new();
        for matrix in packed.values() {
            hidden.extend(matrix.parts.iter().map(String::as_str));
        }
        let seen =
            |name: &str| !hidden.contains(name) && !find::is_idle(&files, name, &packed, &needed);
        let mut order: Vec<String> = packed.keys().cloned().collect();
        order.sort();
        let others = files.names().into_iter().filter(|name| seen(name));
        order.extend(others.map(str::to_owned));
        Ok(PackedFolder {
            files,
            order,
            packed,
        })
    }
}

impl TensorSource for PackedFolder {
    fn names(&self) -> Vec<&str> {
        self.order.iter().map(String::as_str).collect()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        match self.packed.get(name) {
            Some(packed) => Some(&packed.info),
            None => self.files.info(name),
        }
    }

    fn read_block(
        &self,
        name: &str,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), ModelError> {
        let Some(packed) = self.packed.get(name) else {
            return self.files.read_block(name, rows, cols, out);
        };
        check_block(name, Some(&packed.info), &rows, &cols, out.len())?;
        match &packed.numbers {
            Numbers::Grid(grid) => grid.read(&self.files, rows, cols, out),
            Numbers::Float8(float8) => float8.read(&self.files, rows, cols, out),
        }
    }

    fn read_as(
        &self,
        dtype: Dtype,
        name: &str,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [u8],
    ) -> Result<(), ModelError> {
        if !self.packed.contains_key(name) {
            return self.files.read_as(dtype, name, rows, cols, out);
        }
        let count = rows.len().saturating_mul(cols.len());
        let read = |numbers: &mut [f32]| self.read_block(name, rows, cols, numbers);
        rounded(dtype, count, read, out)
    }

    fn blocks(&self, name: &str) -> Option<BlockFormat> {
        self.packed.get(name)?.blocks()
    }

    fn order(&self, name: &str) -> Option<&[u32]> {
        self.packed.get(name)?.order()
    }

    fn read_blocks(
        &self,
        format: BlockFormat,
        name: &str,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [u8],
    ) -> Result<(), ModelError> {
        let count = rows.len().saturating_mul(cols.len());
        check_block(name, self.info(name), &rows, &cols, count)?;
        match self.packed.get(name) {
            Some(
                packed @ Packed {
                    numbers: Numbers::Grid(grid),
                    ..
                },
            ) if packed.blocks() == Some(format) => {
                grid.read_blocks(format, &self.files, [rows, cols], out)
            }
            _ => Err(other_type(format, name, self.info(name))),
        }
    }
}
