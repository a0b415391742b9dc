//! Special tokens wherever a folder declares them, against transformers
//! (`tests/fixtures/make_special_tokens.py` wrote what it says), and padding beyond the embedding.

use serde_json::{Value, json};

use super::folder::{config, model, open, refused};

fn cases() -> Vec<Value> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/special_tokens.json"
    );
    let mut file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    match file["cases"].take() {
        Value::Array(cases) => cases,
        other => panic!("{other}"),
    }
}

#[test]
fn folders_are_read_as_transformers_reads_them_or_refused_for_a_contradiction() {
    let (mut same, mut refused) = (0, 0);
    for case in cases() {
        let files = &case["files"];
        let folder = model(&config());
        for (name, content) in files.as_object().unwrap() {
            folder.write(&format!("{name}.json"), content.to_string());
        }
        let opened = open(&folder).and_then(|model| {
            let tokenizer = model.tokenizer().map_err(|e| e.to_string())?;
            Ok((model, tokenizer))
        });
        let (model, tokenizer) = match (opened, case["contradiction"] == true) {
            (Ok(opened), false) => opened,
            (Err(_), true) => {
                refused += 1;
                continue;
            }
            (Ok(_), true) => panic!("taken: {files}"),
            (Err(error), false) => panic!("{error}: {files}"),
        };
        let names = model.special_tokens.iter();
        let names: serde_json::Map<_, _> = names.map(|(n, t)| (n.into(), t.into())).collect();
        assert_eq!(Value::Object(names), case["names"], "{files}");
        if let Some(eos) = case["eos"].as_u64() {
            let eos = u32::try_from(eos).unwrap();
            assert!(model.eos_ids.contains(&eos), "{files}: {:?}", model.eos_ids);
        }
        for (probe, ids) in case["probes"].as_object().unwrap() {
            let ours = tokenizer.encode(probe, false).unwrap();
            assert_eq!(json!(ours), *ids, "{probe}: {files}");
            let text = tokenizer.decode(&ours, true);
            assert_eq!(
                text,
                case["skipped"][probe].as_str().unwrap(),
                "{probe}: {files}"
            );
        }
        same += 1;
    }
    assert_eq!((same, refused), (181, 40));
}

#[test]
fn contradictions_are_named() {
    let folder = model(&config());
    folder.write("tokenizer_config.json", r#"{"eos_token": "<|im_end|>"}"#);
    folder.write("special_tokens_map.json", r#"{"eos_token": "</s>"}"#);
    refused(
        &folder,
        "special_tokens_map.json: eos_token is `</s>`, and `<|im_end|>` in tokenizer_config.json",
    );
    folder.write("special_tokens_map.json", r#"{"eos_token": 3}"#);
    refused(
        &folder,
        "special_tokens_map.json: eos_token is 3, expected a token",
    );
    let folder = model(&config());
    folder.write("added_tokens.json", r#"{"<|new|>": 1}"#);
    refused(
        &folder,
        "added_tokens.json: id 1 is the token `<|new|>`, and `<|im_start|>` in tokenizer.json",
    );
    folder.write("added_tokens.json", r#"{"<|im_start|>": 7}"#);
    refused(
        &folder,
        "added_tokens.json: token `<|im_start|>` has the id 7, and 1 in tokenizer.json",
    );
    folder.write("added_tokens.json", r#"{"<|new|>": 520}"#);
    let error = open(&folder).unwrap().tokenizer().unwrap_err().to_string();
    assert!(
        error.contains("token `<|new|>` has the id 520, tokenizer.json has 510 for it"),
        "{error}"
    );
}

#[test]
fn padding_beyond_the_embedding_is_left_out_and_other_tokens_are_refused() {
    let mut small = config();
    small["vocab_size"] = 510.into();
    let tokenizer = |content: &str| {
        let folder = model(&small);
        let file = std::fs::read(folder.path().join("tokenizer.json")).unwrap();
        let mut file: Value = serde_json::from_slice(&file).unwrap();
        let added = file["added_tokens"].as_array_mut().unwrap();
        let mut token = added[0].clone();
        (token["id"], token["content"]) = (510.into(), content.into());
        added.push(token);
        folder.write("tokenizer.json", file.to_string());
        folder
    };
    let without = open(&model(&small)).unwrap().tokenizer().unwrap();
    for content in ["[PAD]", "<pad>", "<|pad|>"] {
        let tokenizer = open(&tokenizer(content)).unwrap().tokenizer().unwrap();
        assert_eq!(tokenizer.vocab_size(), 510);
        for text in [content.to_owned(), format!("a{content}<|im_end|>b")] {
            let ids = tokenizer.encode(&text, true).unwrap();
            assert_eq!(ids, without.encode(&text, true).unwrap(), "{content}");
        }
    }
    // Named by another file alone: the id is the next one, and that is beyond.
    let folder = model(&small);
    folder.write("tokenizer_config.json", r#"{"pad_token": "<fill>"}"#);
    let opened = open(&folder).unwrap();
    assert_eq!(opened.special_tokens.get("pad_token"), Some("<fill>"));
    assert_eq!(opened.tokenizer().unwrap().vocab_size(), 510);
    let error = open(&tokenizer("<|think|>"))
        .unwrap()
        .tokenizer()
        .unwrap_err();
    assert!(error.to_string().contains("(`<|think|>`)"), "{error}");
    folder.write("tokenizer_config.json", r#"{"bos_token": "<fill>"}"#);
    let error = open(&folder).unwrap().tokenizer().unwrap_err().to_string();
    assert!(error.contains("token `<fill>` has the id 510"), "{error}");
}

#[test]
fn a_pad_or_unk_token_reaches_templates() {
    let folder = model(&config());
    folder.write(
        "tokenizer_config.json",
        r#"{"pad_token": "<|endoftext|>", "unk_token": {"content": "<|im_start|>"}}"#,
    );
    let names = open(&folder).unwrap().special_tokens;
    assert_eq!(names.get("pad_token"), Some("<|endoftext|>"));
    assert_eq!(names.get("unk_token"), Some("<|im_start|>"));
}
