//! The gate lets PEFT's own merges through, and nothing that is wrong in one way.

use plimsoll_crds::v1alpha1::adapters::AdapterScale;
use plimsoll_planner::Dtype;
use serde_json::json;

use super::super::spoils::Spoils;
use super::super::{LOST_MAX, Verdict};
use super::edited::Edited;
use super::{AdapterPath, at, fixtures, open};
use crate::model::Model;
use crate::weights::needed;

const DTYPES: [Dtype; 3] = [Dtype::Float32, Dtype::BFloat16, Dtype::Float16];

/// Reads all that an engine would, in columns of at most `width`.
fn read(model: &Model, dtype: Dtype, width: usize) -> Vec<u8> {
    let mut all = Vec::new();
    for (name, _) in needed(&model.shape) {
        let (rows, cols) = model.tensors.info(&name).unwrap().rows_cols();
        for first in (0..cols).step_by(width) {
            let some = first..cols.min(first + width);
            let size = if dtype == Dtype::Float32 { 4 } else { 2 };
            let mut bytes = vec![0; rows * some.len() * size];
            let read = model
                .tensors
                .read_as(dtype, &name, 0..rows, some, &mut bytes);
            read.unwrap();
            all.extend(bytes);
        }
    }
    all
}

fn verdict(model: &Model, dtype: Dtype, width: usize) -> Verdict {
    model.gate.begin(false);
    read(model, dtype, width);
    model.gate.verdict("try again")
}

/// A fixture with its base.
fn fixture(name: &str) -> Model {
    let folder = fixtures().join("adapters").join(name);
    let expected = std::fs::read(folder.join("expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_slice(&expected).unwrap();
    open(expected["base"].as_str().unwrap(), &[at(&folder)]).unwrap()
}

fn names() -> Vec<String> {
    let entries = std::fs::read_dir(fixtures().join("adapters")).unwrap();
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
    entries
        .map(|entry| name(entry).into_string().unwrap())
        .collect()
}

#[test]
fn merges_that_are_pefts_pass_in_every_type_and_however_they_are_cut() {
    for name in names() {
        let model = fixture(&name);
        for (dtype, width) in DTYPES
            .into_iter()
            .flat_map(|of| [(of, usize::MAX), (of, 23)])
        {
            let Verdict {
                adapters, wrong, ..
            } = verdict(&model, dtype, width);
            assert_eq!(wrong, None, "{name} {dtype} {width}");
            let [of] = &adapters[..] else {
                panic!("{adapters:?}")
            };
            let figures = of.figures;
            assert_eq!(of.tensors, model.adapters[0].changes.len(), "{name}");
            assert_eq!(of.rank, model.adapters[0].rank, "{name}");
            assert!(figures.changed_share() > 0.1, "{name} {dtype}: {figures:?}");
            let (ratio, lost) = (figures.norm_ratio(), figures.lost());
            assert!((ratio - 1.0).abs() < 0.02, "{name} {dtype}: {ratio}");
            assert!(lost < 0.2, "{name} {dtype}: {lost}");
            assert!(dtype != Dtype::Float32 || lost < 1e-12, "{name}: {lost}");
        }
    }
}

#[test]
fn a_merge_that_is_wrong_in_one_way_is_refused_by_tensor_and_row() {
    use Spoils::{Shifted, Stale, StaleBytes, Times, Transposed};
    let square = "`model.layers.0.self_attn.o_proj.weight`";
    let first = "row 0 of `model.layers.";
    for (name, how, words) in [
        ("plain", Times(-1.0), "-1.0000 times it"),
        ("plain", Times(2.0), "2.0000 times it"),
        ("plain", Times(1.001), "1.0010 times it"),
        ("plain", Times(0.0), "answers a probe with 0.0000e0"),
        ("plain", Transposed, square),
        ("plain", Shifted, first),
        ("plain", Stale(5), "row 5 of `model.layers.0."),
        ("plain", StaleBytes(7), "row 7 of `model.layers.0."),
        ("rslora", Times(0.5), "0.5000 times it"),
        ("dora", Times(-1.0), first),
        ("dora", Times(0.0), first),
        ("dora", Stale(5), "row 5 of `model.layers.0."),
        ("bias", Times(1.5), "1.5000 times it"),
        ("embeddings", Times(-1.0), "-1.0000 times it"),
        ("embeddings", Stale(3), "row 3 of `"),
        ("saved", Times(0.0), "row 0 of `"),
        ("saved", StaleBytes(2), "row 2 of `"),
        ("tokens", Times(0.5), "of `model.embed_tokens.weight`"),
        ("tied-head", Times(0.0), "of `lm_head.weight`"),
    ] {
        let model = fixture(name);
        model.gate.sabotage(how);
        let wrong = verdict(&model, Dtype::BFloat16, usize::MAX).wrong;
        let wrong = wrong.unwrap_or_else(|| panic!("{name} {how:?} passed"));
        assert!(wrong.starts_with("adapter `tuned`: row "), "{wrong}");
        assert!(
            wrong.contains(words),
            "{name} {how:?}: no {words} in {wrong}"
        );
    }
}

/// Of two adapters of one tensor, each is held to what it finds and leaves.
#[test]
fn of_several_adapters_the_one_that_is_lost_is_named() {
    let path = |name: &str, folder: &std::path::Path| AdapterPath {
        name: name.to_owned(),
        path: folder.to_owned(),
        scale: AdapterScale::ONE,
    };
    let plain = fixtures().join("adapters/plain");
    let mut faint = Edited::of("plain");
    faint.set("lora_alpha", json!(1e-7));
    let faint = path("faint", &faint.write().path);
    for (adapters, which) in [
        ([path("plain", &plain), faint.clone()], 1),
        ([faint, path("plain", &plain)], 0),
    ] {
        let model = open("tiny-llama", &adapters).unwrap();
        let verdict = verdict(&model, Dtype::BFloat16, usize::MAX);
        let lost = verdict.adapters[which].figures.lost();
        assert!(lost > LOST_MAX, "{lost}");
        assert!(verdict.adapters[1 - which].figures.lost() < 0.1);
        let wrong = verdict.wrong.unwrap();
        assert!(
            wrong.starts_with("adapter `faint`: rounding takes "),
            "{wrong}"
        );
        assert!(wrong.ends_with("; try again"), "{wrong}");
    }
}

/// It is in numbers how much a narrow type leaves: from nothing to all.
#[test]
fn figures_grow_with_the_scale_from_nothing_to_all() {
    let mut before = (-1.0, 2.0);
    for alpha in [1e-7, 1e-3, 1e-2, 0.1, 16.0] {
        let mut adapter = Edited::of("plain");
        adapter.set("lora_alpha", json!(alpha));
        let model = open("tiny-llama", &[adapter.write()]).unwrap();
        let figures = verdict(&model, Dtype::BFloat16, usize::MAX).adapters[0].figures;
        let (share, lost) = (figures.changed_share(), figures.lost());
        assert!(
            share > before.0 && lost < before.1,
            "{alpha}: {figures:?} after {before:?}"
        );
        before = (share, lost);
        assert_eq!(
            verdict(&model, Dtype::Float32, usize::MAX).wrong,
            None,
            "{alpha}"
        );
    }
    assert!(before.0 > 0.9 && before.1 < 0.1, "{before:?}");
}

#[test]
fn a_tensor_that_nobody_reads_is_named() {
    let model = fixture("plain");
    model.gate.begin(false);
    let mut row = [0; 128];
    let first = "model.layers.0.mlp.down_proj.weight";
    let read = model
        .tensors
        .read_as(Dtype::BFloat16, first, 0..1, 0..64, &mut row);
    read.unwrap();
    let wrong = model.gate.verdict("").wrong.unwrap();
    assert!(
        wrong.contains("changes `model.layers.") && wrong.ends_with("which nobody has read"),
        "{wrong}"
    );
}

#[test]
fn weights_that_are_held_back_are_the_bases_until_they_are_let_in() {
    for name in ["plain", "saved", "tokens", "tied-head"] {
        let model = fixture(name);
        let merged = read(&model, Dtype::BFloat16, usize::MAX);
        model.gate.begin(true);
        let bare = read(&model, Dtype::BFloat16, usize::MAX);
        model.gate.let_in();
        assert!(bare != merged, "{name}");
        assert_eq!(read(&model, Dtype::BFloat16, usize::MAX), merged, "{name}");
        assert_eq!(
            model.gate.verdict("").wrong,
            None,
            "{name}: what was bare counts in nothing"
        );
        if name != "tied-head" {
            let folder = model.path.file_name().unwrap().to_str().unwrap().to_owned();
            let base = open(&folder, &[]).unwrap();
            assert_eq!(read(&base, Dtype::BFloat16, usize::MAX), bare, "{name}");
        }
    }
}
