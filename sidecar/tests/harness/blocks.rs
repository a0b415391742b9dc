//! Fixture models whose matrices are stored in blocks, as a quantised file would have them: any bits,
//! with scales that weights have.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use half::f16;
use plimsoll_kernels::linear::{self, LinearShape, StoredBlocks};
use plimsoll_planner::{BlockFormat, Dtype, ModelShape};
use plimsoll_sidecar::model::{Model, ModelError, ModelFolder, blocks};
use plimsoll_sidecar::weights::{TensorInfo, TensorSource, needed};

use super::watched::{Block, through};

/// Which format a tensor is stored in, by its Hugging Face name.
pub type Choice = fn(&str) -> Option<BlockFormat>;

/// A fixture with its matrices stored as `choice` says; what does not fit stays as it is.
pub fn quantised(path: &Path, choice: Choice) -> Model {
    stored(ModelFolder::open(path).unwrap(), choice)
}

/// A model for several engines.
pub fn shared(path: &Path, choice: Choice) -> Arc<Model> {
    Arc::new(quantised(path, choice))
}

/// The same of `tiny-qwen3` with matrices that are wide enough for long blocks, and cuts inside of them.
pub fn wide(path: &Path, choice: Choice, tied: bool) -> Model {
    let layers = ModelFolder::open(path).unwrap().shape.layers;
    deep(path, choice, tied, layers)
}

/// The same with so many layers.
pub fn deep(path: &Path, choice: Choice, tied: bool, layers: u32) -> Model {
    let mut model = ModelFolder::open(path).unwrap();
    model.shape = ModelShape {
        layers,
        hidden: 256,
        query_heads: 8,
        kv_heads: 2,
        head_dim: 32,
        ffn: 768,
        tied,
        ..model.shape
    };
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let info = TensorInfo {
            name: name.clone(),
            bytes: 4 * shape.iter().product::<usize>() as u64,
            shape,
            dtype: "F32".to_owned(),
        };
        (name, info)
    };
    model.tensors = Box::new(Drawn(
        needed(&model.shape).into_iter().map(tensor).collect(),
    ));
    stored(model, choice)
}

fn stored(mut model: Model, choice: Choice) -> Model {
    let mut stored = HashMap::new();
    for name in model.tensors.names() {
        let info = model.tensors.info(name).unwrap();
        let (rows, cols) = info.rows_cols();
        let fits =
            |format: &BlockFormat| info.shape.len() == 2 && cols.is_multiple_of(columns(*format));
        let Some(format) = choice(name).filter(fits) else {
            continue;
        };
        let bytes: Vec<u8> = (0..rows * cols / columns(format))
            .flat_map(|at| block(format, name, at))
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

fn columns(format: BlockFormat) -> usize {
    format.columns() as usize
}

/// Bits by place.
fn bits(name: &str, at: usize) -> u64 {
    let seed = name.bytes().fold(7u64, |seed, byte| {
        (seed ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    let mixed = (seed ^ at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ mixed >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9)
}

/// A block of any bits whose largest numbers are about 0.2.
pub fn block(format: BlockFormat, name: &str, at: usize) -> Vec<u8> {
    let bytes = format.bytes() as usize;
    let mut block: Vec<u8> = (0..bytes)
        .map(|byte| bits(name, at * bytes + byte).to_le_bytes()[6])
        .collect();
    // Where d and m lie, and what they are multiplied with at most.
    let scales: &[(usize, f32)] = match format {
        BlockFormat::Q4_0 => &[(0, 8.0)],
        BlockFormat::Q4_1 => &[(0, 15.0), (2, -2.0)],
        BlockFormat::Q5_0 => &[(0, 16.0)],
        BlockFormat::Q5_1 => &[(0, 31.0), (2, -2.0)],
        BlockFormat::Q8_0 | BlockFormat::Iq4Nl => &[(0, 127.0)],
        BlockFormat::Q2K => &[(80, 45.0), (82, 30.0)],
        BlockFormat::Q3K => &[(108, 128.0)],
        BlockFormat::Q4K => &[(0, 945.0), (2, 126.0)],
        BlockFormat::Q5K => &[(0, 1953.0), (2, 126.0)],
        BlockFormat::Q6K => &[(208, 4096.0)],
        BlockFormat::Iq4Xs => &[(0, 4064.0)],
        BlockFormat::Z4By32 | BlockFormat::Z4By128 => &[(0, 15.0)],
        BlockFormat::Z8By32 => &[(0, 255.0)],
    };
    for (place, most) in scales {
        let part = 0.5 + f32::from(block[*place]) / 512.0;
        block[*place..place + 2].copy_from_slice(&f16::from_f32(0.2 / most * part).to_le_bytes());
    }
    if format.has_zero_point() {
        let drawn = f32::from(block[2]);
        let zero = match format.bits() {
            4 => drawn % 16.0,
            _ => drawn - 128.0,
        };
        block[2..4].copy_from_slice(&f16::from_f32(zero).to_le_bytes());
    }
    block
}

/// Tensors that are in no file.
#[derive(Debug)]
struct Drawn(HashMap<String, TensorInfo>);

impl TensorSource for Drawn {
    fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.0.get(name)
    }

    fn read_block(
        &self,
        name: &str,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), ModelError> {
        let (info, about) = (&self.0[name], if name.contains("norm") { 1.0 } else { 0.0 });
        let width = info.rows_cols().1;
        let places = rows.flat_map(|row| cols.clone().map(move |col| row * width + col));
        for (place, out) in places.zip(out) {
            *out = about + f32::from(bits(name, place).to_le_bytes()[6]) / 1280.0 - 0.1;
        }
        Ok(())
    }
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
        let row_bytes = format.row_bytes(info.rows_cols().1 as u64) as usize;
        let out = out.chunks_exact_mut(cols.len().max(1));
        for (row, out) in rows.zip(out) {
            let row = decoded(*format, &blocks[row * row_bytes..][..row_bytes]);
            out.copy_from_slice(&row[cols.clone()]);
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
        let columns = columns(format);
        assert!(cols.start.is_multiple_of(columns) && cols.end.is_multiple_of(columns));
        let bytes = |cols: usize| format.row_bytes(cols as u64) as usize;
        let (row_bytes, cut) = (
            bytes(info.rows_cols().1),
            bytes(cols.start)..bytes(cols.end),
        );
        let rows = rows.flat_map(|row| &blocks[row * row_bytes..][cut.clone()]);
        rows.zip(out).for_each(|(from, to)| *to = *from);
        Ok(())
    }
}

/// A fixture whose files have, as floats, what rounding to these blocks makes of them: what a matrix is
/// rounded to, by its name.
pub fn rounded(path: &Path, choice: Choice) -> Arc<Model> {
    rounded_of(ModelFolder::open(path).unwrap(), choice)
}

/// The same of a model that is open.
pub fn rounded_of(model: Model, choice: Choice) -> Arc<Model> {
    // Cuts between heads are between blocks, too, or the matrix that is cut so stays.
    let cuts_heads = model.shape.head_dim.is_multiple_of(32);
    let read = move |plain: &dyn TensorSource, name: &str, [rows, cols]: Block, out: &mut [f32]| {
        let shape = &plain.info(name).unwrap().shape;
        let matrix = shape.len() == 2 && shape[1].is_multiple_of(32);
        let matrix = matrix && (cuts_heads || !name.contains("o_proj"));
        let Some(format) = choice(name).filter(|_| matrix) else {
            return plain.read_block(name, rows, cols, out);
        };
        let mut bytes = vec![0; format.row_bytes(shape[1] as u64) as usize];
        for (row, out) in rows.zip(out.chunks_exact_mut(cols.len().max(1))) {
            plain.read_rounded(format, name, row..row + 1, 0..shape[1], &mut bytes)?;
            out.copy_from_slice(&decoded(format, &bytes)[cols.clone()]);
        }
        Ok(())
    };
    let tensors = through(model.tensors, read);
    Arc::new(Model { tensors, ..model })
}

/// The numbers of a row, as the kernels have them: their tests hold those to ggml's definitions.
pub fn decoded(format: BlockFormat, row: &[u8]) -> Vec<f32> {
    let cols = row.len() / format.bytes() as usize * columns(format);
    let shape = LinearShape::stored(1, cols, Dtype::Float32, format);
    let mut packed = vec![0; shape.packed_bytes()];
    let source = StoredBlocks {
        bytes: row,
        rows: 1,
        row_bytes: row.len(),
        first_block: 0,
    };
    linear::pack_blocks(&mut packed, &shape, 0, source);
    let mut numbers = vec![0.0; cols];
    linear::unpack_row(&packed, &shape, 0, &mut numbers);
    numbers
}
