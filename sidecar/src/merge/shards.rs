//! The weights of a merged folder: one safetensors file, or several with an index, in the types of the
//! base's own.

use std::fs::File;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use plimsoll_kernels::isa::Isa;
use plimsoll_kernels::pool::{Pool, available_cpus};
use plimsoll_planner::{Bytes, Dtype};
use serde_json::{Map, Value, json};

use super::MergeError;
use super::folder::Staging;
use crate::model::{Model, ModelError};
use crate::weights::encoding::Encoding;
use crate::weights::folder::SafetensorsFolder;
use crate::weights::{TensorInfo, TensorSource, needed};

/// Bytes of a tensor that a thread computes before they are written.
const PIECE_BYTES: usize = 512 << 10;
/// The data of a file begins at a multiple of this, as readers that map it like.
const ALIGNED: usize = 8;

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
    pub(super) fn write(&self, model: &Model, to: &Staging) -> Result<(), MergeError> {
        let pool = Pool::new(available_cpus(), Isa::detect());
        let pool = pool.map_err(|source| MergeError::File {
            path: to.path().to_owned(),
            source,
        })?;
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
                    tensor.write(&*model.tensors, &pool, &mut put)?;
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
        Ok(())
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

impl Tensor {
    /// Gives `put` the bytes of a tensor, in order.
    fn write(
        &self,
        source: &dyn TensorSource,
        pool: &Pool,
        put: &mut dyn FnMut(&[u8]) -> Result<(), MergeError>,
    ) -> Result<(), MergeError> {
        let (rows, cols) = self.info.rows_cols();
        let row_bytes = cols * self.encoding.block_bytes();
        if rows == 0 || row_bytes == 0 {
            return Ok(());
        }
        let piece = (PIECE_BYTES / row_bytes).max(1);
        let at_once = (piece * pool.threads()).min(rows);
        let mut bytes = vec![0; at_once * row_bytes];
        let failed: Mutex<Option<ModelError>> = Mutex::default();
        for first in (0..rows).step_by(at_once) {
            let bytes = &mut bytes[..at_once.min(rows - first) * row_bytes];
            pool.run_rows(bytes, row_bytes, piece, |at, bytes| {
                let rows = first + at..first + at + bytes.len() / row_bytes;
                let read = source.read_as(self.dtype, &self.info.name, rows, 0..cols, bytes);
                if let Err(error) = read {
                    *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                }
            });
            let failed = failed.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(error) = failed {
                return Err(error.into());
            }
            put(bytes)?;
        }
        Ok(())
    }
}
