//! GGUF version 3: weights, config and tokenizer in one file, or in the parts of one (`split`).
//!
//! Layout (little endian): magic `GGUF`, version u32, tensor count u64, pair count u64, the
//! metadata pairs, one description per tensor, padding to `general.alignment`, the data.

pub(crate) mod metadata;
pub(crate) mod names;
pub(crate) mod reader;
pub(crate) mod split;
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
use split::Split;

const VERSION: u32 = 3;

/// An opened file, or all parts of one: headers are read, tensor data is not.
#[derive(Debug)]
pub(crate) struct GgufFile {
    /// The first part's.
    pub(crate) metadata: Metadata,
    pub(crate) tensors: GgufTensors,
}

/// The tensors of a file under their Hugging Face names.
#[derive(Debug)]
pub(crate) struct GgufTensors {
    files: Vec<WeightFile>,
    order: Vec<String>,
    tensors: HashMap<String, Place>,
}

#[derive(Debug)]
struct Place {
    info: TensorInfo,
    stored: Stored,
    /// In `files`.
    file: usize,
}

/// One file of a model.
struct Part {
    file: WeightFile,
    metadata: Metadata,
    tensors: Vec<(TensorInfo, Stored)>,
}

impl GgufFile {
    /// Reads the header, and those of the other parts where the file is the first of several; `digest`
    /// gets every byte of them, in order.
    pub(crate) fn open(path: &Path, digest: &mut dyn FnMut(&[u8])) -> Result<GgufFile, ModelError> {
        let mut parts = vec![Part::open(path, digest)?];
        if let Some(split) = Split::of(path, &parts[0].metadata)? {
            for number in 2..=split.count {
                let part = Part::open(&split.part(number)?, digest)?;
                split.check(number, &parts[0].metadata, &part.metadata)?;
                // Only the first part's counts: of a hundred files it would be much.
                parts.push(Part {
                    metadata: Metadata::default(),
                    ..part
                });
            }
            let named = |part: &'_ Part| {
                let names = part.tensors.iter().map(|(info, _)| info.name.clone());
                names
                    .map(|name| (part.file.name().to_owned(), name))
                    .collect::<Vec<_>>()
            };
            let tensors: Vec<(String, String)> = parts.iter().flat_map(named).collect();
            let tensors = tensors.iter().map(|(file, name)| (&**file, &**name));
            split.check_tensors(&parts[0].metadata, tensors)?;
        }
        let mut all = GgufTensors {
            files: Vec::with_capacity(parts.len()),
            order: Vec::new(),
            tensors: HashMap::new(),
        };
        let mut metadata = Metadata::default();
        for (at, part) in parts.into_iter().enumerate() {
            if at == 0 {
                metadata = part.metadata;
            }
            all.files.push(part.file);
            for (info, stored) in part.tensors {
                all.order.push(info.name.clone());
                let place = Place {
                    info,
                    stored,
                    file: at,
                };
                all.tensors.insert(place.info.name.clone(), place);
            }
        }
        Ok(GgufFile {
            metadata,
            tensors: all,
        })
    }
}

impl Part {
    fn open(path: &Path, digest: &mut dyn FnMut(&[u8])) -> Result<Part, ModelError> {
        let file = WeightFile::open(path)?;
        let mut reader = HeaderReader::new(&file, digest);
        let (tensor_count, pair_count) = read_preamble(&mut reader)?;
        let metadata = Metadata::read(&mut reader, file.name(), pair_count)?;
        let tensors = tensors::read(&mut reader, &metadata, tensor_count)?;
        Ok(Part {
            file,
            metadata,
            tensors,
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
        for (name, Place { stored, .. }) in &mut self.tensors {
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
        self.tensors.get(name).map(|place| &place.info)
    }

    fn read_block(
        &self,
        name: &str,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), ModelError> {
        let place = self.tensors.get(name);
        check_block(name, self.info(name), &rows, &cols, out.len())?;
        let Some(Place { stored, file, .. }) = place else {
            return Ok(());
        };
        stored.read(&self.files[*file], rows, cols, out)
    }

    fn blocks(&self, name: &str) -> Option<BlockFormat> {
        let place = self.tensors.get(name)?;
        place.stored.encoding.blocks()
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
        let (info, count) = (self.info(name), rows.len().saturating_mul(cols.len()));
        check_block(name, info, &rows, &cols, count)?;
        let bytes = (rows.len() as u64).saturating_mul(format.row_bytes(cols.len() as u64));
        assert_eq!(out.len() as u64, bytes, "{count} numbers of {format}");
        let read = |Place { stored, file, .. }: &Place| {
            stored.read_blocks(&self.files[*file], format, (rows, cols), out)
        };
        match place.map(read).transpose()? {
            Some(true) => Ok(()),
            Some(false) | None => Err(other_type(format, name, info)),
        }
    }
}
