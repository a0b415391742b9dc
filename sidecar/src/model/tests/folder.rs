//! Hugging Face folders, opened whole.

use serde_json::{Value, json};

use crate::inspect;
use crate::model::{Model, ModelFolder, ModelSampling, SamplingDefaults};
use crate::weights::needed;
use crate::weights::testing::{Gguf, TempFolder, safetensors};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/models");

pub(super) fn config() -> Value {
    json!({
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "intermediate_size": 16, "vocab_size": 600,
        "max_position_embeddings": 64, "tie_word_embeddings": true,
        "eos_token_id": 0,
    })
}

/// A folder with everything a model needs.
pub(super) fn model(config: &Value) -> TempFolder {
    let folder = TempFolder::new();
    folder.write("config.json", config.to_string());
    let shape = crate::model::config::parse(config.to_string().as_bytes())
        .unwrap()
        .shape;
    let tensors = needed(&shape);
    let tensors: Vec<(&str, &[usize])> = tensors
        .iter()
        .map(|(name, dims)| (name.as_str(), dims.as_slice()))
        .collect();
    folder.write("model.safetensors", safetensors(&tensors));
    let tokenizer = std::fs::read(format!("{FIXTURES}/tiny-llama/tokenizer.json")).unwrap();
    folder.write("tokenizer.json", tokenizer);
    folder
}

pub(super) fn open(folder: &TempFolder) -> Result<Model, String> {
    ModelFolder::open(folder.path()).map_err(|e| e.to_string())
}

#[track_caller]
pub(super) fn refused(folder: &TempFolder, expected: &str) {
    let message = open(folder).unwrap_err();
    assert!(message.contains(expected), "{message}");
}

#[test]
fn facts_are_what_the_headers_say() {
    let folder = model(&config());
    let facts = inspect::facts(folder.path()).unwrap();
    assert_eq!(
        (facts.file_dtype.as_str(), facts.quantization),
        ("F32", None)
    );
    // Embedding 600 x 8; norms 3 x 8; q 8 x 8 + 8, k and v 4 x 8 + 4 each, o 8 x 8; MLP 3 x 16 x 8.
    let parameters = 4800 + 24 + 72 + 72 + 64 + 384;
    assert_eq!(
        (facts.parameters, facts.weight_file_bytes),
        (parameters, 4 * parameters)
    );
    assert!(facts.digest.starts_with("sha256:") && facts.digest.len() == 7 + 64);
}

#[test]
fn ends_of_sequence_come_from_the_generation_config_first() {
    let folder = model(&config());
    assert_eq!(open(&folder).unwrap().eos_ids, [0]);
    folder.write("generation_config.json", r#"{"eos_token_id": [5, 2, 5]}"#);
    assert_eq!(open(&folder).unwrap().eos_ids, [2, 5]);
    folder.write("generation_config.json", r#"{"temperature": 1}"#);
    assert_eq!(open(&folder).unwrap().eos_ids, [0]);
    folder.write("generation_config.json", r#"{"eos_token_id": 600}"#);
    refused(&folder, "token id 600 is outside of the vocabulary of 600");
    folder.write("generation_config.json", "{");
    refused(&folder, "generation_config.json: is not valid JSON");
}

#[test]
fn sampling_defaults_come_from_the_generation_config() {
    let folder = model(&config());
    assert_eq!(open(&folder).unwrap().sampling, ModelSampling::default());
    folder.write(
        "generation_config.json",
        r#"{"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.1,
            "repetition_penalty": 1.05, "max_new_tokens": 9, "eos_token_id": 3}"#,
    );
    let sampling = open(&folder).unwrap().sampling;
    let expected = SamplingDefaults {
        temperature: Some(0.6),
        top_k: Some(20),
        top_p: Some(0.95),
        min_p: Some(0.1),
        repetition_penalty: Some(1.05),
        max_new_tokens: Some(9),
    };
    assert_eq!((sampling.defaults, sampling.ignored.len()), (expected, 0));
    // What cannot be meant is left out; the rest counts, and the model is served.
    folder.write(
        "generation_config.json",
        r#"{"temperature": -1, "top_k": "many", "top_p": 0.9, "min_p": null,
            "repetition_penalty": {"a": 1}, "max_new_tokens": 0}"#,
    );
    let sampling = open(&folder).unwrap().sampling;
    let expected = SamplingDefaults {
        top_p: Some(0.9),
        ..SamplingDefaults::default()
    };
    assert_eq!(sampling.defaults, expected);
    let file = "generation_config.json: ";
    for (ignored, part) in sampling.ignored.iter().zip([
        "temperature is -1, expected a number from 0 to 2",
        "repetition_penalty is {\"a\":1}, expected a number above 0, up to 10",
        "top_k is \"many\", expected a number from -1 to 600",
        "max_new_tokens is 0, expected a number from 1 to 4294967295",
    ]) {
        assert_eq!(*ignored, format!("{file}{part}"));
    }
    assert_eq!(sampling.ignored.len(), 4);
    // As Python writes what JSON does not have.
    folder.write("generation_config.json", r#"{"temperature": NaN}"#);
    refused(&folder, "generation_config.json: is not valid JSON");
}

#[test]
fn the_tokenizers_end_of_sequence_counts_too() {
    let folder = model(&config());
    folder.write(
        "tokenizer_config.json",
        r#"{"eos_token": {"content": "<|im_end|>"}}"#,
    );
    let model = open(&folder).unwrap();
    assert_eq!(
        (model.eos_ids, model.special_tokens.get("eos_token")),
        (vec![0, 2], Some("<|im_end|>"))
    );
}

#[test]
fn templates_are_found_where_they_may_be() {
    let folder = model(&config());
    assert_eq!(open(&folder).unwrap().chat_templates, None);
    let template = |folder: &TempFolder| open(folder).unwrap().chat_templates.unwrap().default;
    folder.write("tokenizer_config.json", r#"{"chat_template": "a"}"#);
    assert_eq!(template(&folder), "a");
    let named = r#"{"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}"#;
    folder.write("tokenizer_config.json", named);
    assert_eq!(template(&folder), "d");
    folder.write("chat_template.jinja", "j");
    assert_eq!(template(&folder), "j");
    folder.write("chat_template.jinja", "x".repeat((1 << 20) + 1));
    refused(
        &folder,
        "chat_template.jinja: is 1048577 bytes, at most 1048576",
    );
    std::fs::remove_file(folder.path().join("chat_template.jinja")).unwrap();
    folder.write("tokenizer_config.json", r#"{"chat_template": 3}"#);
    refused(&folder, "chat_template: expected a string");
}

#[test]
fn missing_files_are_named() {
    for (name, expected) in [
        ("config.json", "config.json: no such file"),
        ("tokenizer.json", "tokenizer.json: is missing"),
        ("model.safetensors", "holds neither model.safetensors nor"),
    ] {
        let folder = model(&config());
        std::fs::remove_file(folder.path().join(name)).unwrap();
        refused(&folder, expected);
    }
    let folder = model(&config());
    std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    folder.write("tokenizer.model", "x");
    refused(&folder, "tokenizer.model alone is not read");
    let nowhere = ModelFolder::open(&folder.path().join("nowhere")).unwrap_err();
    assert_eq!(nowhere.reason(), "ModelNotFound");
}

#[test]
fn a_config_of_another_model_is_refused() {
    let folder = model(&config());
    for (field, value, expected) in [
        ("hidden_size", 16, "the config asks for [600, 16]"),
        (
            "num_hidden_layers",
            2,
            "`model.layers.1.input_layernorm.weight` is missing",
        ),
        (
            "vocab_size",
            599,
            "has the shape [600, 8], the config asks for [599, 8]",
        ),
        ("intermediate_size", 17, "the config asks for [17, 8]"),
    ] {
        let mut other = config();
        other[field] = value.into();
        folder.write("config.json", other.to_string());
        refused(&folder, expected);
    }
    let mut untied = config();
    untied["tie_word_embeddings"] = false.into();
    folder.write("config.json", untied.to_string());
    refused(&folder, "`lm_head.weight` is missing");
}

#[test]
fn a_tokenizer_larger_than_the_vocabulary_is_refused() {
    let mut small = config();
    small["vocab_size"] = 500.into();
    let folder = model(&small);
    let error = inspect::facts(folder.path()).unwrap_err();
    assert_eq!(error.reason(), "ModelInvalid");
    assert!(
        error.to_string().contains("the model's vocabulary has 500"),
        "{error}"
    );
}

#[test]
fn damaged_tokenizers_are_refused() {
    for bytes in [&b""[..], b"{}", b"{\"model\": 3}", b"\xff\xff", b"[]"] {
        let folder = model(&config());
        folder.write("tokenizer.json", bytes);
        let error = inspect::facts(folder.path()).unwrap_err().to_string();
        assert!(error.starts_with("tokenizer.json: is not valid"), "{error}");
    }
}

#[test]
fn merges_that_the_library_does_not_check_are_refused() {
    let folder = model(&config());
    let merges = json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": {"type": "ByteLevel", "add_prefix_space": true,
        "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [["a", "b"]]},
    });
    folder.write("tokenizer.json", merges.to_string());
    let error = inspect::facts(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("its vocabulary and merges contradict each other"),
        "{error}"
    );
}

#[test]
fn a_template_that_does_not_parse_is_refused_by_inspect() {
    let folder = model(&config());
    folder.write("chat_template.jinja", "{% for %}");
    let error = inspect::facts(folder.path()).unwrap_err().to_string();
    assert!(error.contains("does not parse"), "{error}");
}

#[test]
fn one_gguf_in_a_folder_is_the_model_and_several_are_not() {
    let folder = TempFolder::new();
    folder.write("a.gguf", Gguf::new().bytes());
    refused(
        &folder,
        "a.gguf: metadata `general.architecture` is missing",
    );
    folder.write("b.gguf", Gguf::new().bytes());
    refused(&folder, "holds several .gguf files (a.gguf, b.gguf, …)");
}

#[test]
fn the_digest_changes_with_config_and_headers_only() {
    let digest = |folder: &TempFolder| open(folder).unwrap().digest;
    let folder = model(&config());
    let first = digest(&folder);
    assert_eq!(digest(&model(&config())), first, "same files, same digest");
    let path = folder.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(digest(&folder), first, "data is not digested");
    let mut other = config();
    other["rope_theta"] = 7.0.into();
    folder.write("config.json", other.to_string());
    assert_ne!(digest(&folder), first);
}

#[test]
fn every_fixture_opens_with_its_tokenizer_and_template() {
    let mut count = 0;
    for entry in std::fs::read_dir(FIXTURES).unwrap() {
        let path = entry.unwrap().path();
        let model = ModelFolder::open(&path).unwrap();
        let tokenizer = model.tokenizer().unwrap();
        assert!(tokenizer.vocab_size() <= model.shape.vocab);
        assert!(
            crate::chat::ChatTemplate::load(&model, &tokenizer)
                .unwrap()
                .is_some()
        );
        assert_eq!(model.eos_ids, [2], "{}", path.display());
        count += 1;
    }
    assert!(count >= 9);
}

#[test]
fn inspect_answers_in_a_termination_message() {
    let folder = model(&config());
    let answer: Value =
        serde_json::from_str(&inspect::result_json(&inspect::facts(folder.path()))).unwrap();
    assert_eq!(answer["facts"]["vocabularySize"], 600);
    assert!(answer.get("error").is_none());
    assert!(answer["facts"].get("notes").is_none(), "nothing to tell");
    let told = r#"{"max_length": 20, "temperature": -1, "min_length": 3}"#;
    folder.write("generation_config.json", told);
    let facts = inspect::facts(folder.path());
    let notes = &facts.as_ref().unwrap().notes;
    for (note, part) in notes.iter().zip([
        "min_length is 3, which is not done here",
        "max_length is 20, which is not done here; maxModelLen bounds prompt and answer",
        "temperature is -1, expected a number from 0 to 2",
    ]) {
        assert!(note.contains(part), "{part}: {notes:?}");
    }
    assert_eq!(notes.len(), 3, "{notes:?}");
    // Notes give way to facts.
    let mut facts = facts.unwrap();
    facts.notes = vec!["\u{1}".repeat(200); 8];
    let answer = inspect::result_json(&Ok(facts));
    assert!(answer.len() <= inspect::RESULT_BYTES_MAX);
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["facts"]["vocabularySize"], 600);
    assert_eq!(answer["facts"]["notes"].as_array().unwrap().len(), 3);
    folder.write(
        "config.json",
        format!(r#"{{"architectures": ["{}"]}}"#, "é\\u0000".repeat(50_000)),
    );
    let answer = inspect::result_json(&inspect::facts(folder.path()));
    assert!(answer.len() <= inspect::RESULT_BYTES_MAX);
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["error"]["reason"], "UnsupportedArchitecture");
}

#[test]
fn a_link_to_nowhere_is_not_a_file_that_the_model_does_not_have() {
    let fixture =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/tiny-llama");
    for name in [
        "config.json",
        "generation_config.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.json",
        "chat_template.jinja",
        "tokenizer.json",
        "model.safetensors",
    ] {
        for target in ["/nowhere/at/all", name] {
            let folder = TempFolder::new();
            for entry in std::fs::read_dir(&fixture).unwrap() {
                let entry = entry.unwrap();
                folder.write(
                    entry.file_name().to_str().unwrap(),
                    std::fs::read(entry.path()).unwrap(),
                );
            }
            let link = folder.path().join(name);
            let _ = std::fs::remove_file(&link);
            std::os::unix::fs::symlink(target, &link).unwrap();
            let error = ModelFolder::open(folder.path())
                .map(drop)
                .expect_err(name)
                .to_string();
            assert!(
                error.contains(name) && error.contains(&format!("is a link to {target}")),
                "{error}"
            );
        }
    }
}
