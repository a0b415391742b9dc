//! Folders whose weights are packed: every number is the packer's, and what cannot be is refused by name.

mod listed;
mod refused;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;

use half::f16;
use plimsoll_planner::{BlockFormat, Dtype};
use safetensors::{Dtype as Type, SafeTensors, View};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::model::{Model, ModelFolder};
use crate::weights::TensorSource;
use crate::weights::encoding::Encoding;
use crate::weights::testing::TempFolder;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
const DOWN: &str = "model.layers.0.mlp.down_proj";

/// What facts call it, and the blocks that it stays in.
const MODELS: [(&str, &str, Option<BlockFormat>); 16] = [
    ("gptq-4bit", "GPTQ-INT4", Some(BlockFormat::Q4_0)),
    ("gptq-4bit-version-2", "GPTQ-INT4", Some(BlockFormat::Q4_0)),
    (
        "gptq-4bit-zero-points",
        "GPTQ-INT4",
        Some(BlockFormat::Z4By32),
    ),
    ("gptq-4bit-act-order", "GPTQ-INT4", Some(BlockFormat::Q4_0)),
    (
        "gptq-8bit-channel-bias",
        "GPTQ-INT8",
        Some(BlockFormat::Q8_0),
    ),
    ("awq-4bit", "AWQ-INT4", Some(BlockFormat::Z4By32)),
    ("gptq-4bit-128", "GPTQ-INT4", Some(BlockFormat::Z4By128)),
    ("awq-4bit-128", "AWQ-INT4", Some(BlockFormat::Z4By128)),
    ("ct-w4a16", "INT4", Some(BlockFormat::Q4_0)),
    ("ct-w4a16-zero-points", "INT4", Some(BlockFormat::Z4By32)),
    ("ct-w8a16-channel", "INT8", Some(BlockFormat::Q8_0)),
    ("ct-w8a8", "INT8", Some(BlockFormat::Q8_0)),
    ("ct-fp8", "FP8", None),
    ("ct-fp8-channel", "FP8", None),
    ("ct-fp8-block", "FP8", None),
    ("fp8-block", "FP8", None),
];

/// A tensor in the making: type, shape, bytes.
#[derive(Clone)]
struct Made(Type, Vec<usize>, Vec<u8>);

impl View for &Made {
    fn dtype(&self) -> Type {
        self.0
    }

    fn shape(&self) -> &[usize] {
        &self.1
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.2)
    }

    fn data_len(&self) -> usize {
        self.2.len()
    }
}

/// A fixture that can be changed before it is opened.
struct Fixture {
    config: Value,
    tensors: BTreeMap<String, Made>,
}

impl Fixture {
    fn new(name: &str) -> Fixture {
        let read = |file: &str| fs::read(format!("{FIXTURES}/packed/{name}/{file}")).unwrap();
        let bytes = read("model.safetensors");
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let made = |(name, of): (String, safetensors::tensor::TensorView<'_>)| {
            (
                name,
                Made(of.dtype(), of.shape().to_vec(), of.data().to_vec()),
            )
        };
        Fixture {
            config: serde_json::from_slice(&read("config.json")).unwrap(),
            tensors: file.tensors().into_iter().map(made).collect(),
        }
    }

    fn down(&mut self, part: &str) -> &mut Made {
        self.tensors.get_mut(&format!("{DOWN}.{part}")).unwrap()
    }

    /// Of AWQ or GPTQ, with groups of so many inputs: each row keeps the first scales and zero points.
    fn regrouped(mut self, size: usize) -> Fixture {
        self.config["quantization_config"]["group_size"] = size.into();
        let inputs = |name: &str| {
            let (module, _) = name.rsplit_once('.')?;
            Some(self.tensors.get(&format!("{module}.qweight"))?.1[0])
        };
        let of = |name: &String| (name.clone(), inputs(name));
        let all: Vec<(String, Option<usize>)> = self.tensors.keys().map(of).collect();
        for (name, inputs) in all {
            let (Some(inputs), false) = (inputs, name.ends_with(".qweight")) else {
                continue;
            };
            let words = self.config["quantization_config"]["quant_method"] == "gptq";
            let inputs = if words { 8 * inputs } else { inputs };
            let Made(_, shape, bytes) = self.tensors.get_mut(&name).unwrap();
            if name.ends_with(".g_idx") {
                let group = |input: usize| i32::try_from(input / size).unwrap().to_le_bytes();
                *bytes = (0..inputs).flat_map(group).collect();
                continue;
            }
            let row_bytes = bytes.len() / shape[0];
            shape[0] = inputs.div_ceil(size);
            bytes.truncate(shape[0] * row_bytes);
        }
        self
    }

    fn folder(&self) -> TempFolder {
        let folder = TempFolder::new();
        folder.write("config.json", self.config.to_string());
        let bytes = safetensors::serialize(&self.tensors, None).unwrap();
        folder.write("model.safetensors", bytes);
        let tokenizer = format!("{FIXTURES}/models/tiny-llama/tokenizer.json");
        folder.write("tokenizer.json", fs::read(tokenizer).unwrap());
        folder
    }

    fn open(&self) -> Result<Model, String> {
        ModelFolder::open(self.folder().path()).map_err(|e| e.to_string())
    }
}

fn read(tensors: &dyn TensorSource, name: &str) -> Vec<f32> {
    let (rows, cols) = tensors.info(name).unwrap().rows_cols();
    let mut numbers = vec![f32::NAN; rows * cols];
    tensors.read_rows(name, 0..rows, &mut numbers).unwrap();
    numbers
}

fn hex(numbers: &[f32]) -> String {
    let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_number_is_the_packers_and_parts_are_those_of_the_whole() {
    for (fixture, label, _) in MODELS {
        let model = Fixture::new(fixture).open().unwrap();
        assert_eq!(model.facts.file_dtype, label, "{fixture}");
        assert_eq!(
            model.facts.quantization.as_deref(),
            Some(label),
            "{fixture}"
        );
        assert_eq!(model.default_dtype, Dtype::BFloat16, "{fixture}");
        let expected = fs::read(format!("{FIXTURES}/packed/{fixture}/expected.json")).unwrap();
        let expected: Value = serde_json::from_slice(&expected).unwrap();
        let tensors = expected["tensors"].as_object().unwrap();
        assert_eq!(tensors.len(), 7, "{fixture}");
        for (name, digest) in tensors {
            let whole = read(&*model.tensors, name);
            assert_eq!(hex(&whole), digest.as_str().unwrap(), "{fixture} {name}");
            let (rows, cols) = model.tensors.info(name).unwrap().rows_cols();
            for (rows, part) in [
                (0..rows, 3..cols - 5),
                (7..30, 0..cols),
                (11..12, 32..33),
                (5..5, 0..9),
            ] {
                let mut out = vec![f32::NAN; rows.len() * part.len()];
                let read = model
                    .tensors
                    .read_block(name, rows.clone(), part.clone(), &mut out);
                read.unwrap();
                let cut = rows.flat_map(|row| &whole[row * cols..][part.clone()]);
                assert!(out.iter().eq(cut), "{fixture} {name}: columns {part:?}");
            }
        }
    }
}

#[test]
fn what_blocks_hold_to_the_last_bit_stays_in_blocks() {
    for (fixture, _, format) in MODELS {
        let model = Fixture::new(fixture).open().unwrap();
        let formats: Vec<BlockFormat> = format.into_iter().collect();
        assert_eq!(model.shape.blocks.formats(), formats, "{fixture}");
        let name = format!("{DOWN}.weight");
        assert_eq!(model.tensors.blocks(&name), format, "{fixture}");
        let other = match format {
            Some(BlockFormat::Q4_0) => BlockFormat::Z4By32,
            _ => BlockFormat::Q4_0,
        };
        let mut out = vec![0; usize::try_from(other.bytes()).unwrap()];
        let blocks = model
            .tensors
            .read_blocks(other, &name, 0..1, 0..32, &mut out);
        assert!(blocks.is_err(), "{fixture}");
        if format.is_some() {
            assert_blocks(&model, &name, fixture);
        }
    }
}

/// A tensor's blocks, whole and a part of them, are its numbers.
fn assert_blocks(model: &Model, name: &str, what: &str) {
    let format = model.tensors.blocks(name).unwrap();
    let mut whole = read(&*model.tensors, name);
    let (rows, cols) = model.tensors.info(name).unwrap().rows_cols();
    if let Some(order) = model.tensors.order(name) {
        for row in whole.chunks_exact_mut(cols) {
            let listed: Vec<f32> = order.iter().map(|col| row[*col as usize]).collect();
            row.copy_from_slice(&listed);
        }
    }
    let size = usize::try_from(format.bytes()).unwrap();
    let columns = usize::try_from(format.columns()).unwrap();
    for (rows, part) in [
        (0..rows, 0..cols),
        (9..20, cols / columns / 2 * columns..cols),
    ] {
        let mut blocks = vec![0xFF; rows.len() * part.len() / columns * size];
        let read = model
            .tensors
            .read_blocks(format, name, rows.clone(), part.clone(), &mut blocks);
        read.unwrap();
        let numbers = blocks.chunks_exact(size).flat_map(|block| {
            let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
            let nibble = |from: usize, at: usize| {
                f32::from(block[from + at / 32 * 16 + at % 16] >> (at % 32 / 16 * 4) & 15)
            };
            (0..columns).map(move |at| match format {
                BlockFormat::Q4_0 => half(0) * (nibble(2, at) - 8.0),
                BlockFormat::Z4By32 | BlockFormat::Z4By128 => half(0) * (nibble(4, at) - half(2)),
                BlockFormat::Z8By32 => half(0) * (f32::from(block[4 + at].cast_signed()) - half(2)),
                _ => half(0) * f32::from(block[2 + at].cast_signed()),
            })
        });
        let cut = rows.flat_map(|row| &whole[row * cols..][part.clone()]);
        let cut: Vec<f32> = cut.copied().collect();
        assert!(numbers.eq(cut.iter().copied()), "{what}: columns {part:?}");
        let mut decoded = vec![f32::NAN; cut.len()];
        Encoding::Blocks(format).decode(&blocks, 0, &mut decoded);
        assert_eq!(decoded, cut, "{what}: columns {part:?}");
    }
}

#[test]
fn groups_stay_in_blocks_of_128_or_32_columns() {
    use BlockFormat::{Q4_0, Z4By32, Z4By128};
    // q has 64 inputs, o 128, down 160.
    for (fixture, size, wanted) in [
        ("awq-4bit", 32, [Some(Z4By32); 3]),
        ("awq-4bit", 64, [Some(Z4By32); 3]),
        ("awq-4bit", 128, [Some(Z4By32), Some(Z4By128), Some(Z4By32)]),
        ("awq-4bit", 48, [None; 3]),
        ("gptq-4bit", 64, [Some(Q4_0); 3]),
        ("gptq-4bit", 128, [Some(Q4_0), Some(Z4By128), Some(Q4_0)]),
        ("gptq-4bit", 48, [None; 3]),
    ] {
        let model = Fixture::new(fixture).regrouped(size).open().unwrap();
        let layer = model.shape.blocks.layer(0);
        assert_eq!([layer.query, layer.output, layer.down], wanted, "{size}");
        for (name, format) in ["self_attn.q", "self_attn.o", "mlp.down"]
            .iter()
            .zip(wanted)
        {
            if format.is_some() {
                let name = format!("model.layers.0.{name}_proj.weight");
                assert_blocks(&model, &name, &format!("{fixture}, {name} of {size}"));
            }
        }
        let told = model.told.join("\n");
        let is_told = told.contains("7 of 7 packed matrices are expanded at load");
        assert_eq!(is_told, size == 48, "{told}");
        assert_eq!(
            is_told,
            told.contains("no multiples of 32 inputs"),
            "{told}"
        );
    }
    // One of 8 bits: each zero point 0x13, no middle.
    let mut fixture = Fixture::new("gptq-8bit-channel-bias");
    fixture.down("qzeros").2.fill(0x12);
    let model = fixture.open().unwrap();
    assert_eq!(model.shape.blocks.layer(0).down, Some(BlockFormat::Z8By32));
    assert_blocks(&model, &format!("{DOWN}.weight"), "8 bits");
}

#[test]
fn scales_that_halves_have_not_are_kept_by_expanding_their_matrix() {
    for (name, others) in [
        ("ct-w4a16", BlockFormat::Q4_0),
        ("ct-w4a16-zero-points", BlockFormat::Z4By32),
    ] {
        let mut fixture = Fixture::new(name);
        // 2^-30, as BF16.
        fixture.down("weight_scale").2[..2].copy_from_slice(&[0x80, 0x30]);
        let model = fixture.open().unwrap();
        assert_eq!(model.shape.blocks.layers[0].down, None);
        assert_eq!(model.shape.blocks.layers[0].output, Some(others));
        let scaled = read(&*model.tensors, &format!("{DOWN}.weight"));
        assert!(scaled[..32].iter().any(|x| *x != 0.0));
        assert!(scaled[..32].iter().all(|x| x.abs() < 1e-7));
        let told = format!(
            "1 of 7 packed matrices are expanded at load, `{DOWN}.weight` the first: some scales are no"
        );
        assert!(model.told.join("").contains(&told), "{:?}", model.told);
    }
}

#[test]
fn zero_points_that_contradict_the_config_are_told_and_a_mixture_is_refused() {
    let told = |fixture: &Fixture| fixture.open().unwrap().told.join("\n");
    let fixture = Fixture::new("gptq-4bit-version-2");
    assert!(told(&fixture).contains("says gptq, and the zero points are those of gptq_v2"));
    let mut fixture = Fixture::new("gptq-4bit");
    assert!(!told(&fixture).contains("zero points"));
    fixture.down("qzeros").2.fill(0x88);
    let message = fixture.open().unwrap_err();
    for part in [
        "version 1",
        &format!("{DOWN}.qzeros` of version 2"),
        "convert the model again",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_bias_of_zeros_has_no_say_and_another_one_is_refused() {
    let mut fixture = Fixture::new("gptq-8bit-channel-bias");
    assert!(
        !fixture
            .open()
            .unwrap()
            .tensors
            .names()
            .iter()
            .any(|name| name.ends_with("bias"))
    );
    fixture.down("bias").2[5] = 0x3C;
    let message = fixture.open().unwrap_err();
    assert!(
        message.contains(&format!("`{DOWN}.bias` has no place")),
        "{message}"
    );
}
