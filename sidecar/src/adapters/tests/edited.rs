//! A fixture's adapter with something else in it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::super::{AdapterPath, CONFIG, WEIGHTS};
use super::{at, fixtures};
use crate::weights::testing::TempFolder;

#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) dtype: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Edited {
    pub(crate) config: Map<String, Value>,
    pub(crate) tensors: BTreeMap<String, Tensor>,
    folder: TempFolder,
}

impl Edited {
    pub(crate) fn of(fixture: &str) -> Edited {
        let folder = fixtures().join("adapters").join(fixture);
        let config = std::fs::read(folder.join(CONFIG)).unwrap();
        let file = std::fs::read(folder.join(WEIGHTS)).unwrap();
        let (length, rest) = file.split_first_chunk().unwrap();
        let length = usize::try_from(u64::from_le_bytes(*length)).unwrap();
        let header: Map<String, Value> = serde_json::from_slice(&rest[..length]).unwrap();
        let data = &rest[length..];
        let number = |value: &Value| usize::try_from(value.as_u64().unwrap()).unwrap();
        let tensor = |(name, of): (String, Value)| {
            let ends = [0, 1].map(|end| number(&of["data_offsets"][end]));
            let tensor = Tensor {
                dtype: of["dtype"].as_str().unwrap().to_owned(),
                shape: of["shape"].as_array().unwrap().iter().map(number).collect(),
                bytes: data[ends[0]..ends[1]].to_vec(),
            };
            (name, tensor)
        };
        let tensors = header
            .into_iter()
            .filter(|(name, _)| name != "__metadata__");
        Edited {
            config: serde_json::from_slice(&config).unwrap(),
            tensors: tensors.map(tensor).collect(),
            folder: TempFolder::new(),
        }
    }

    pub(crate) fn set(&mut self, field: &str, value: Value) {
        self.config.insert(field.to_owned(), value);
    }

    /// `key`: behind PEFT's prefix.
    pub(crate) fn tensor(&mut self, key: &str) -> &mut Tensor {
        let key = format!("base_model.model.{key}");
        self.tensors
            .get_mut(&key)
            .unwrap_or_else(|| panic!("no {key}"))
    }

    pub(crate) fn remove(&mut self, key: &str) -> Tensor {
        self.tensors
            .remove(&format!("base_model.model.{key}"))
            .unwrap()
    }

    pub(crate) fn add(&mut self, key: &str, shape: &[usize]) {
        let tensor = Tensor {
            dtype: "F32".to_owned(),
            shape: shape.to_vec(),
            bytes: vec![0; shape.iter().product::<usize>() * 4],
        };
        self.tensors
            .insert(format!("base_model.model.{key}"), tensor);
    }

    /// The files as they would lie there.
    pub(crate) fn files(&self) -> [Vec<u8>; 2] {
        let (mut header, mut data) = (Map::new(), Vec::new());
        for (name, tensor) in &self.tensors {
            let start = data.len();
            data.extend(&tensor.bytes);
            let of = json!({
                "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, data.len()],
            });
            header.insert(name.clone(), of);
        }
        let header = serde_json::to_vec(&header).unwrap();
        let length = (header.len() as u64).to_le_bytes();
        let config = serde_json::to_vec(&self.config).unwrap();
        [config, [&length[..], &header, &data].concat()]
    }

    pub(crate) fn write(&self) -> AdapterPath {
        let [config, tensors] = self.files();
        self.folder.write(CONFIG, config);
        self.folder.write(WEIGHTS, tensors);
        self.path()
    }

    pub(crate) fn folder(&self) -> &TempFolder {
        &self.folder
    }

    pub(crate) fn path(&self) -> AdapterPath {
        at(self.folder.path())
    }
}
