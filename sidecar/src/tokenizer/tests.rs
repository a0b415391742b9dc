//! The tokenizer against its own rules, on the tiny fixture tokenizer.

use proptest::prelude::*;

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
