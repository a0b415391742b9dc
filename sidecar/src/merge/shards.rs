//! The weights of a merged folder: one safetensors file, or several with an index, in the types of the
//! base's own.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::sync::Mutex;

use plimsoll_kernels::isa::Isa;
use plimsoll_kernels::pool::{Pool, available_cpus};
use plimsoll_planner::{Bytes, Dtype};
use serde_json::{Map, Value, json};

use super::MergeError;
use super::figures::Figures;
use super::folder::Staging;
use crate::model::{Model, ModelError};
use crate::weights::encoding::{Encoding, encode};
use crate::weights::folder::SafetensorsFolder;
use crate::weights::{TensorInfo, TensorSource, needed};

/// Bytes of a tensor that a thread computes before they are written.
const PIECE_BYTES: usize = 512 << 10;
/// The data of a file begins at a multiple of this, as readers that map it like.
const ALIGNED: usize = 8;
const EMBEDDING: &str = "model.embed_tokens.weight";

/// Which tensor goes into which file.
#[derive(Debug)]
pub(super) struct Shards(Vec<Vec<Tensor>>);

#[derive(Clone, Debug)]
struct Tensor {
    info: TensorInfo,
    encoding: Encoding,
    dtype: Dtype,
}

impl Shards {
    /// Tensors in the model's order; a file is full before it is larger than `bytes_max`, one of a
    /// single tensor aside.
    pub(super) fn of(model: &Model, bytes_max: Bytes) -> Shards {
        let mut files: Vec<Vec<Tensor>> = vec![Vec::new()];
        let mut bytes = 0;
        for (name, _) in needed(&model.shape) {
            let Some(tensor) = model.tensors.info(&name).and_then(Tensor::of) else {
                unreachable!("{name} was checked when the model was opened")
            };
            let more = tensor.info.bytes;
            let is_full = bytes > 0 && bytes + more > bytes_max.get();
            match files.last_mut() {
                Some(file) if !is_full => file.push(tensor),
                Some(_) | None => {
                    files.push(vec![tensor]);
                    bytes = 0;
                }
            }
            bytes += more;
        }
        Shards(files)
    }

    pub(super) fn files(&self) -> usize {
        self.0.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.0
            .iter()
            .flatten()
            .map(|tensor| tensor.info.bytes)
            .sum()
    }

    fn name(&self, file: usize) -> String {
        match self.files() {
            1 => SafetensorsFolder::SINGLE.to_owned(),
            all => format!("model-{:05}-of-{all:05}.safetensors", file + 1),
        }
    }

    /// Writes every file, and the index where there are several.
    pub(super) fn write(
        &self,
        base: &Model,
        model: &Model,
        to: &Staging,
    ) -> Result<Figures, MergeError> {
        let pool = Pool::new(available_cpus(), Isa::detect());
        let pool = pool.map_err(|source| MergeError::File {
            path: to.path().to_owned(),
            source,
        })?;
        let changes = model.adapters.iter().flat_map(|of| &of.changes);
        let writing = Writing {
            base: &*base.tensors,
            merged: &*model.tensors,
            changed: changes.map(String::as_str).collect(),
        };
        let mut figures = Figures::default();
        let mut index = Map::new();
        for (at, tensors) in self.0.iter().enumerate() {
            let name = self.name(at);
            let path = to.path().join(&name);
            let failed = |source| MergeError::File {
                path: path.clone(),
                source,
            };
            to.write(&name, |file| {
                file.write_all(&header(tensors)).map_err(failed)?;
                for tensor in tensors {
                    let mut put = |bytes: &[u8]| file.write_all(bytes).map_err(failed);
                    figures.add(&writing.tensor(&pool, tensor, &mut put)?);
                }
                Ok(())
            })?;
            let names = tensors.iter().map(|tensor| tensor.info.name.clone());
            index.extend(names.map(|tensor| (tensor, Value::from(name.clone()))));
        }
        if self.files() > 1 {
            let index = json!({"metadata": {"total_size": self.bytes()}, "weight_map": index});
            let name = SafetensorsFolder::INDEX;
            let path = to.path().join(name);
            to.write(name, |file: &mut File| {
                write!(file, "{index:#}").map_err(|source| MergeError::File { path, source })
            })?;
        }
        Ok(figures)
    }
}

impl Tensor {
    /// None of one that no reader here has floats of.
    fn of(info: &TensorInfo) -> Option<Tensor> {
        let encodings = [Encoding::F32, Encoding::F16, Encoding::Bf16];
        let encoding = encodings.into_iter().find(|of| of.label() == info.dtype)?;
        Some(Tensor {
            info: info.clone(),
            encoding,
            dtype: encoding.plain()?,
        })
    }
}

/// The header of a file, with its length.
fn header(tensors: &[Tensor]) -> Vec<u8> {
    let mut fields = Map::new();
    fields.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut start = 0;
    for Tensor { info, .. } in tensors {
        let end = start + info.bytes;
        let of = json!({"dtype": info.dtype, "shape": info.shape, "data_offsets": [start, end]});
        fields.insert(info.name.clone(), of);
        start = end;
    }
    let mut json = Value::Object(fields).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(ALIGNED), b' ');
    [&(json.len() as u64).to_le_bytes()[..], &json].concat()
}

/// What tensors are computed from.
struct Writing<'a> {
    base: &'a dyn TensorSource,
    merged: &'a dyn TensorSource,
    changed: HashSet<&'a str>,
}

impl Writing<'_> {
    /// Gives `put` the bytes of a tensor, in order.
    fn tensor(
        &self,
        pool: &Pool,
        tensor: &Tensor,
        put: &mut dyn FnMut(&[u8]) -> Result<(), MergeError>,
    ) -> Result<Figures, MergeError> {
        let (rows, cols) = tensor.info.rows_cols();
        let row_bytes = cols * tensor.encoding.block_bytes();
        if rows == 0 || row_bytes == 0 {
            return Ok(Figures::default());
        }
        let piece = (PIECE_BYTES / row_bytes).max(1);
        let at_once = (piece * pool.threads()).min(rows);
        let mut bytes = vec![0; at_once * row_bytes];
        let is_changed = self.changed.contains(tensor.info.name.as_str());
        let all = Mutex::new(Ok(Figures::of(usize::from(is_changed))));
        for first in (0..rows).step_by(at_once) {
            let bytes = &mut bytes[..at_once.min(rows - first) * row_bytes];
            pool.run_rows(bytes, row_bytes, piece, |at, bytes| {
                let rows = first + at..first + at + bytes.len() / row_bytes;
                let done = match is_changed {
                    true => self.changed_rows(tensor, rows, cols, bytes),
                    false => self.same_rows(tensor, rows, cols, bytes),
                };
                let mut all = all
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                match (&mut *all, done) {
                    (Ok(all), Ok(more)) => all.add(&more),
                    (Ok(_), Err(error)) => *all = Err(error),
                    (Err(_), _) => {}
                }
            });
            if all.lock().is_ok_and(|all| all.is_err()) {
                break;
            }
            put(bytes)?;
        }
        let all = all.into_inner();
        Ok(all.unwrap_or_else(std::sync::PoisonError::into_inner)?)
    }

    fn same_rows(
        &self,
        tensor: &Tensor,
        rows: std::ops::Range<usize>,
        cols: usize,
        out: &mut [u8],
    ) -> Result<Figures, ModelError> {
        let (name, dtype) = (&tensor.info.name, tensor.dtype);
        self.merged.read_as(dtype, name, rows, 0..cols, out)?;
        Ok(Figures::default())
    }

    fn changed_rows(
        &self,
        tensor: &Tensor,
        rows: std::ops::Range<usize>,
        cols: usize,
        out: &mut [u8],
    ) -> Result<Figures, ModelError> {
        let (name, dtype) = (tensor.info.name.as_str(), tensor.dtype);
        // The head of a tied base is its embedding.
        let own = match self.base.info(name) {
            Some(_) => name,
            None => EMBEDDING,
        };
        let [mut before, mut merged] = [0; 2].map(|_| vec![0.0; rows.len() * cols]);
        self.base
            .read_block(own, rows.clone(), 0..cols, &mut before)?;
        self.merged
            .read_block(name, rows.clone(), 0..cols, &mut merged)?;
        encode(dtype, &merged, out);
        let mut stored = vec![0.0; merged.len()];
        tensor.encoding.decode(out, 0, &mut stored);
        if stored.iter().any(|number| !number.is_finite()) {
            // It says which number, and of which adapter.
            self.merged.read_as(dtype, name, rows, 0..cols, out)?;
        }
        let mut figures = Figures::default();
        figures.count(&before, &merged, &stored);
        Ok(figures)
    }
}
