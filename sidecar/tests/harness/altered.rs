//! Copies of a fixture's folder with other weights, or with something wrong.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Map, Value, json};

use super::fixtures;

const WEIGHTS: &str = "model.safetensors";
/// What a header has beside tensors.
const METADATA: &str = "__metadata__";

/// A folder that goes with the value.
#[derive(Debug)]
pub struct Altered(PathBuf);

impl Drop for Altered {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Altered {
    /// The tiny model as it is.
    pub fn copy() -> Altered {
        Altered::copy_of(&fixtures().join("models/tiny-llama"))
    }

    /// A model's folder as it is.
    pub fn copy_of(model: &Path) -> Altered {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("plimsoll-altered-{}-{count}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        for entry in fs::read_dir(model).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
        }
        Altered(folder)
    }

    /// Other weights of the same shape: half of the numbers of each matrix have another sign, from the
    /// first one on that is read.
    pub fn other() -> Altered {
        Altered::copy().turned()
    }

    /// The same of any model, whatever the type of its numbers and in however many files.
    pub fn turned(self) -> Altered {
        const SIGN: u8 = 0x80;
        for file in self.files() {
            let (header, mut data) = read(&file);
            for (name, entry) in header.iter().filter(|(name, _)| *name != METADATA) {
                let width = match entry["dtype"].as_str().unwrap() {
                    "F32" => 4,
                    "F16" | "BF16" => 2,
                    other => panic!("{name} is {other}"),
                };
                if !name.contains("norm") {
                    // A number's sign is the first bit of its last byte.
                    let numbers = data[span(entry)].chunks_exact_mut(width).step_by(2);
                    numbers.for_each(|number| number[width - 1] ^= SIGN);
                }
            }
            write(&file, &header, &data);
        }
        self
    }

    /// Weights that answer in no numbers.
    pub fn of(number: f32) -> Altered {
        Altered::copy().with_numbers(|name, _, was| match name {
            "model.layers.1.mlp.down_proj.weight" => number,
            _ => was,
        })
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    fn files(&self) -> Vec<PathBuf> {
        let paths = fs::read_dir(&self.0)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let is_weights = |path: &PathBuf| path.extension().is_some_and(|it| it == "safetensors");
        paths.filter(is_weights).collect()
    }

    fn parts(&self) -> (Map<String, Value>, Vec<u8>) {
        read(&self.0.join(WEIGHTS))
    }

    fn write(&self, header: &Map<String, Value>, data: &[u8]) {
        write(&self.0.join(WEIGHTS), header, data);
    }

    /// With numbers that `change` makes of those there are: name, place, number.
    pub fn with_numbers(self, change: impl Fn(&str, usize, f32) -> f32) -> Altered {
        let (header, mut data) = self.parts();
        for (name, entry) in header.iter().filter(|(name, _)| *name != METADATA) {
            for (at, number) in data[span(entry)].chunks_exact_mut(4).enumerate() {
                let was = f32::from_le_bytes(number.try_into().unwrap());
                number.copy_from_slice(&change(name, at, was).to_le_bytes());
            }
        }
        self.write(&header, &data);
        self
    }

    /// With another header over the same bytes.
    pub fn with_header(self, change: impl Fn(&mut Map<String, Value>)) -> Altered {
        let (mut header, data) = self.parts();
        change(&mut header);
        self.write(&header, &data);
        self
    }

    /// Without a tensor and its bytes.
    pub fn without_tensor(self, name: &str) -> Altered {
        let (mut header, mut data) = self.parts();
        let entry = header.remove(name).unwrap();
        let end = |entry: &Value, at: usize| entry["data_offsets"][at].as_u64().unwrap();
        let (from, to) = (end(&entry, 0), end(&entry, 1));
        data.drain(from as usize..to as usize);
        for (_, other) in header.iter_mut().filter(|(name, _)| *name != METADATA) {
            if end(other, 0) >= to {
                let moved = [end(other, 0) - (to - from), end(other, 1) - (to - from)];
                other["data_offsets"] = json!(moved);
            }
        }
        self.write(&header, &data);
        self
    }

    /// With one more tensor of one number.
    pub fn with_tensor(self, name: &str) -> Altered {
        let (mut header, mut data) = self.parts();
        let end = data.len();
        data.extend([0; 4]);
        let entry = json!({"dtype": "F32", "shape": [1], "data_offsets": [end, end + 4]});
        header.insert(name.to_owned(), entry);
        self.write(&header, &data);
        self
    }

    /// With another value in `config.json`; null takes the field away.
    pub fn with_config(self, field: &str, value: Value) -> Altered {
        let path = self.0.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config[field] = value;
        fs::write(path, config.to_string()).unwrap();
        self
    }

    pub fn without(self, file: &str) -> Altered {
        fs::remove_file(self.0.join(file)).unwrap();
        self
    }

    /// Cuts the weights off after so many bytes of data.
    pub fn cut(&self, data: u64) {
        let (header, _) = self.parts();
        let header = serde_json::to_vec(&header).unwrap().len() as u64;
        let mut options = fs::File::options();
        let file = options.write(true).open(self.0.join(WEIGHTS)).unwrap();
        file.set_len(8 + header + data).unwrap();
    }
}

/// A file's header and data.
fn read(file: &Path) -> (Map<String, Value>, Vec<u8>) {
    let bytes = fs::read(file).unwrap();
    let size = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = serde_json::from_slice(&bytes[8..8 + size]).unwrap();
    (header, bytes[8 + size..].to_vec())
}

fn write(file: &Path, header: &Map<String, Value>, data: &[u8]) {
    let header = serde_json::to_vec(header).unwrap();
    let size = (header.len() as u64).to_le_bytes();
    fs::write(file, [&size[..], &header, data].concat()).unwrap();
}

/// Where a tensor's bytes lie in the data.
fn span(entry: &Value) -> Range<usize> {
    let offset = |at: usize| entry["data_offsets"][at].as_u64().unwrap() as usize;
    offset(0)..offset(1)
}

/// Moves an entry of a header to another name.
pub fn rename(header: &mut Map<String, Value>, from: &str, to: &str) {
    let entry = header.remove(from).unwrap();
    header.insert(to.to_owned(), entry);
}

/// Gives an entry of a header a field.
pub fn set(header: &mut Map<String, Value>, tensor: &str, field: &str, value: &[u64]) {
    header[tensor][field] = json!(value);
}
