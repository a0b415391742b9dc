//! Folders that are no adapters, and adapters that do not go together.

use serde_json::json;

use super::super::{CONFIG, WEIGHTS};
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
        open(LLAMA, &[adapter.path()])
            .map(|_| ())
            .unwrap_err()
            .to_string()
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
    }
    adapter.folder().write(CONFIG, &config);
    adapter.folder().write("adapter_model.bin", "");
    let error = open(LLAMA, &[adapter.path()]).unwrap_err().to_string();
    assert!(
        error.contains("adapter_model.bin (PyTorch) is not read"),
        "{error}"
    );
    let nowhere = at(&fixtures().join("adapters/nowhere"));
    let error = open(LLAMA, &[nowhere]).unwrap_err().to_string();
    assert!(error.contains("nowhere"), "{error}");
}

#[test]
fn adapters_that_undo_each_other_are_refused() {
    let named = |name: &str, fixture: &str| AdapterPath {
        name: name.to_owned(),
        path: fixtures().join("adapters").join(fixture),
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
