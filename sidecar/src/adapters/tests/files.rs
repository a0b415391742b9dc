//! Folders that are no adapters, and adapters that do not go together.

use plimsoll_crds::v1alpha1::adapters::AdapterScale;
use serde_json::json;

use super::super::product::rows_at_once;
use super::super::{ADAPTERS_MAX, CONFIG, WEIGHTS};
use super::edited::Edited;
use super::{AdapterPath, at, fixtures, open};

const PLAIN: &str = "plain";
const LLAMA: &str = "tiny-llama";

#[test]
fn files_that_are_missing_or_broken_are_refused() {
    let adapter = Edited::of(PLAIN);
    let [config, weights] = adapter.files();
    let message = |config: Option<&[u8]>, weights: Option<&[u8]>| {
        let adapter = Edited::of(PLAIN);
        let files = [(CONFIG, config), (WEIGHTS, weights)];
        for (name, bytes) in files
            .iter()
            .filter_map(|(name, bytes)| Some((name, (*bytes)?)))
        {
            adapter.folder().write(name, bytes);
        }
        let error = open(LLAMA, &[adapter.path()]).map(|_| ()).unwrap_err();
        assert_eq!(error.reason(), "AdapterInvalid", "{error}");
        error.to_string()
    };
    for (config, weights, words) in [
        (None, Some(&weights[..]), "no such file"),
        (
            Some(&config[..]),
            None,
            "adapter_model.safetensors: is missing",
        ),
        (
            Some(&b"{"[..]),
            Some(&weights[..]),
            "adapter_config.json: is not valid",
        ),
        (
            Some(br#"{"r": 1, "r": 2}"#),
            Some(&weights[..]),
            "given twice",
        ),
        (Some(b"[]"), Some(&weights[..]), "is not valid"),
        (
            Some(&config[..]),
            Some(&weights[..weights.len() - 1]),
            "cut off",
        ),
        (
            Some(&config[..]),
            Some(&weights[..20]),
            "the header alone needs",
        ),
        (Some(&config[..]), Some(b""), "the header alone needs"),
    ] {
        let message = message(config, weights);
        assert!(message.contains(words), "no {words:?} in {message}");
        assert!(message.starts_with("adapter `tuned`: "), "{message}");
    }
    adapter.folder().write(CONFIG, &config);
    adapter.folder().write("adapter_model.bin", "");
    let error = open(LLAMA, &[adapter.path()]).unwrap_err().to_string();
    assert!(
        error.contains("adapter_model.bin (PyTorch) is not read"),
        "{error}"
    );
    let nowhere = at(&fixtures().join("adapters/nowhere"));
    let error = open(LLAMA, &[nowhere]).unwrap_err();
    assert_eq!(error.reason(), "AdapterInvalid");
    let error = error.to_string();
    assert!(error.starts_with("adapter `tuned`: "), "{error}");
    assert!(error.contains("nowhere"), "{error}");
    let field = "check --adapter tuned=FOLDER, or source and path of spec.adapters[name=tuned]";
    assert!(
        error.ends_with(field) && !error.contains("model's"),
        "{error}"
    );
}

/// A wake or a reload reads long after the check.
#[test]
fn a_file_that_is_cut_off_while_it_is_open_is_the_adapters_trouble() {
    let adapter = Edited::of(PLAIN);
    let model = open(LLAMA, &[adapter.write()]).unwrap();
    let file = adapter.path().path.join(WEIGHTS);
    let file = std::fs::File::options().write(true).open(file).unwrap();
    file.set_len(8).unwrap();
    let mut out = [0.0; 64];
    let tensor = "model.layers.1.mlp.up_proj.weight";
    let read = model.tensors.read_block(tensor, 0..1, 0..64, &mut out);
    let error = read.unwrap_err();
    assert_eq!(error.reason(), "AdapterInvalid");
    let error = error.to_string();
    assert!(
        error.starts_with("adapter `tuned`: adapter_model.safetensors: ")
            && error.contains("beyond"),
        "{error}"
    );
}

#[test]
fn more_adapters_than_are_merged_are_refused_by_the_first_that_is_too_many() {
    let adapter = |at: usize| AdapterPath {
        name: format!("a{at}"),
        path: fixtures().join("adapters").join(PLAIN),
        scale: AdapterScale::ONE,
    };
    let all: Vec<AdapterPath> = (0..=ADAPTERS_MAX).map(adapter).collect();
    open(LLAMA, &all[..ADAPTERS_MAX]).unwrap();
    let error = open(LLAMA, &all).unwrap_err().to_string();
    assert!(
        error.starts_with("adapter `a8`: 9 adapters are given, 8 at most"),
        "{error}"
    );
}

/// Both sides of a tied base follow some adapters: what was done to the other side must not be lost.
#[test]
fn adapters_of_a_tied_embedding_do_not_pass_over_each_other() {
    let fixture = |name: &str| AdapterPath {
        name: name.to_owned(),
        path: fixtures().join("adapters").join(name),
        scale: AdapterScale::ONE,
    };
    let mut head = Edited::of(PLAIN);
    head.set("modules_to_save", json!(["lm_head"]));
    head.add("lm_head.weight", &[515, 64]);
    let head = head.write();
    let mut both = Edited::of("tied-both");
    both.remove("lm_head.weight");
    let both = both.write();
    for (base, adapters, words) in [
        (
            LLAMA,
            [head.clone(), fixture("tokens")],
            "adapter `tokens`: adapter_model.safetensors: trainable_token_indices: it was trained with",
        ),
        (
            "tiny-qwen2",
            [fixture("tied-head"), both],
            "adapter `tuned`: adapter_model.safetensors: ensure_weight_tying: it was trained with",
        ),
        (
            LLAMA,
            [fixture("tokens"), head],
            "adapter `tuned`: adapter_model.safetensors: takes the place of lm_head.weight",
        ),
    ] {
        let error = open(base, &adapters).unwrap_err().to_string();
        assert!(error.contains(words), "no {words:?} in {error}");
    }
    open(LLAMA, &[fixture("tokens"), fixture("plain")]).unwrap();
}

#[test]
fn adapters_that_undo_each_other_are_refused() {
    let named = |name: &str, fixture: &str| AdapterPath {
        name: name.to_owned(),
        path: fixtures().join("adapters").join(fixture),
        scale: AdapterScale::ONE,
    };
    let error =
        |base: &str, adapters: &[AdapterPath]| open(base, adapters).unwrap_err().to_string();
    let twice = error(LLAMA, &[named("a", PLAIN), named("a", "fan-in")]);
    assert!(twice.contains("adapter `a`: is given twice"), "{twice}");
    let dora = Edited::of("dora");
    let mut plain = Edited::of("dora");
    plain.config["use_dora"] = json!(false);
    plain
        .tensors
        .retain(|key, _| !key.ends_with("magnitude_vector"));
    let (plain, dora) = (
        plain.write(),
        AdapterPath {
            name: "long".into(),
            ..dora.write()
        },
    );
    let measured = error("tiny-llama-9-3", &[plain.clone(), dora.clone()]);
    assert!(
        measured.contains("adapter `long`") && measured.contains("put it first"),
        "{measured}"
    );
    open("tiny-llama-9-3", &[dora, plain]).unwrap();
    let mha = "tiny-llama-untied-mha";
    let undone = error(mha, &[named("a", "embeddings"), named("b", "saved")]);
    assert!(
        undone.contains("takes the place of lm_head.weight"),
        "{undone}"
    );
    open(mha, &[named("b", "saved"), named("a", "embeddings")]).unwrap();
}

/// Whichever is wider, a row or the rank: a narrow piece of a tensor has rows without number.
#[test]
fn a_factor_is_read_in_pieces_of_bounded_size_whatever_the_rank() {
    for (width, rank) in [
        (1, 4096),
        (1, 8),
        (16, 4096),
        (4096, 1),
        (8192, 4096),
        (0, 1),
    ] {
        let numbers = rows_at_once(width, rank) * width.max(rank);
        assert!(
            numbers <= 64 << 10 && numbers * 2 > 64 << 10,
            "{width} {rank}: {numbers}"
        );
    }
}
