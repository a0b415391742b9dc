//! Fixture models whose matrices are stored in blocks, as a quantised file would have them.
#![allow(clippy::cast_sign_loss, reason = "numbers are clamped before")]

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use half::f16;
use plimsoll_planner::BlockFormat;
use plimsoll_planner::blocks::GROUP;
use plimsoll_sidecar::model::{Model, ModelError, ModelFolder, blocks};
use plimsoll_sidecar::weights::{TensorInfo, TensorSource};

const WIDTH: usize = GROUP as usize;

/// Which format a tensor is quantised to, by its Hugging Face name.
pub type Choice = fn(&str) -> Option<BlockFormat>;

/// A fixture with its matrices quantised as `choice` says; what does not fit stays as it is.
pub fn quantised(path: &Path, choice: Choice) -> Model {
    let mut model = ModelFolder::open(path).unwrap();
    let mut stored = HashMap::new();
    for name in model.tensors.names() {
        let info = model.tensors.info(name).unwrap();
        let (rows, cols) = info.rows_cols();
        let is_matrix = info.shape.len() == 2 && cols.is_multiple_of(WIDTH);
        let Some(format) = choice(name).filter(|_| is_matrix) else {
            continue;
        };
        let mut numbers = vec![0.0; rows * cols];
        model
            .tensors
            .read_rows(name, 0..rows, &mut numbers)
            .unwrap();
        let bytes: Vec<u8> = numbers
            .chunks_exact(WIDTH)
            .flat_map(|block| encoded(format, block))
            .collect();
        let info = TensorInfo {
            dtype: format.to_string(),
            bytes: bytes.len() as u64,
            ..info.clone()
        };
        stored.insert(name.to_owned(), (format, info, bytes));
    }
    model.tensors = Box::new(Quantised {
        plain: model.tensors,
        stored,
    });
    model.shape.blocks = blocks::of(&model.shape, &*model.tensors);
    model
}

#[derive(Debug)]
struct Quantised {
    plain: Box<dyn TensorSource>,
    stored: HashMap<String, (BlockFormat, TensorInfo, Vec<u8>)>,
}

impl TensorSource for Quantised {
    fn names(&self) -> Vec<&str> {
        self.plain.names()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        match self.stored.get(name) {
            Some((_, info, _)) => Some(info),
            None => self.plain.info(name),
        }
    }

    fn blocks(&self, name: &str) -> Option<BlockFormat> {
        self.stored.get(name).map(|(format, ..)| *format)
    }

    fn read_block(
        &self,
        name: &str,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), ModelError> {
        let Some((format, info, blocks)) = self.stored.get(name) else {
            return self.plain.read_block(name, rows, cols, out);
        };
        let (size, width) = (format.bytes() as usize, info.rows_cols().1);
        let places = rows.flat_map(|row| cols.clone().map(move |col| row * width + col));
        for (place, out) in places.zip(out) {
            let block = &blocks[place / WIDTH * size..][..size];
            *out = decoded(*format, block, place % WIDTH);
        }
        Ok(())
    }

    fn read_blocks(
        &self,
        format: BlockFormat,
        name: &str,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [u8],
    ) -> Result<(), ModelError> {
        let (stored, info, blocks) = &self.stored[name];
        assert_eq!(*stored, format);
        let size = format.bytes() as usize;
        let row_bytes = info.rows_cols().1 / WIDTH * size;
        let cut = cols.start / WIDTH * size..cols.end / WIDTH * size;
        let rows = rows.flat_map(|row| &blocks[row * row_bytes..][cut.clone()]);
        rows.zip(out).for_each(|(from, to)| *to = *from);
        Ok(())
    }
}

/// 32 numbers as one block, by ggml's definitions.
fn encoded(format: BlockFormat, numbers: &[f32]) -> Vec<u8> {
    let most = numbers.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let least = numbers.iter().fold(f32::INFINITY, |least, x| least.min(*x));
    let largest = numbers
        .iter()
        .fold(f32::NEG_INFINITY, |most, x| most.max(*x));
    let scale = |span: f32, steps: f32| f16::from_f32(span / steps);
    let nibbles = |q: &dyn Fn(f32) -> u8| -> Vec<u8> {
        let half = numbers.len() / 2;
        (0..half)
            .map(|i| q(numbers[i]) | q(numbers[half + i]) << 4)
            .collect()
    };
    let step = |x: f32, d: f16| {
        if d == f16::ZERO {
            0.0
        } else {
            (x / d.to_f32()).round()
        }
    };
    match format {
        BlockFormat::Q4_0 => {
            let d = scale(most, 7.0);
            let q = |x: f32| (step(x, d) + 8.0).clamp(0.0, 15.0) as u8;
            [d.to_le_bytes().to_vec(), nibbles(&q)].concat()
        }
        BlockFormat::Q4_1 => {
            let (d, m) = (scale(largest - least, 15.0), f16::from_f32(least));
            let q = |x: f32| step(x - m.to_f32(), d).clamp(0.0, 15.0) as u8;
            let head = [d.to_le_bytes(), m.to_le_bytes()].concat();
            [head, nibbles(&q)].concat()
        }
        BlockFormat::Q8_0 => {
            let d = scale(most, 127.0);
            let q = |x: &f32| (step(*x, d).clamp(-127.0, 127.0) as i8).cast_unsigned();
            let numbers: Vec<u8> = numbers.iter().map(q).collect();
            [d.to_le_bytes().to_vec(), numbers].concat()
        }
    }
}

/// Number `at` of a block.
fn decoded(format: BlockFormat, block: &[u8], at: usize) -> f32 {
    let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
    let nibble = |from: usize| f32::from(block[from + at % 16] >> (at / 16 * 4) & 15);
    match format {
        BlockFormat::Q4_0 => half(0) * (nibble(2) - 8.0),
        BlockFormat::Q4_1 => half(0) * nibble(4) + half(2),
        BlockFormat::Q8_0 => half(0) * f32::from(block[2 + at].cast_signed()),
    }
}

/// A model for several engines.
pub fn shared(path: &Path, choice: Choice) -> Arc<Model> {
    Arc::new(quantised(path, choice))
}
