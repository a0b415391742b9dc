//! The tokenizer against its own rules, on the tiny fixture tokenizer.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn fixture() -> Tokenizer {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/models/tiny-llama/tokenizer.json"
    );
    Tokenizer::from_file(Path::new(path)).unwrap()
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> String {
    let mut stream = tokenizer.decode_stream(skip_special);
    let mut text: String = ids.iter().map(|id| stream.push(*id)).collect();
    text += &stream.finish();
    text
}

#[test]
fn special_tokens_are_parsed_in_prompts() {
    let tokenizer = fixture();
    let ids = tokenizer
        .encode("<|im_start|>user\nhi<|im_end|>", false)
        .unwrap();
    assert_eq!((ids[0], *ids.last().unwrap()), (1, 2));
    assert!(tokenizer.is_special(1) && !tokenizer.is_special(ids[1]));
    assert_eq!(tokenizer.token_id("<|im_end|>"), Some(2));
    assert_eq!(
        tokenizer.decode(&ids, false),
        "<|im_start|>user\nhi<|im_end|>"
    );
    assert_eq!(tokenizer.decode(&ids, true), "user\nhi");
    assert_eq!(streamed(&tokenizer, &ids, true), "user\nhi");
}

#[test]
fn tokens_are_bytes() {
    let tokenizer = fixture();
    for id in tokenizer.encode("naïve 🦀\n\t x", false).unwrap() {
        assert!(!tokenizer.token_bytes(id).is_empty());
    }
    assert_eq!(tokenizer.token_bytes(2), b"<|im_end|>");
    assert_eq!(tokenizer.token_bytes(1_000_000), b"");
    assert_eq!(tokenizer.token_text(2), "<|im_end|>");
}

#[test]
fn a_vocabulary_smaller_than_the_tokenizer_is_refused() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/models/tiny-llama/tokenizer.json"
    );
    let source = TokenizerSource::File {
        path: path.into(),
        declared: Vec::new(),
    };
    let size = fixture().vocab_size();
    assert!(Tokenizer::load(&source, size).is_ok());
    assert!(
        Tokenizer::load(&source, size + 100).is_ok(),
        "padding is fine"
    );
    let error = Tokenizer::load(&source, size - 1).unwrap_err().to_string();
    assert!(
        error.contains(&format!("ids up to {}", size - 1)),
        "{error}"
    );
    assert!(
        error.contains(&format!("vocabulary has {}", size - 1)),
        "{error}"
    );
}

#[test]
fn runs_of_blanks_encode() {
    let tokenizer = fixture();
    for blanks in [1000, 100_000] {
        let text = format!("a{}b{}", " ".repeat(blanks), "\n".repeat(blanks));
        let ids = tokenizer.encode(&text, false).unwrap();
        assert_eq!(tokenizer.decode(&ids, false), text);
    }
}

proptest! {
    #[test]
    fn text_survives_and_streams_as_the_whole(text in "\\PC{0,40}|[a-z<|>_ \\n]{0,60}") {
        let tokenizer = fixture();
        let ids = tokenizer.encode(&text, false).unwrap();
        prop_assert_eq!(tokenizer.decode(&ids, false), text.clone());
        prop_assert_eq!(streamed(&tokenizer, &ids, false), text);
    }

    #[test]
    fn any_ids_stream_as_the_whole(ids in prop::collection::vec(0u32..520, 0..60), skip: bool) {
        let tokenizer = fixture();
        prop_assert_eq!(streamed(&tokenizer, &ids, skip), tokenizer.decode(&ids, skip));
    }

    /// Without literal ranges the piecewise encoding is the tokenizer's own.
    #[test]
    fn encoding_around_no_literal_is_ordinary(
        parts in prop::collection::vec(
            prop_oneof![
                Just("<|im_end|>".to_owned()),
                Just("<|im_start|>".to_owned()),
                "\\PC{0,8}",
                "[a-z]{1,6}",
                "[ \\n\\t]{0,4}",
                "[0-9.,]{0,5}",
            ],
            0..10,
        )
    ) {
        let tokenizer = fixture();
        let text = parts.concat();
        let Inner { tokenizer: inner, added, .. } = &*tokenizer.inner;
        let piecewise = literal::encode(inner, added, &text, &[]).unwrap();
        prop_assert_eq!(piecewise, tokenizer.encode(&text, false).unwrap());
    }
}

/// The fixture with one part replaced, as a file.
fn changed(
    pointer: &str,
    part: serde_json::Value,
) -> (crate::weights::testing::TempFolder, std::path::PathBuf) {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/models/tiny-llama/tokenizer.json"
    );
    let mut file: serde_json::Value =
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    file.pointer_mut(parent).unwrap()[field] = part;
    let folder = crate::weights::testing::TempFolder::new();
    folder.write("tokenizer.json", file.to_string());
    let path = folder.path().join("tokenizer.json");
    (folder, path)
}

/// Each of these ended the process, took memory without end, or answered every request with 500.
#[test]
fn what_the_library_lets_pass_and_cannot_do_is_refused_at_load() {
    let replace = |pattern: serde_json::Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
    let hundred = "a".repeat(100);
    let five = vec![replace(json!({"String": "a"}), &hundred); 5];
    let template = |single: serde_json::Value| json!({"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": {}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let nope = json!({"SpecialToken": {"id": "<nope>", "type_id": 0}});
    for (pointer, part, words) in [
        (
            "/normalizer",
            json!({"type": "Sequence", "normalizers": five}),
            "normalizer: makes up to 10000000000 bytes of one",
        ),
        (
            "/normalizer",
            replace(json!({"Regex": "x*"}), &hundred),
            "up to 101 bytes of one",
        ),
        (
            "/normalizer",
            replace(json!({"String": ""}), "xx"),
            "replaces the empty text",
        ),
        (
            "/normalizer",
            json!({"type": "Prepend", "prepend": "A".repeat(1_000_000)}),
            "puts up to 1000000 before",
        ),
        (
            "/post_processor",
            template(json!([nope, text])),
            "`<nope>`, which `special_tokens` lacks",
        ),
        (
            "/post_processor",
            template(json!(vec![text.clone(); 3])),
            "expected the text once",
        ),
        (
            "/post_processor",
            json!({"type": "Sequence", "processors": [template(json!([nope, text]))]}),
            "<nope>",
        ),
        ("/model/vocab/!", json!(u32::MAX), "token id 4294967295"),
    ] {
        let (_folder, path) = changed(pointer, part);
        let error = Tokenizer::from_file(&path).unwrap_err().to_string();
        assert!(
            error.starts_with("tokenizer.json: ") && error.contains(words),
            "{words}: {error}"
        );
    }
    // What real ones have.
    let real = json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "\u{2581}"},
        replace(json!({"String": " "}), "\u{2581}"),
    ]});
    let (_folder, path) = changed("/normalizer", real);
    assert!(Tokenizer::from_file(&path).is_ok());
}

#[test]
fn a_text_has_the_same_tokens_each_time_whatever_its_training_dropped() {
    let (_folder, path) = changed("/model/dropout", json!(0.5));
    let tokenizer = Tokenizer::from_file(&path).unwrap();
    let text = "the same text, again and again ".repeat(40);
    let ids = fixture().encode(&text, false).unwrap();
    assert_eq!(tokenizer.encode(&text, false).unwrap(), ids);
}
