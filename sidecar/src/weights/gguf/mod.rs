//! GGUF version 3: weights, config and tokenizer in one file.
//!
//! Layout (little endian): magic `GGUF`, version u32, tensor count u64, pair count u64, the
//! metadata pairs, one description per tensor, padding to `general.alignment`, the data.

pub(crate) mod metadata;
pub(crate) mod names;
pub(crate) mod reader;
pub(crate) mod tensors;

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use plimsoll_planner::BlockFormat;

use super::file::WeightFile;
use super::stored::{RowOrder, Stored};
use super::{TensorInfo, TensorSource, check_block, other_type};
use crate::model_error::ModelError;
use metadata::Metadata;
use reader::HeaderReader;

const VERSION: u32 = 3;

/// An opened file: the header is read, tensor data is not.
#[derive(Debug)]
pub(crate) struct GgufFile {
    pub(crate) metadata: Metadata,
    pub(crate) tensors: GgufTensors,
}

/// The tensors of a file under their Hugging Face names.
#[derive(Debug)]
pub(crate) struct GgufTensors {
    file: WeightFile,
    order: Vec<String>,
    tensors: HashMap<String, (TensorInfo, Stored)>,
}

impl GgufFile {
    /// Reads the header; `digest` gets every byte of it.
    pub(crate) fn open(path: &Path, digest: &mut dyn FnMut(&[u8])) -> Result<GgufFile, ModelError> {
        let file = WeightFile::open(path)?;
        let mut reader = HeaderReader::new(&file, digest);
        let (tensor_count, pair_count) = read_preamble(&mut reader)?;
        let metadata = Metadata::read(&mut reader, file.name(), pair_count)?;
        let described = tensors::read(&mut reader, &metadata, tensor_count)?;
        let mut order = Vec::with_capacity(described.len());
        let mut tensors = HashMap::with_capacity(described.len());
        for (info, stored) in described {
            order.push(info.name.clone());
            tensors.insert(info.name.clone(), (info, stored));
        }
        Ok(GgufFile {
            metadata,
            tensors: GgufTensors {
                file,
                order,
                tensors,
            },
        })
    }
}

fn read_preamble(reader: &mut HeaderReader<'_>) -> Result<(u64, u64), ModelError> {
    let magic = reader.bytes::<4>()?;
    if magic != *b"GGUF" {
        return reader.refuse(format!("begins with {magic:02x?} instead of `GGUF`"));
    }
    let version = reader.u32()?;
    if version == VERSION.swap_bytes() {
        return reader.refuse("big-endian GGUF files are not read; convert it again");
    }
    if version != VERSION {
        return reader.refuse(format!(
            "GGUF version {version}, only version {VERSION} is read; convert the model again"
        ));
    }
    Ok((reader.u64()?, reader.u64()?))
}

impl GgufTensors {
    /// Says that q and k rows are interleaved (llama files): reading puts them back.
    pub(crate) fn interleave_q_and_k(&mut self, head_dim: usize) {
        for (name, (_, stored)) in &mut self.tensors {
            let is_q_or_k = [".self_attn.q_proj.", ".self_attn.k_proj."]
                .iter()
                .any(|module| name.contains(module));
            if is_q_or_k {
                stored.order = RowOrder::Interleaved { head_dim };
            }
        }
    }
}

impl TensorSource for GgufTensors {
    fn names(&self) -> Vec<&str> {
        self.order.iter().map(String::as_str).collect()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).map(|(info, _)| info)
    }

    fn read_block(
        &self,
        name: &str,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), ModelError> {
        let place = self.tensors.get(name);
        check_block(name, place.map(|(info, _)| info), &rows, &cols, out.len())?;
        let Some((_, stored)) = place else {
            return Ok(());
        };
        stored.read(&self.file, rows, cols, out)
    }

    fn blocks(&self, name: &str) -> Option<BlockFormat> {
        self.tensors
            .get(name)
            .and_then(|(_, stored)| stored.encoding.blocks())
    }

    fn read_blocks(
        &self,
        format: BlockFormat,
        name: &str,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [u8],
    ) -> Result<(), ModelError> {
        let place = self.tensors.get(name);
        let (info, count) = (
            place.map(|(info, _)| info),
            rows.len().saturating_mul(cols.len()),
        );
        check_block(name, info, &rows, &cols, count)?;
        let bytes = (rows.len() as u64).saturating_mul(format.row_bytes(cols.len() as u64));
        assert_eq!(out.len() as u64, bytes, "{count} numbers of {format}");
        match place {
            Some((_, stored)) if stored.read_blocks(&self.file, format, (rows, cols), out)? => {
                Ok(())
            }
            _ => Err(other_type(format, name, info)),
        }
    }
}
