//! Files of quantised models, and adapters of drawn numbers.

use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use plimsoll_planner::BlockFormat;
use plimsoll_sidecar::model::{Model, ModelError};
use plimsoll_sidecar::weights::{TensorInfo, TensorSource};
use serde_json::{Map, Value, json};

use super::super::harness::blocks::block;
use super::super::harness::fixtures;

/// Of every matrix.
pub const RANK: usize = 4;

/// A folder that goes with the value.
#[derive(Debug)]
pub struct Folder(pub PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("plimsoll-requantised-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    /// A packed fixture, with a tokenizer.
    pub fn packed(name: &str) -> Folder {
        let folder = Folder::new();
        for file in [
            &format!("packed/{name}/config.json"),
            &format!("packed/{name}/model.safetensors"),
            "models/tiny-llama/tokenizer.json",
        ] {
            let from = fixtures().join(file);
            fs::copy(&from, folder.0.join(from.file_name().unwrap())).unwrap();
        }
        folder
    }
}

/// In which blocks a tensor is, by its name in GGUF.
pub type Blocks = fn(&str) -> BlockFormat;

/// A GGUF file with the metadata of `mixed-gguf` and other weights; a head of its own is the embedding's
/// numbers once more.
pub fn gguf(blocks: Blocks, tied: bool) -> Folder {
    let file = fs::read(fixtures().join("positions/mixed-gguf/model.gguf")).unwrap();
    let first = b"token_embd.weight";
    let at = file.windows(first.len()).position(|at| at == first);
    // Its length stands before it.
    let mut bytes = file[..at.unwrap() - 8].to_vec();
    let mut tensors = vec![
        ("token_embd", vec![275, 256]),
        ("blk.0.attn_norm", vec![256]),
        ("blk.0.attn_q", vec![256, 256]),
        ("blk.0.attn_k", vec![128, 256]),
        ("blk.0.attn_v", vec![128, 256]),
        ("blk.0.attn_output", vec![256, 256]),
        ("blk.0.ffn_norm", vec![256]),
        ("blk.0.ffn_gate", vec![256, 256]),
        ("blk.0.ffn_up", vec![256, 256]),
        ("blk.0.ffn_down", vec![256, 256]),
        ("output_norm", vec![256]),
    ];
    if !tied {
        tensors.push(("output", vec![275, 256]));
    }
    bytes[8..16].copy_from_slice(&(tensors.len() as u64).to_le_bytes());
    let mut data = Vec::new();
    for (name, shape) in tensors {
        let name = format!("{name}.weight");
        bytes.extend((name.len() as u64).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend((shape.len() as u32).to_le_bytes());
        let dimensions = shape.iter().rev();
        dimensions.for_each(|of| bytes.extend((*of as u64).to_le_bytes()));
        let count: usize = shape.iter().product();
        let (kind, numbers) = match shape.len() {
            1 => (0, [1.0f32.to_le_bytes(); 256].concat()),
            _ => {
                let of = name.replace("output.weight", "token_embd.weight");
                let of = if name.starts_with("blk") { &name } else { &of };
                let format = blocks(of);
                let all = 0..count / format.columns() as usize;
                let numbers: Vec<u8> = all.flat_map(|at| block(format, of, at)).collect();
                (kind(format), numbers)
            }
        };
        bytes.extend(kind.to_le_bytes());
        bytes.extend((data.len() as u64).to_le_bytes());
        data.extend(numbers);
        data.resize(data.len().next_multiple_of(32), 0);
    }
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes.extend(data);
    let folder = Folder::new();
    fs::write(folder.0.join("model.gguf"), bytes).unwrap();
    folder
}

/// What GGUF numbers a type by.
fn kind(format: BlockFormat) -> u32 {
    match format {
        BlockFormat::Q4_0 => 2,
        BlockFormat::Q4_1 => 3,
        BlockFormat::Q8_0 => 8,
        BlockFormat::Q4K => 12,
        BlockFormat::Q6K => 14,
        other => panic!("{other}"),
    }
}

/// An adapter of every number that is drawn.
#[derive(Debug)]
pub struct Drawn {
    pub folder: Folder,
    pub scale: f64,
    /// Of tensors by name: A and B.
    factors: HashMap<String, [Vec<f32>; 2]>,
}

impl Drawn {
    /// Over these modules of every layer, and the head if it is one of them: `share` of the size of the
    /// first one's numbers.
    pub fn over(base: &Model, modules: &[&str], share: f64) -> Drawn {
        let mut factors = HashMap::new();
        let mut size = None;
        for layer in 0..base.shape.layers {
            for module in modules {
                let (name, in_base) = match *module {
                    "lm_head" => ("lm_head.weight".to_owned(), "model.embed_tokens.weight"),
                    module => (format!("model.layers.{layer}.{module}.weight"), ""),
                };
                let in_base = if in_base.is_empty() { &name } else { in_base };
                let (rows, cols) = base.tensors.info(in_base).unwrap().rows_cols();
                size.get_or_insert_with(|| rms(&super::numbers(base, in_base)));
                let drawn = |part: u64, count: usize| -> Vec<f32> {
                    (0..count).map(|at| number(&name, part, at)).collect()
                };
                let both = [drawn(1, RANK * cols), drawn(2, rows * RANK)];
                factors.insert(name, both);
            }
        }
        // A product of RANK pairs, each a third of their most.
        let product = (RANK as f64).sqrt() / 3.0;
        let scale = f64::from(rms_scale(share * size.unwrap() / product));
        let drawn = Drawn {
            folder: Folder::new(),
            scale,
            factors,
        };
        drawn.write(modules);
        drawn
    }

    /// What it adds to a tensor.
    pub fn of(&self, name: &str) -> Option<[&[f32]; 2]> {
        self.factors.get(name).map(|[a, b]| [&**a, &**b])
    }

    /// Leaves modules out from now on.
    pub fn only(&mut self, modules: &[&str]) {
        let is_one = |name: &String| modules.iter().any(|module| name.contains(module));
        self.factors.retain(|name, _| is_one(name));
        self.write(modules);
    }

    fn write(&self, modules: &[&str]) {
        let path = fixtures().join("adapters/plain/adapter_config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        config["r"] = json!(RANK);
        config["lora_alpha"] = json!(self.scale * RANK as f64);
        let targets = modules.iter().map(|module| module.rsplit('.').next());
        config["target_modules"] = json!(targets.collect::<Vec<_>>());
        fs::write(
            self.folder.0.join("adapter_config.json"),
            config.to_string(),
        )
        .unwrap();
        let (mut header, mut data) = (Map::new(), Vec::new());
        for (name, factors) in &self.factors {
            let module = name.strip_suffix(".weight").unwrap();
            for (part, numbers) in ["lora_A", "lora_B"].iter().zip(factors) {
                let start = data.len();
                numbers.iter().for_each(|of| data.extend(of.to_le_bytes()));
                let other = numbers.len() / RANK;
                let shape = if *part == "lora_A" {
                    [RANK, other]
                } else {
                    [other, RANK]
                };
                let key = format!("base_model.model.{module}.{part}.weight");
                let ends = [start, data.len()];
                let of = json!({"dtype": "F32", "shape": shape, "data_offsets": ends});
                header.insert(key, of);
            }
        }
        let header = serde_json::to_vec(&header).unwrap();
        let size = (header.len() as u64).to_le_bytes();
        let file = self.folder.0.join("adapter_model.safetensors");
        fs::write(file, [&size[..], &header, &data].concat()).unwrap();
    }

    pub fn path(&self) -> &Path {
        &self.folder.0
    }
}

/// A scale that a config's text has to the bit.
fn rms_scale(scale: f64) -> f32 {
    (scale as f32).log2().round().exp2()
}

fn rms(numbers: &[f32]) -> f64 {
    let squares = numbers.iter().map(|of| f64::from(*of) * f64::from(*of));
    (squares.sum::<f64>() / numbers.len() as f64).sqrt()
}

/// From -1 to 1, by place.
fn number(name: &str, part: u64, at: usize) -> f32 {
    let seed = name.bytes().fold(part, |seed, byte| {
        (seed ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    let mixed = (seed ^ at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ mixed >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let [.., a, b] = mixed.to_le_bytes();
    f32::from(i16::from_le_bytes([a, b])) / 32_768.0
}

/// One matrix that is in no file.
#[derive(Debug)]
pub struct Numbers(TensorInfo, Vec<f32>);

impl Numbers {
    pub const NAME: &str = "numbers";

    pub fn of(cols: usize, numbers: Vec<f32>) -> Numbers {
        let info = TensorInfo {
            name: Numbers::NAME.to_owned(),
            shape: vec![numbers.len() / cols, cols],
            dtype: "F32".to_owned(),
            bytes: 4 * numbers.len() as u64,
        };
        Numbers(info, numbers)
    }
}

impl TensorSource for Numbers {
    fn names(&self) -> Vec<&str> {
        vec![Numbers::NAME]
    }

    fn info(&self, _: &str) -> Option<&TensorInfo> {
        Some(&self.0)
    }

    fn read_block(
        &self,
        _: &str,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), ModelError> {
        let width = self.0.shape[1];
        for (row, out) in rows.zip(out.chunks_exact_mut(cols.len())) {
            out.copy_from_slice(&self.1[row * width..][cols.clone()]);
        }
        Ok(())
    }
}
