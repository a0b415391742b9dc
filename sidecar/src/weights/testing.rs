//! Model files for tests: a folder that goes away, writers for safetensors and GGUF that write
//! whatever they are told, lies included.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{TensorInfo, TensorSource};
use crate::model::{Model, ModelError};

/// A folder that is removed when the test ends.
#[derive(Debug)]
pub(crate) struct TempFolder(PathBuf);

impl TempFolder {
    pub(crate) fn new() -> TempFolder {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("plimsoll-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        TempFolder(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        // A folder left behind is the temp folder's business.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A safetensors file: the header as given, then `data` zero bytes.
pub(crate) fn safetensors_of(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(vec![0; data]);
    bytes
}

/// A well-formed safetensors file of f32 tensors that count up: number i of a tensor is i.
pub(crate) fn safetensors(tensors: &[(&str, &[usize])]) -> Vec<u8> {
    let mut header = Vec::new();
    let mut data = Vec::new();
    for (name, shape) in tensors {
        let start = data.len();
        for i in 0..shape.iter().product() {
            data.extend((i as f32).to_le_bytes());
        }
        header.push(format!(
            r#""{name}":{{"dtype":"F32","shape":{shape:?},"data_offsets":[{start},{}]}}"#,
            data.len()
        ));
    }
    let mut bytes = safetensors_of(&format!("{{{}}}", header.join(",")), 0);
    bytes.extend(data);
    bytes
}

/// A GGUF header in the making. Every number can be a lie.
#[derive(Clone, Debug)]
pub(crate) struct Gguf {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u32,
    /// None: as many as there are.
    pub(crate) tensor_count: Option<u64>,
    pub(crate) pair_count: Option<u64>,
    pub(crate) pairs: Vec<Vec<u8>>,
    pub(crate) tensors: Vec<Vec<u8>>,
    pub(crate) data: Vec<u8>,
}

impl Gguf {
    pub(crate) fn new() -> Gguf {
        Gguf {
            magic: *b"GGUF",
            version: 3,
            tensor_count: None,
            pair_count: None,
            pairs: Vec::new(),
            tensors: Vec::new(),
            data: Vec::new(),
        }
    }

    /// A pair of any type: `value` is its bytes.
    pub(crate) fn pair(mut self, key: &str, kind: u32, value: &[u8]) -> Gguf {
        self.pairs
            .push([&string(key), &kind.to_le_bytes()[..], value].concat());
        self
    }

    pub(crate) fn number(self, key: &str, number: u32) -> Gguf {
        self.pair(key, 4, &number.to_le_bytes())
    }

    pub(crate) fn float(self, key: &str, number: f32) -> Gguf {
        self.pair(key, 6, &number.to_le_bytes())
    }

    pub(crate) fn text(self, key: &str, text: &str) -> Gguf {
        self.pair(key, 8, &string(text))
    }

    pub(crate) fn texts(self, key: &str, list: &[&str]) -> Gguf {
        let mut value = [&8u32.to_le_bytes()[..], &(list.len() as u64).to_le_bytes()].concat();
        value.extend(list.iter().flat_map(|text| string(text)));
        self.pair(key, 9, &value)
    }

    pub(crate) fn numbers(self, key: &str, list: &[i32]) -> Gguf {
        let mut value = [&5u32.to_le_bytes()[..], &(list.len() as u64).to_le_bytes()].concat();
        value.extend(list.iter().flat_map(|n| n.to_le_bytes()));
        self.pair(key, 9, &value)
    }

    /// A description of any kind; `shape` in the file's order (columns first).
    pub(crate) fn described(mut self, name: &str, shape: &[u64], kind: u32, offset: u64) -> Gguf {
        let mut bytes = string(name);
        bytes.extend(u32::try_from(shape.len()).unwrap().to_le_bytes());
        bytes.extend(shape.iter().flat_map(|dim| dim.to_le_bytes()));
        bytes.extend(kind.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        self.tensors.push(bytes);
        self
    }

    /// A f32 tensor that counts up, rows first.
    pub(crate) fn tensor(self, name: &str, shape: &[usize]) -> Gguf {
        let numbers: usize = shape.iter().product();
        let bytes: Vec<u8> = (0..numbers)
            .flat_map(|i| (i as f32).to_le_bytes())
            .collect();
        self.tensor_of(name, shape, 0, &bytes)
    }

    pub(crate) fn tensor_of(mut self, name: &str, shape: &[usize], kind: u32, data: &[u8]) -> Gguf {
        let offset = self.data.len().next_multiple_of(32);
        self.data.resize(offset, 0);
        self.data.extend(data);
        let shape: Vec<u64> = shape.iter().rev().map(|dim| *dim as u64).collect();
        self.described(name, &shape, kind, offset as u64)
    }

    /// Zero bytes of data, for descriptions without.
    pub(crate) fn data(mut self, bytes: usize) -> Gguf {
        self.data.resize(bytes, 0);
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let count = |given: Option<u64>, there: usize| given.unwrap_or(there as u64).to_le_bytes();
        let mut bytes = [&self.magic[..], &self.version.to_le_bytes()].concat();
        bytes.extend(count(self.tensor_count, self.tensors.len()));
        bytes.extend(count(self.pair_count, self.pairs.len()));
        bytes.extend(self.pairs.concat());
        bytes.extend(self.tensors.concat());
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(&self.data);
        bytes
    }
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A model of as many layers as wanted: those of another one, again and again, each time with
/// numbers of its own (where they are read as f32).
#[derive(Debug)]
pub(crate) struct Deeper {
    inner: Box<dyn TensorSource>,
    /// Layers that the model behind it has.
    layers: u32,
}

impl Deeper {
    pub(crate) fn of(mut model: Model, layers: u32) -> Model {
        let deeper = Deeper {
            layers: std::mem::replace(&mut model.shape.layers, layers),
            inner: model.tensors,
        };
        Model {
            tensors: Box::new(deeper),
            ..model
        }
    }

    /// The name that a layer's tensor has in the model behind, and how often layers came round.
    fn behind(&self, name: &str) -> (String, u32) {
        let rest = name.strip_prefix("model.layers.");
        let parts = rest.and_then(|rest| rest.split_once('.'));
        let Some((layer, rest)) = parts else {
            return (name.to_owned(), 0);
        };
        let layer: u32 = layer.parse().unwrap();
        let (turn, layer) = (layer / self.layers, layer % self.layers);
        (format!("model.layers.{layer}.{rest}"), turn)
    }
}

impl TensorSource for Deeper {
    fn names(&self) -> Vec<&str> {
        self.inner.names()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.inner.info(&self.behind(name).0)
    }

    fn read_block(
        &self,
        name: &str,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), ModelError> {
        let (name, turn) = self.behind(name);
        self.inner.read_block(&name, rows, cols, out)?;
        let factor = (0..turn).fold(1.0, |factor, _| factor * 1.0625);
        out.iter_mut().for_each(|number| *number *= factor);
        Ok(())
    }
}
