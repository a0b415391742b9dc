//! Quantised bases in files, adapters over them, and what should be kept of both: computed here from the
//! base's expanded numbers, without the code that merges or counts.
#![allow(unreachable_pub, reason = "shared by the files of a test binary")]

pub mod files;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use plimsoll_crds::v1alpha1::adapters::AdapterScale;
use plimsoll_planner::{BlockFormat, ModelBlocks, ModelShape, Quantization};
use plimsoll_sidecar::model::{AdapterPath, Model, ModelFolder};
use plimsoll_sidecar::weights::TensorSource;

use super::harness::blocks::decoded;
use super::harness::watched::{Block, through};
use files::{Drawn, RANK};

pub fn merged(base: &Path, adapter: &Path) -> Arc<Model> {
    Arc::new(ModelFolder::open_with(base, &[at(adapter)]).unwrap())
}

pub fn at(adapter: &Path) -> AdapterPath {
    AdapterPath {
        name: "tuned".to_owned(),
        path: adapter.to_owned(),
        scale: AdapterScale::ONE,
    }
}

/// A base's own numbers of a tensor.
pub fn numbers(model: &Model, name: &str) -> Vec<f32> {
    let (rows, cols) = model.tensors.info(name).unwrap().rows_cols();
    let mut numbers = vec![0.0; rows * cols];
    model
        .tensors
        .read_rows(name, 0..rows, &mut numbers)
        .unwrap();
    numbers
}

/// A tensor that an adapter changes.
#[derive(Debug)]
pub struct Changed {
    pub base: Vec<f32>,
    /// Base and adapter.
    pub meant: Vec<f32>,
    pub kept: Vec<f32>,
}

/// What an engine should have of a base and an adapter.
#[derive(Debug)]
pub struct Expected {
    pub changed: HashMap<String, Changed>,
    /// The same as floats.
    pub model: Arc<Model>,
}

/// What a tensor of the file with rows of so many numbers is rounded to.
fn rounds_to(mode: Quantization, name: &str, cols: usize) -> Option<BlockFormat> {
    let long = cols.is_multiple_of(128);
    match (mode, name.contains("layers")) {
        (Quantization::Auto | Quantization::None, _) => None,
        (Quantization::Int4By128, true) if long => Some(BlockFormat::Z4By128),
        (Quantization::Int4 | Quantization::Int4By128, true) => Some(BlockFormat::Q4_0),
        (Quantization::Int8, _) | (Quantization::Int4 | Quantization::Int4By128, false) => {
            Some(BlockFormat::Q8_0)
        }
    }
}

/// Numbers as they are in these blocks.
fn kept(format: BlockFormat, cols: usize, numbers: &[f32]) -> Vec<f32> {
    let source = files::Numbers::of(cols, numbers.to_vec());
    let rows = numbers.len() / cols;
    let row_bytes = format.row_bytes(cols as u64) as usize;
    let mut bytes = vec![0; rows * row_bytes];
    source
        .read_rounded(format, files::Numbers::NAME, 0..rows, 0..cols, &mut bytes)
        .unwrap();
    let rows = bytes.chunks_exact(row_bytes);
    rows.flat_map(|row| decoded(format, row)).collect()
}

impl Expected {
    pub fn of(base: &Path, adapter: &Drawn, mode: Quantization) -> Expected {
        let model = ModelFolder::open(base).unwrap();
        let mut changed = HashMap::new();
        let mut all = HashMap::new();
        for name in model.tensors.names() {
            let info = model.tensors.info(name).unwrap();
            let (_, cols) = info.rows_cols();
            let change = adapter.of(name);
            let stays = change.is_none() && model.tensors.blocks(name).is_some();
            if info.shape.len() != 2 || stays {
                continue;
            }
            let base = numbers(&model, name);
            let meant = match change {
                None => base.clone(),
                Some([a, b]) => added(&base, cols, a, b, adapter.scale),
            };
            let kept = match rounds_to(mode, name, cols) {
                Some(format) => kept(format, cols, &meant),
                None => meant.clone(),
            };
            all.insert(name.to_owned(), kept.clone());
            if change.is_some() {
                changed.insert(name.to_owned(), Changed { base, meant, kept });
            }
        }
        let shape = ModelShape {
            blocks: ModelBlocks::default(),
            ..model.shape
        };
        let tensors = over(model.tensors, all);
        Expected {
            changed,
            model: Arc::new(Model {
                shape,
                tensors,
                ..model
            }),
        }
    }
}

impl Expected {
    /// With a tensor that is rounded though nothing changes it.
    pub fn rounded(self, name: &str, format: BlockFormat) -> Expected {
        let cols = self.model.tensors.info(name).unwrap().rows_cols().1;
        let own = kept(format, cols, &numbers(&self.model, name));
        let Expected { changed, model } = self;
        let model = Arc::try_unwrap(model).unwrap();
        let all = HashMap::from([(name.to_owned(), own)]);
        let tensors = over(model.tensors, all);
        let model = Arc::new(Model { tensors, ..model });
        Expected { changed, model }
    }
}

/// A source with other numbers of some tensors.
fn over(inner: Box<dyn TensorSource>, all: HashMap<String, Vec<f32>>) -> Box<dyn TensorSource> {
    let read = move |plain: &dyn TensorSource, name: &str, block: Block, out: &mut [f32]| {
        let [rows, cols] = block;
        let Some(numbers) = all.get(name) else {
            return plain.read_block(name, rows, cols, out);
        };
        let width = plain.info(name).unwrap().rows_cols().1;
        for (row, out) in rows.zip(out.chunks_exact_mut(cols.len().max(1))) {
            out.copy_from_slice(&numbers[row * width..][cols.clone()]);
        }
        Ok(())
    };
    through(inner, read)
}

/// W + s * B * A, each number rounded once.
fn added(base: &[f32], cols: usize, a: &[f32], b: &[f32], scale: f64) -> Vec<f32> {
    let number = |(at, was): (usize, &f32)| {
        let (row, col) = (at / cols, at % cols);
        let product = |of: usize| f64::from(b[row * RANK + of]) * f64::from(a[of * cols + col]);
        (f64::from(*was) + scale * (0..RANK).map(product).sum::<f64>()) as f32
    };
    base.iter().enumerate().map(number).collect()
}

/// What figures say, computed once more.
#[derive(Debug)]
pub struct Counted {
    pub numbers: u64,
    /// Shares: of numbers that are not the file's, of what was added to what was meant, and how far from
    /// what is meant they are to how far the file's are.
    pub changed: f64,
    pub norm_ratio: f64,
    pub lost: f64,
    /// How far from what is meant they are, of its length.
    pub missed: f64,
}

impl Counted {
    pub fn of(changed: &HashMap<String, Changed>) -> Counted {
        let (mut numbers, mut others) = (0u64, 0u64);
        let (mut applied, mut intended, mut missed, mut sizes) = (0.0, 0.0, 0.0, 0.0);
        for Changed { base, meant, kept } in changed.values() {
            for ((base, meant), kept) in base.iter().zip(meant).zip(kept) {
                numbers += 1;
                others += u64::from(base != kept);
                let [base, meant, kept] = [*base, *meant, *kept].map(f64::from);
                applied += (kept - base) * (kept - base);
                intended += (meant - base) * (meant - base);
                missed += (kept - meant) * (kept - meant);
                sizes += meant * meant;
            }
        }
        Counted {
            numbers,
            changed: others as f64 / numbers as f64,
            norm_ratio: (applied / intended).sqrt(),
            lost: (missed / intended).sqrt(),
            missed: (missed / sizes).sqrt(),
        }
    }
}
