//! The tokenizer of a Hugging Face folder: `tokenizer.json`, and the tokens that the folder's other
//! files add to it.

use std::collections::HashSet;
use std::path::Path;

use serde_json::Value;
use tokenizers::{AddedToken, Tokenizer};

use super::{DeclaredToken, TOKENIZER_BYTES_MAX, pipeline};
use crate::model_error::{ModelError, shorten};
use crate::weights::file::{display_name, read_small};

/// `vocab`: rows of the model's embedding. Padding tokens beyond them are left out: no prompt may
/// hold them, and their text is text.
pub(super) fn read(
    path: &Path,
    declared: &[DeclaredToken],
    vocab: u32,
) -> Result<Tokenizer, ModelError> {
    let mut tokenizer = parse(path, None)?;
    if highest(&tokenizer).is_some_and(|id| id >= vocab) {
        tokenizer = parse(path, Some((vocab, declared)))?;
    }
    declare(&mut tokenizer, declared, vocab)?;
    Ok(tokenizer)
}

/// Reads a `tokenizer.json`; `without`: the padding tokens from an id on.
pub(super) fn parse(
    path: &Path,
    without: Option<(u32, &[DeclaredToken])>,
) -> Result<Tokenizer, ModelError> {
    let file = display_name(path);
    let refuse =
        |why: &str| ModelError::tokenizer(&file, format!("is not valid: {}", shorten(why)));
    let mut bytes = read_small(path, TOKENIZER_BYTES_MAX)?;
    if let Some((vocab, declared)) = without {
        bytes = drop_padding(&bytes, vocab, declared).map_err(|e| refuse(&e.to_string()))?;
    }
    // The library indexes with lengths it has not checked (merges longer than any token).
    let parsed = std::panic::catch_unwind(|| Tokenizer::from_bytes(bytes));
    let mut tokenizer = match parsed {
        Ok(parsed) => parsed.map_err(|e| refuse(&e.to_string()))?,
        Err(_) => return Err(refuse("its vocabulary and merges contradict each other")),
    };
    // Settings of a training run that would cut or pad prompts.
    tokenizer.with_padding(None);
    tokenizer
        .with_truncation(None)
        .map_err(|e| ModelError::tokenizer(&file, shorten(&e.to_string())))?;
    pipeline::settle(&mut tokenizer).map_err(|why| ModelError::tokenizer(&file, why))?;
    Ok(tokenizer)
}

fn highest(tokenizer: &Tokenizer) -> Option<u32> {
    tokenizer.get_vocab(true).into_values().max()
}

fn drop_padding(
    bytes: &[u8],
    vocab: u32,
    declared: &[DeclaredToken],
) -> serde_json::Result<Vec<u8>> {
    let mut file: Value = serde_json::from_slice(bytes)?;
    if let Some(Value::Array(added)) = file.get_mut("added_tokens") {
        added.retain(|token| {
            let beyond = token["id"]
                .as_u64()
                .is_some_and(|id| id >= u64::from(vocab));
            let text = token["content"].as_str().unwrap_or_default();
            let named = declared.iter().any(|d| d.padding && d.content == text);
            !(beyond && (named || is_padding(text)))
        });
    }
    serde_json::to_vec(&file)
}

/// `[PAD]`, `<pad>`, `<|padding|>`: how files write it that name no padding token.
fn is_padding(text: &str) -> bool {
    text.starts_with(['<', '[']) && text.to_ascii_lowercase().contains("pad")
}

/// Adds the tokens that other files declare. The library gives them ids: its own for a text that it
/// knows, the next free one else; a file that says another id is of another tokenizer.
fn declare(
    tokenizer: &mut Tokenizer,
    declared: &[DeclaredToken],
    vocab: u32,
) -> Result<(), ModelError> {
    let mut next = highest(tokenizer).map_or(0, |id| id.saturating_add(1));
    let mut added = Vec::new();
    let own = tokenizer.get_added_vocabulary().get_added_tokens_decoder();
    let own: HashSet<&str> = own.values().map(|token| token.content.as_str()).collect();
    for token in declared {
        if token.padding && own.contains(token.content.as_str()) {
            continue;
        }
        let id = tokenizer.token_to_id(&token.content).or(token.id);
        let id = id.unwrap_or(next);
        let is_beyond = id >= vocab;
        if is_beyond && (token.padding || is_padding(&token.content)) {
            continue;
        }
        if is_beyond {
            let text = shorten(&token.content);
            let message = format!(
                "token `{text}` has the id {id}, the model's vocabulary has {vocab}; they are not \
                 of the same model"
            );
            return Err(ModelError::tokenizer(&token.file, message));
        }
        next = next.max(id.saturating_add(1));
        added.push((id, token));
    }
    let tokens = added.iter().map(|(_, token)| {
        AddedToken::from(token.content.clone(), token.special)
            .single_word(token.single_word)
            .lstrip(token.lstrip)
            .rstrip(token.rstrip)
            .normalized(token.normalized)
    });
    tokenizer
        .add_tokens(tokens.collect::<Vec<_>>())
        .map_err(|e| ModelError::tokenizer("added tokens", shorten(&e.to_string())))?;
    for (_, token) in added {
        let given = tokenizer.token_to_id(&token.content);
        if let Some(id) = token.id
            && given != Some(id)
        {
            let text = shorten(&token.content);
            let given = given.map_or_else(|| "none".to_owned(), |id| id.to_string());
            let message = format!(
                "token `{text}` has the id {id}, tokenizer.json has {given} for it; they are not \
                 of the same tokenizer"
            );
            return Err(ModelError::tokenizer(&token.file, message));
        }
    }
    Ok(())
}
