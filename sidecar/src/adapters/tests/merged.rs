//! Merged numbers are PEFT's, whichever piece of them is read, in whichever type.

use plimsoll_crds::v1alpha1::adapters::AdapterScale;
use std::collections::BTreeSet;
use std::ops::Range;

use plimsoll_planner::Dtype;
use serde_json::json;

use super::edited::Edited;
use super::{AdapterPath, at, fixtures, open};
use crate::model::{Model, ModelError, ModelFolder};
use crate::weights::needed;
use crate::weights::testing::TempFolder;

#[derive(serde::Deserialize)]
struct Expected {
    base: String,
    rows: Vec<Row>,
}

/// A row of a merged tensor, as f32 words.
#[derive(serde::Deserialize)]
struct Row {
    tensor: String,
    row: usize,
    bits: Vec<u32>,
}

fn all() -> Vec<(String, Model, Expected)> {
    let mut names: Vec<String> = std::fs::read_dir(fixtures().join("adapters"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names.len(), 15);
    let one = |name: String| {
        let folder = fixtures().join("adapters").join(&name);
        let expected = std::fs::read(folder.join("expected.json")).unwrap();
        let expected: Expected = serde_json::from_slice(&expected).unwrap();
        let model = open(&expected.base, &[at(&folder)]).unwrap();
        (name, model, expected)
    };
    names.into_iter().map(one).collect()
}

fn dtype_of(model: &Model, tensor: &str) -> Dtype {
    match model.tensors.info(tensor).unwrap().dtype.as_str() {
        "F16" => Dtype::Float16,
        "BF16" => Dtype::BFloat16,
        _ => Dtype::Float32,
    }
}

pub(super) fn read_as(model: &Model, dtype: Dtype, tensor: &str, row: usize) -> Vec<f32> {
    let cols = model.tensors.info(tensor).unwrap().rows_cols().1;
    let size = if dtype == Dtype::Float32 { 4 } else { 2 };
    let mut bytes = vec![0; cols * size];
    model
        .tensors
        .read_as(dtype, tensor, row..row + 1, 0..cols, &mut bytes)
        .unwrap();
    let number = |bytes: &[u8]| match (dtype, bytes) {
        (Dtype::Float32, [a, b, c, d]) => f32::from_le_bytes([*a, *b, *c, *d]),
        (Dtype::BFloat16, [a, b]) => half::bf16::from_le_bytes([*a, *b]).to_f32(),
        (Dtype::Float16, [a, b]) => half::f16::from_le_bytes([*a, *b]).to_f32(),
        _ => unreachable!("{dtype} of {} bytes", bytes.len()),
    };
    bytes.chunks(size).map(number).collect()
}

/// PEFT sums in f32, in an order that its library chooses, and rounds after each step; here sums are
/// exact. So a number is PEFT's, or off by at most a unit in the last place of the largest that was
/// added up: of its row in f32, of itself in the narrow types. (Four with DoRA.)
#[test]
fn merged_weights_are_pefts_within_a_unit_in_the_last_place() {
    let (mut numbers, mut same) = (0, 0);
    for (name, model, expected) in all() {
        let base = open(&expected.base, &[]).unwrap();
        assert!(!expected.rows.is_empty(), "{name}");
        for Row { tensor, row, bits } in &expected.rows {
            let dtype = match name.as_str() {
                "half" | "brain" => dtype_of(&model, tensor),
                _ => Dtype::Float32,
            };
            let own = if base.tensors.info(tensor).is_some() {
                tensor
            } else {
                "model.embed_tokens.weight"
            };
            let before = read_as(&base, Dtype::Float32, own, *row);
            let ours = read_as(&model, dtype, tensor, *row);
            assert_eq!(ours.len(), bits.len(), "{name} {tensor}");
            let peft: Vec<f32> = bits.iter().map(|bits| f32::from_bits(*bits)).collect();
            let terms = peft.iter().zip(&before);
            let terms = terms.map(|(is, was)| was.abs().max(is.abs()).max((is - was).abs()));
            let terms: Vec<f32> = terms.collect();
            let of_row = terms.iter().fold(0.0, |a: f32, b| a.max(*b));
            for ((ours, peft), own) in ours.iter().zip(&peft).zip(&terms) {
                let (largest, digits) = match dtype {
                    Dtype::Float32 => (of_row, 23),
                    Dtype::Float16 => (*own, 10),
                    Dtype::BFloat16 => (*own, 7),
                };
                // Length and factor of a row are rounded, too.
                let units = if name == "dora" { 4.0 } else { 1.0 };
                let unit = units * largest.log2().floor().exp2() * 0.5f32.powi(digits);
                assert!(
                    (ours - peft).abs() <= unit,
                    "{name} {tensor} row {row}: {ours}, PEFT says {peft}"
                );
                numbers += 1;
                same += usize::from(ours == peft);
            }
        }
    }
    assert!(
        numbers > 5000 && same * 10 > numbers * 6,
        "{same} of {numbers} are the same"
    );
}

#[test]
fn only_what_the_adapter_names_is_changed() {
    for (name, model, expected) in all() {
        let base = open(&expected.base, &[]).unwrap();
        let changed: BTreeSet<&str> = expected
            .rows
            .iter()
            .map(|row| row.tensor.as_str())
            .collect();
        let told: BTreeSet<&str> = model.adapters[0]
            .changes
            .iter()
            .map(String::as_str)
            .collect();
        assert_eq!(told, changed, "{name}");
        for (tensor, _) in needed(&base.shape) {
            let rows = base.tensors.info(&tensor).unwrap().rows_cols().0;
            let differs = (0..rows).any(|row| {
                let of = |model: &Model| read_as(model, Dtype::Float32, &tensor, row);
                of(&base) != of(&model)
            });
            assert_eq!(differs, changed.contains(&*tensor), "{name} {tensor}");
        }
    }
}

/// So a rank of any split has the numbers of one that has all.
#[test]
fn a_piece_of_a_tensor_is_that_piece_of_the_whole_bit_for_bit() {
    let mut seed = 7u64;
    let mut below = |end: usize| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % end
    };
    for (name, model, expected) in all() {
        let tensors: BTreeSet<&str> = expected
            .rows
            .iter()
            .map(|row| row.tensor.as_str())
            .collect();
        for tensor in tensors {
            let (rows, cols) = model.tensors.info(tensor).unwrap().rows_cols();
            let read = |rows: &Range<usize>, cols: &Range<usize>| {
                let mut out = vec![f32::NAN; rows.len() * cols.len()];
                let (rows, cols) = (rows.clone(), cols.clone());
                model
                    .tensors
                    .read_block(tensor, rows, cols, &mut out)
                    .unwrap();
                out
            };
            let whole = read(&(0..rows), &(0..cols));
            for _ in 0..6 {
                let (top, left) = (below(rows), below(cols));
                let part = (
                    top..top + 1 + below(rows - top),
                    left..left + 1 + below(cols - left),
                );
                let cut = part
                    .0
                    .clone()
                    .flat_map(|row| &whole[row * cols..][part.1.clone()]);
                let cut: Vec<u32> = cut.map(|number| number.to_bits()).collect();
                let read = read(&part.0, &part.1);
                let read: Vec<u32> = read.iter().map(|number| number.to_bits()).collect();
                assert_eq!(read, cut, "{name} {tensor} {part:?}");
            }
            assert!(read(&(0..0), &(0..cols)).is_empty() && read(&(0..rows), &(1..1)).is_empty());
        }
    }
}

#[test]
fn a_tied_base_gets_a_head_of_its_own_where_one_side_changes() {
    for (name, model, expected) in all() {
        let base = open(&expected.base, &[]).unwrap();
        let unties = ["tied", "tied-head"].contains(&name.as_str());
        assert_eq!(model.shape.tied, base.shape.tied && !unties, "{name}");
        assert_eq!(model.facts.tied, model.shape.tied, "{name}");
        let head = model
            .tensors
            .names()
            .iter()
            .filter(|name| **name == "lm_head.weight")
            .count();
        assert_eq!(head, usize::from(!model.shape.tied), "{name}");
        if unties {
            let embedding = "model.embed_tokens.weight";
            let kept = if name == "tied" {
                "lm_head.weight"
            } else {
                embedding
            };
            let of = |model: &Model, tensor: &str| read_as(model, Dtype::Float32, tensor, 9);
            assert_eq!(of(&model, kept), of(&base, embedding), "{name}");
            let both = |model: &Model| model.facts.parameters;
            assert_eq!(
                both(&model),
                both(&base) + 515 * 64,
                "the plan has room for it"
            );
        }
    }
}

#[test]
fn digests_tell_adapters_apart_by_their_numbers_alone() {
    let digest = |adapters: &[AdapterPath]| open("tiny-llama", adapters).unwrap().digest;
    let own = at(&fixtures().join("adapters/plain"));
    let first = Edited::of("plain");
    let mut other = Edited::of("plain");
    other
        .tensor("model.layers.1.mlp.up_proj.lora_B.weight")
        .bytes[40] ^= 1;
    let mut scaled = Edited::of("plain");
    scaled.set("lora_alpha", json!(9));
    let (first, other, scaled) = (first.write(), other.write(), scaled.write());
    let all = [
        digest(&[]),
        digest(std::slice::from_ref(&own)),
        digest(&[other]),
        digest(&[scaled]),
    ];
    let different: BTreeSet<&String> = all.iter().collect();
    assert_eq!(different.len(), all.len(), "{all:?}");
    assert_eq!(digest(std::slice::from_ref(&first)), digest(&[first]));
    let two = |names: [&str; 2]| {
        let named = |name: &str| AdapterPath {
            name: name.to_owned(),
            path: fixtures().join("adapters").join(name),
            scale: AdapterScale::ONE,
        };
        digest(&names.map(named))
    };
    assert_ne!(
        two(["plain", "fan-in"]),
        two(["fan-in", "plain"]),
        "the order counts"
    );
}

#[test]
fn adapters_add_up_in_any_number() {
    let at = |name: &str| AdapterPath {
        name: name.to_owned(),
        path: fixtures().join("adapters").join(name),
        scale: AdapterScale::ONE,
    };
    let tensor = "model.layers.1.self_attn.q_proj.weight";
    let of = |adapters: &[AdapterPath]| {
        let model = open("tiny-llama", adapters).unwrap();
        read_as(&model, Dtype::Float32, tensor, 5)
    };
    let (base, plain, fan) = (of(&[]), of(&[at("plain")]), of(&[at("fan-in")]));
    let both = of(&[at("plain"), at("fan-in")]);
    for (((base, plain), fan), both) in base.iter().zip(plain).zip(fan).zip(both) {
        let sum = base + (plain - base) + (fan - base);
        assert!(
            (sum - both).abs() <= 1e-6 * sum.abs().max(1.0),
            "{sum} {both}"
        );
    }
}

#[test]
fn a_number_that_the_engines_type_does_not_have_ends_the_read_with_its_row() {
    let mut adapter = Edited::of("plain");
    adapter.set("lora_alpha", json!(4e6));
    let model = open("tiny-llama", &[adapter.write()]).unwrap();
    let tensor = "model.layers.0.mlp.up_proj.weight";
    let read = |dtype: Dtype, size: usize| {
        let mut out = vec![0; 352 * 64 * size];
        model
            .tensors
            .read_as(dtype, tensor, 0..352, 0..64, &mut out)
    };
    read(Dtype::BFloat16, 2).unwrap();
    let error = read(Dtype::Float16, 2).unwrap_err().to_string();
    assert!(
        error.starts_with("adapter `tuned`: merged into `model.layers.0.mlp.up_proj.weight`"),
        "{error}"
    );
    assert!(error.contains("in row 0, which is no Float16"), "{error}");
    adapter.set("lora_alpha", json!(1e41));
    let model = open("tiny-llama", &[adapter.write()]).unwrap();
    let mut out = vec![0.0; 64];
    let error = model
        .tensors
        .read_block(tensor, 3..4, 0..64, &mut out)
        .unwrap_err();
    assert!(
        error.to_string().contains("in row 3, which is no Float32"),
        "{error}"
    );
}

#[test]
fn a_base_of_another_name_is_told_and_taken() {
    let told = |base: &str, name: &str| {
        let mut adapter = Edited::of("plain");
        adapter.set("base_model_name_or_path", json!(name));
        open(base, &[adapter.write()]).unwrap().told
    };
    for same in ["tiny-llama", "org/tiny-llama", "/models/tiny-llama/"] {
        assert_eq!(told("tiny-llama", same), [""; 0], "{same}");
    }
    let other = told("tiny-llama", "org/tiny-llama-2");
    assert!(
        other.len() == 1 && other[0].contains("trained on org/tiny-llama-2"),
        "{other:?}"
    );
}

/// Whoever reads is told which file is damaged.
#[test]
fn a_number_that_the_base_has_not_is_no_fault_of_the_adapter() {
    let from = fixtures().join("models/tiny-llama");
    let folder = TempFolder::new();
    for entry in std::fs::read_dir(&from).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        folder.write(&name, std::fs::read(&path).unwrap());
    }
    let (tensor, row, column) = ("model.layers.1.mlp.up_proj.weight", 3, 5);
    let mut file = std::fs::read(from.join("model.safetensors")).unwrap();
    let size = usize::try_from(u64::from_le_bytes(file[..8].try_into().unwrap())).unwrap();
    let header: serde_json::Value = serde_json::from_slice(&file[8..8 + size]).unwrap();
    let start = header[tensor]["data_offsets"][0].as_u64().unwrap();
    let place = 8 + size + usize::try_from(start).unwrap() + 4 * (row * 64 + column);
    for (number, dtype) in [
        (f32::NAN, Dtype::Float32),
        (f32::NAN, Dtype::BFloat16),
        (f32::INFINITY, Dtype::Float32),
        (70_000.0, Dtype::Float16),
    ] {
        file[place..place + 4].copy_from_slice(&number.to_le_bytes());
        folder.write("model.safetensors", &file);
        let adapter = at(&fixtures().join("adapters/plain"));
        let model = ModelFolder::open_with(folder.path(), &[adapter]).unwrap();
        let mut bytes = vec![0; 352 * 64 * if dtype == Dtype::Float32 { 4 } else { 2 }];
        let read = model
            .tensors
            .read_as(dtype, tensor, 0..352, 0..64, &mut bytes);
        let error = read.unwrap_err();
        assert!(
            matches!(error, ModelError::InvalidWeights { .. }),
            "{error}"
        );
        let words = format!("tensor `{tensor}`: row 3, column 5 is {number} before");
        assert!(error.to_string().contains(&words), "{error}");
        assert!(!model.gate.makes_no_numbers());
    }
}
