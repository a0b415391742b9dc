//! The tokenizer of a GGUF file: its metadata, and what they may not say.

use super::gguf::{llama, metadata, open, refused, tensors};
use crate::weights::testing::Gguf;

/// The metadata with one tokenizer key replaced.
fn tokenizer(change: impl Fn(Gguf) -> Gguf, without: &str) -> Gguf {
    let mut gguf = metadata("llama", "smollm");
    gguf.pairs
        .retain(|pair| !pair[8..].starts_with(without.as_bytes()));
    tensors(change(gguf))
}

#[test]
fn tokenizers_that_make_no_sense_are_refused() {
    let key = "tokenizer.ggml.pre";
    let other = tokenizer(|g| g.text(key, "viking"), key);
    refused(
        &other,
        "ModelInvalid",
        "metadata `tokenizer.ggml.pre` is `viking`; supported: default, tekken",
    );
    let key = "tokenizer.ggml.model";
    let other = tokenizer(|g| g.text(key, "bert"), key);
    refused(
        &other,
        "ModelInvalid",
        "metadata `tokenizer.ggml.model` is `bert`; supported:",
    );
    refused(
        &tokenizer(|g| g, key),
        "ModelInvalid",
        "`tokenizer.ggml.model` is missing",
    );
    let key = "tokenizer.ggml.tokens";
    refused(
        &tokenizer(|g| g, key),
        "ModelInvalid",
        "`tokenizer.ggml.tokens` is missing",
    );
    let typed = tokenizer(|g| g.numbers(key, &[1]), key);
    refused(
        &typed,
        "ModelInvalid",
        "is a list of integers, expected a list of strings",
    );
    let key = "tokenizer.ggml.merges";
    refused(
        &tokenizer(|g| g, key),
        "ModelInvalid",
        "`tokenizer.ggml.merges` is missing",
    );
    let key = "tokenizer.ggml.token_type";
    let short = tokenizer(|g| g.numbers(key, &[1, 1]), key);
    refused(&short, "ModelInvalid", "7 tokens and 2 token types");
    let unknown = tokenizer(|g| g.numbers(key, &[1, 1, 9, 1, 1, 1, 1]), key);
    refused(
        &unknown,
        "ModelInvalid",
        "token 2 has the unknown token type 9",
    );
    let key = "tokenizer.ggml.eos_token_id";
    let outside = tokenizer(|g| g.number(key, 7), key);
    refused(
        &outside,
        "ModelInvalid",
        "`tokenizer.ggml.eos_token_id` is 7, there are 7 tokens",
    );
}

#[test]
fn vocabularies_that_cannot_be_built_are_refused() {
    let built = |gguf: &Gguf| open(gguf).unwrap().tokenizer().unwrap_err().to_string();
    let key = "tokenizer.ggml.merges";
    let merges = |list: &'static [&'static str]| tokenizer(move |g| g.texts(key, list), key);
    assert!(built(&merges(&["ab"])).contains("`ab` in tokenizer.ggml.merges is not two tokens"));
    assert!(built(&merges(&["a z"])).contains("merges `a` and `z`"));
    assert!(built(&merges(&["b b"])).contains("merges `b` and `b` to a token that is not there"));
    assert!(built(&merges(&["<start> <start>"])).contains("that is not there"));
    let key = "tokenizer.ggml.tokens";
    let more = tokenizer(
        |g| g.texts(key, &["a", "b", "c", "d", "ab", "e", "f", "g"]),
        key,
    );
    assert!(
        open(&more)
            .unwrap_err()
            .contains("8 tokens and 7 token types")
    );
    let key = "tokenizer.ggml.token_type";
    let mut larger = tokenizer(|g| g, key);
    let tokens = "tokenizer.ggml.tokens";
    larger
        .pairs
        .retain(|pair| !pair[8..].starts_with(tokens.as_bytes()));
    let larger = larger.texts(tokens, &["a", "b", "c", "d", "ab", "e", "f", "g"]);
    assert!(built(&larger).contains("ids up to 7 (`g`), the model's vocabulary has 7"));
}

#[test]
fn a_bos_token_is_added_when_the_file_says_so() {
    let ids = |gguf: &Gguf, add_special: bool| {
        open(gguf)
            .unwrap()
            .tokenizer()
            .unwrap()
            .encode("a", add_special)
            .unwrap()
    };
    assert_eq!(ids(&llama(), true), [2]);
    let yes = tensors(metadata("llama", "smollm").pair("tokenizer.ggml.add_bos_token", 7, &[1]));
    assert_eq!((ids(&yes, true), ids(&yes, false)), (vec![1, 2], vec![2]));
    let llama3 = tensors(metadata("llama", "llama-bpe"));
    assert_eq!(
        ids(&llama3, true),
        [1, 2],
        "llama 3 has one unless the file says no"
    );
}

#[test]
fn words_are_cut_as_each_model_cuts_them() {
    // Only single characters are tokens, so the words show in what merges may join.
    let ids = |pre: &str, text: &str| {
        let key = "tokenizer.ggml.tokens";
        let mut gguf = metadata("llama", pre);
        let named = if pre.is_empty() {
            "tokenizer.ggml.pre"
        } else {
            "nothing"
        };
        for key in [
            named,
            key,
            "tokenizer.ggml.merges",
            "tokenizer.ggml.token_type",
        ] {
            gguf.pairs
                .retain(|pair| !pair[8..].starts_with(key.as_bytes()));
        }
        let gguf = gguf.texts(key, &["1", "11", "1111", "a", "A", "'", "'a"]);
        let gguf = gguf.texts("tokenizer.ggml.merges", &["1 1", "11 11"]);
        open(&tensors(gguf))
            .unwrap()
            .tokenizer()
            .unwrap()
            .encode(text, false)
            .unwrap()
    };
    assert_eq!(ids("gpt-2", "1111"), [2]);
    assert_eq!(ids("smollm", "1111"), [0, 0, 0, 0]);
    assert_eq!(ids("qwen2", "1111"), [0, 0, 0, 0]);
    assert_eq!(
        ids("llama-bpe", "1111"),
        [1, 0, 0],
        "three digits, then one"
    );
    assert_eq!(ids("smaug-bpe", "1111"), [1, 0, 0], "as llama 3");
    assert_eq!(ids("tekken", "1111"), [0, 0, 0, 0]);
    for pre in ["default", ""] {
        assert_eq!(ids(pre, "1111"), [1, 0, 0], "threes of digits");
        assert_eq!(ids(pre, "a'a"), [3, 5, 3], "punctuation is a word");
    }
    assert_eq!(ids("tekken", "aA"), [3, 4], "a capital begins a word");
}

#[test]
fn equal_texts_are_the_last_of_them_and_all_are_read() {
    let key = "tokenizer.ggml.tokens";
    let twice = tokenizer(
        |g| g.texts(key, &["a", "b", "a", "\u{120}", "ab", "", ""]),
        key,
    );
    let model = open(&twice).unwrap().tokenizer().unwrap();
    let kinds = [(0, "a"), (2, "a"), (4, "ab"), (5, "")];
    for (id, text) in kinds {
        assert_eq!(model.decode(&[id], false), text);
        assert_eq!(model.token_text(id), text);
    }
    assert_eq!(model.encode(" ab", false).unwrap().first(), Some(&3));
    assert_eq!(model.encode("a", false).unwrap(), [2]);
    assert_eq!(model.vocab_size(), 7);
}

#[test]
fn ends_are_known_by_their_text() {
    let key = "tokenizer.ggml.tokens";
    let ends = |tokens: &[&str], kinds: &[i32]| {
        let mut gguf = metadata("llama", "llama-bpe");
        for key in [key, "tokenizer.ggml.token_type", "tokenizer.ggml.merges"] {
            gguf.pairs
                .retain(|pair| !pair[8..].starts_with(key.as_bytes()));
        }
        let gguf = gguf
            .texts(key, tokens)
            .numbers("tokenizer.ggml.token_type", kinds);
        let gguf = gguf.texts("tokenizer.ggml.merges", &[]);
        open(&tensors(gguf)).unwrap().eos_ids
    };
    // Token 0 is the one that the metadata name.
    let tokens = [
        "<|end_of_text|>",
        "<s>",
        "<|eot_id|>",
        "<|eom_id|>",
        "a",
        "</s>",
        "<|im_start|>",
    ];
    assert_eq!(ends(&tokens, &[3, 3, 3, 3, 1, 3, 3]), [0, 2, 3, 5]);
    assert_eq!(
        ends(&tokens, &[3, 3, 3, 3, 1, 1, 3]),
        [0, 2, 3],
        "`</s>` as text"
    );
}

#[test]
fn special_tokens_have_their_names() {
    let gguf = metadata("llama", "smollm")
        .number("tokenizer.ggml.padding_token_id", 4)
        .number("tokenizer.ggml.unknown_token_id", 900);
    let names = open(&tensors(gguf)).unwrap().special_tokens;
    let names: Vec<(&str, &str)> = names.iter().collect();
    let expected = [
        ("bos_token", "<start>"),
        ("eos_token", "<end>"),
        ("pad_token", "ab"),
    ];
    assert_eq!(names, expected);
}
