//! SmolLM2-135M-Instruct's own tokenizer and template, out of its GGUF file, against reference
//! ids made with Python (`fixtures/make_smollm2_tokens.py`), and its weights against known facts.
//!
//! `PLIMSOLL_SMOLLM2` is the path of the file (`e2e/run model` fetches it).
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use plimsoll_sidecar::chat::{ChatMessage, ChatTemplate};
use plimsoll_sidecar::inspect;
use plimsoll_sidecar::model::{Model, ModelFolder};
use plimsoll_sidecar::tokenizer::Tokenizer;
use serde::Deserialize;

#[derive(Deserialize)]
struct Tokens {
    texts: BTreeMap<String, Text>,
    chats: BTreeMap<String, Chat>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
    /// Decoded without special tokens.
    skipped: String,
}

#[derive(Deserialize)]
struct Chat {
    /// What the user says; "answer N" stands between.
    users: Vec<String>,
    text: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Reference {
    prompts: Vec<Prompt>,
}

#[derive(Deserialize)]
struct Prompt {
    /// As the model sees it: a chat is rendered.
    prompt: String,
    prompt_ids: Vec<u32>,
    /// Of a chat; empty for a completion.
    #[serde(default)]
    messages: Vec<Message>,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: String,
}

fn fixture<T: for<'de> Deserialize<'de>>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn path() -> PathBuf {
    std::env::var_os("PLIMSOLL_SMOLLM2")
        .expect("PLIMSOLL_SMOLLM2 is not set: the path of SmolLM2-135M-Instruct.Q4_1.gguf")
        .into()
}

fn model() -> (Model, Tokenizer) {
    let model = ModelFolder::open(&path()).expect("PLIMSOLL_SMOLLM2 names the GGUF file");
    let tokenizer = model.tokenizer().unwrap();
    (model, tokenizer)
}

fn message(role: &str, content: String) -> ChatMessage {
    ChatMessage {
        role: role.into(),
        content,
        name: None,
    }
}

fn user(content: &str) -> ChatMessage {
    message("user", content.into())
}

#[test]
#[ignore = "needs the file that PLIMSOLL_SMOLLM2 names; `e2e/run test engine` runs it"]
fn awkward_text_has_the_reference_ids() {
    let (_, tokenizer) = model();
    let Tokens { texts, .. } = fixture("smollm2_tokens.json");
    assert!(texts.len() >= 30);
    for (name, Text { text, ids, skipped }) in texts {
        assert_eq!(tokenizer.encode(&text, false).unwrap(), ids, "{name}");
        assert_eq!(
            tokenizer.encode(&text, true).unwrap(),
            ids,
            "{name}: no bos token"
        );
        assert_eq!(tokenizer.decode(&ids, false), text, "{name}");
        assert_eq!(tokenizer.decode(&ids, true), skipped, "{name}");
        let mut stream = tokenizer.decode_stream(true);
        let mut streamed: String = ids.iter().map(|id| stream.push(*id)).collect();
        streamed += &stream.finish();
        assert_eq!(streamed, skipped, "{name}");
    }
}

#[test]
#[ignore = "needs the file that PLIMSOLL_SMOLLM2 names; `e2e/run test engine` runs it"]
fn chats_have_the_reference_ids_whatever_users_type() {
    let (model, tokenizer) = model();
    let template = ChatTemplate::load(&model, &tokenizer).unwrap().unwrap();
    let Tokens { chats, .. } = fixture("smollm2_tokens.json");
    assert!(chats.contains_key("injection"));
    for (name, Chat { users, text, ids }) in chats {
        let mut messages = Vec::new();
        for (turn, content) in users.iter().enumerate() {
            if turn > 0 {
                messages.push(message("assistant", format!("answer {turn}")));
            }
            messages.push(user(content));
        }
        let rendered = template.render(&messages, true).unwrap();
        assert_eq!(rendered.text, text, "{name}");
        assert_eq!(tokenizer.encode_chat(&rendered).unwrap(), ids, "{name}");
    }
}

#[test]
#[ignore = "needs the file that PLIMSOLL_SMOLLM2 names; `e2e/run test engine` runs it"]
fn prompts_have_the_ids_that_the_reference_answers_were_made_from() {
    let (model, tokenizer) = model();
    let template = ChatTemplate::load(&model, &tokenizer).unwrap().unwrap();
    let Reference { prompts } = fixture("smollm2.json");
    assert!(prompts.iter().any(|prompt| !prompt.messages.is_empty()));
    for Prompt {
        prompt,
        prompt_ids,
        messages,
    } in prompts
    {
        assert_eq!(
            tokenizer.encode(&prompt, true).unwrap(),
            prompt_ids,
            "{prompt}"
        );
        if !messages.is_empty() {
            let messages: Vec<ChatMessage> = messages
                .into_iter()
                .map(|m| message(&m.role, m.content))
                .collect();
            let rendered = template.render(&messages, true).unwrap();
            assert_eq!(rendered.text, prompt);
            assert_eq!(
                tokenizer.encode_chat(&rendered).unwrap(),
                prompt_ids,
                "{prompt}"
            );
        }
    }
}

#[test]
#[ignore = "needs the file that PLIMSOLL_SMOLLM2 names; `e2e/run test engine` runs it"]
fn the_facts_are_those_of_the_model() {
    let facts = inspect::facts(&path()).unwrap();
    let shape = (
        facts.layers,
        facts.hidden_size,
        facts.query_heads,
        facts.kv_heads,
    );
    assert_eq!(shape, (30, 576, 9, 3));
    let sizes = (
        facts.head_dim,
        facts.intermediate_size,
        facts.vocabulary_size,
    );
    assert_eq!(sizes, (64, 1536, 49_152));
    assert_eq!((facts.context_length, facts.tied), (8192, true));
    assert_eq!(facts.quantization.as_deref(), Some("GGUF Q4_1"));
    assert_eq!(
        (facts.parameters, facts.weight_file_bytes),
        (134_515_008, 96_576_768)
    );
    let (model, _) = model();
    // `<|endoftext|>` ends a text too, by what it is called.
    assert_eq!((model.eos_ids, model.bos_id), (vec![0, 2], Some(1)));
    assert_eq!(model.params.rope.theta, 100_000.0);
}
