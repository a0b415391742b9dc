//! The safetensors of a Hugging Face folder: `model.safetensors`, or the shards that
//! `model.safetensors.index.json` names.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;

use plimsoll_planner::Dtype;
use serde::Deserialize;

use super::file::{WeightFile, is_there, read_small};
use super::header::Bounds;
use super::safetensors::{self, SafetensorsFile, UniqueMap};
use super::stored::Stored;
use super::{TensorInfo, TensorSource, check_block, rounded};
use crate::model_error::{ModelError, shorten};

const SINGLE: &str = SafetensorsFolder::SINGLE;
const INDEX: &str = SafetensorsFolder::INDEX;
const INDEX_BYTES_MAX: u64 = 64 << 20;
const SHARDS_MAX: usize = 1024;

/// The tensors of a folder.
#[derive(Debug)]
pub(crate) struct SafetensorsFolder {
    /// In file-name order.
    files: Vec<SafetensorsFile>,
    order: Vec<String>,
    tensors: HashMap<String, Place>,
}

#[derive(Debug)]
struct Place {
    file: usize,
    offset: u64,
    info: TensorInfo,
    stored: Option<Stored>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: UniqueMap<String>,
}

impl SafetensorsFolder {
    pub(crate) const SINGLE: &str = "model.safetensors";
    pub(crate) const INDEX: &str = "model.safetensors.index.json";

    /// Reads every header. `digest` gets them in file-name order.
    pub(crate) fn open(
        folder: &Path,
        digest: &mut dyn FnMut(&[u8]),
    ) -> Result<SafetensorsFolder, ModelError> {
        if is_there(&folder.join(SINGLE)) {
            let file = safetensors::open(
                WeightFile::open(&folder.join(SINGLE))?,
                Bounds::MODEL,
                digest,
            )?;
            return Ok(SafetensorsFolder::collect(vec![file], |_, _| true));
        }
        if !is_there(&folder.join(INDEX)) {
            return Err(missing(folder));
        }
        SafetensorsFolder::open_sharded(folder, digest)
    }

    fn open_sharded(
        folder: &Path,
        digest: &mut dyn FnMut(&[u8]),
    ) -> Result<SafetensorsFolder, ModelError> {
        let bytes = read_small(&folder.join(INDEX), INDEX_BYTES_MAX)?;
        let Index {
            weight_map: UniqueMap(entries),
        } = serde_json::from_slice(&bytes)
            .map_err(|e| ModelError::weights(INDEX, format!("is not valid: {e}")))?;
        // Shard name to the tensors the index puts there.
        let mut shards: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (tensor, shard) in entries {
            check_shard_name(&tensor, &shard)?;
            shards.entry(shard).or_default().push(tensor);
        }
        if shards.is_empty() || shards.len() > SHARDS_MAX {
            let message = format!(
                "weight_map names {} files, expected 1 to {SHARDS_MAX}",
                shards.len()
            );
            return Err(ModelError::weights(INDEX, message));
        }
        let mut files = Vec::with_capacity(shards.len());
        for name in shards.keys() {
            let path = folder.join(name);
            if !is_there(&path) {
                let message = format!("names the file {name}, which is missing; fetch it");
                return Err(ModelError::weights(INDEX, message));
            }
            files.push(safetensors::open(
                WeightFile::open(&path)?,
                Bounds::MODEL,
                digest,
            )?);
        }
        check_places(&shards, &files)?;
        let names: Vec<std::collections::HashSet<String>> = shards
            .into_values()
            .map(|names| names.into_iter().collect())
            .collect();
        Ok(SafetensorsFolder::collect(files, |file, tensor| {
            names[file].contains(tensor)
        }))
    }

    /// `wanted(file, tensor)`: the index puts the tensor there.
    fn collect(
        files: Vec<SafetensorsFile>,
        wanted: impl Fn(usize, &str) -> bool,
    ) -> SafetensorsFolder {
        let mut order = Vec::new();
        let mut tensors = HashMap::new();
        for (file, open) in files.iter().enumerate() {
            for entry in open
                .tensors
                .iter()
                .filter(|entry| wanted(file, &entry.info.name))
            {
                order.push(entry.info.name.clone());
                let place = Place {
                    file,
                    offset: entry.offset,
                    info: entry.info.clone(),
                    stored: entry.stored.clone(),
                };
                tensors.insert(entry.info.name.clone(), place);
            }
        }
        SafetensorsFolder {
            files,
            order,
            tensors,
        }
    }
}

impl SafetensorsFolder {
    /// Reads a part of a tensor as it stands in the file: of the rows that its matrix view has, `bytes`
    /// of each.
    ///
    /// # Errors
    /// [`ModelError::InvalidWeights`] for an unknown name or a range outside of the tensor;
    /// [`ModelError::Unreadable`] where the file fails.
    pub(super) fn read_raw(
        &self,
        name: &str,
        rows: Range<usize>,
        bytes: Range<usize>,
        out: &mut [u8],
    ) -> Result<(), ModelError> {
        let refuse = |message: String| {
            let message = format!("tensor `{}`: {message}", shorten(name));
            Err(ModelError::weights("weights", message))
        };
        let Some(Place {
            file, offset, info, ..
        }) = self.tensors.get(name)
        else {
            return refuse("is not in the model".into());
        };
        let all = info.rows_cols().0;
        let width = usize::try_from(info.bytes / (all as u64).max(1)).unwrap_or(usize::MAX);
        if rows.end > all || bytes.end > width || out.len() != rows.len() * bytes.len() {
            return refuse(format!(
                "rows {rows:?} and bytes {bytes:?} are outside of its {all} rows of {width} bytes"
            ));
        }
        let at = |row: usize| offset + (row as u64) * (width as u64) + bytes.start as u64;
        let file = &self.files[*file].file;
        if bytes.len() == width {
            return file.read_at(at(rows.start), out);
        }
        for (row, out) in rows.zip(out.chunks_exact_mut(bytes.len().max(1))) {
            file.read_at(at(row), out)?;
        }
        Ok(())
    }
}

impl TensorSource for SafetensorsFolder {
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
        check_block(
            name,
            place.map(|place| &place.info),
            &rows,
            &cols,
            out.len(),
        )?;
        let Some(Place {
            file, info, stored, ..
        }) = place
        else {
            return Ok(());
        };
        let file = &self.files[*file].file;
        match stored {
            Some(stored) => stored.read(file, rows, cols, out),
            None => {
                let message = format!("tensor `{name}` is {}, which is not read", info.dtype);
                Err(ModelError::quantization(file.name(), message))
            }
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
        let (info, count) = (self.info(name), rows.len().saturating_mul(cols.len()));
        check_block(name, info, &rows, &cols, count)?;
        let bytes = dtype.bytes().saturating_mul(count as u64);
        assert_eq!(out.len() as u64, bytes, "{count} numbers of {dtype}");
        if let Some(Place {
            file,
            stored: Some(stored),
            ..
        }) = self.tensors.get(name)
        {
            let file = &self.files[*file].file;
            if stored.read_same(file, dtype, rows.clone(), cols.clone(), out)? {
                return Ok(());
            }
        }
        let read = |numbers: &mut [f32]| self.read_block(name, rows, cols, numbers);
        rounded(dtype, count, read, out)
    }
}

/// A shard is a plain file of the folder: an index may not reach elsewhere.
fn check_shard_name(tensor: &str, shard: &str) -> Result<(), ModelError> {
    let plain = shard.ends_with(".safetensors")
        && !shard.starts_with('.')
        && !shard
            .chars()
            .any(|c| c == '/' || c == '\\' || c.is_control());
    if plain {
        return Ok(());
    }
    let message = format!(
        "weight_map puts `{}` into `{}`; a shard is a .safetensors file in the same folder, \
         without a path",
        shorten(tensor),
        shorten(shard)
    );
    Err(ModelError::weights(INDEX, message))
}

/// Every tensor of the index is in the file that the index says.
fn check_places(
    shards: &BTreeMap<String, Vec<String>>,
    files: &[SafetensorsFile],
) -> Result<(), ModelError> {
    let mut homes: HashMap<&str, Vec<&str>> = HashMap::new();
    for file in files {
        for entry in &file.tensors {
            homes
                .entry(&entry.info.name)
                .or_default()
                .push(file.file.name());
        }
    }
    for (shard, tensors) in shards {
        for tensor in tensors {
            let homes = homes.get(tensor.as_str()).map_or(&[][..], Vec::as_slice);
            if homes.contains(&shard.as_str()) {
                continue;
            }
            let tensor = shorten(tensor);
            let found = match homes.first() {
                Some(home) => format!("it is in {home}"),
                None => "no file has it".into(),
            };
            let message = format!("weight_map puts `{tensor}` into {shard}, but {found}");
            return Err(ModelError::weights(INDEX, message));
        }
    }
    Ok(())
}

fn missing(folder: &Path) -> ModelError {
    let has = |ending: &str| {
        std::fs::read_dir(folder).is_ok_and(|entries| {
            entries
                .flatten()
                .any(|e| e.file_name().to_string_lossy().ends_with(ending))
        })
    };
    let hint = if has(".bin") || has(".pth") || has(".pt") {
        "; PyTorch files are not read, convert them to safetensors"
    } else if has(".safetensors") {
        "; .safetensors files under other names are not read"
    } else {
        ""
    };
    ModelError::NotFound {
        path: folder.to_owned(),
        message: format!("holds neither {SINGLE} nor {INDEX} nor one .gguf file{hint}"),
    }
}
