//! What a `tokenizer.json` may do to a text besides cutting it: bounded, well formed, and the same
//! every time. The library checks none of it, and panics or grows without end at the first prompt.

use serde_json::Value;
use tokenizers::Tokenizer;
use tokenizers::models::ModelWrapper;

use crate::model_error::shorten;

/// Bytes that a normalizer may make of one (SentencePiece's `▁` for a blank: 3).
const GROWTH_MAX: u64 = 16;
/// Bytes that it may put before a text.
const PREFIX_MAX: u64 = 256;
/// Pieces that a post-processor may put together: the text, and special tokens around it.
const PIECES_MAX: usize = 64;

/// How a normalizer grows a text of n bytes: to at most `factor` x n + `prefix`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Growth {
    factor: u64,
    prefix: u64,
}

/// Switches off what only a training run wants, and checks the rest.
///
/// # Errors
/// What is wrong, with the field.
pub(super) fn settle(tokenizer: &mut Tokenizer) -> Result<(), String> {
    // A training setting: with it the same text has other tokens each time.
    if let ModelWrapper::BPE(bpe) = tokenizer.get_model()
        && bpe.dropout.is_some()
    {
        let mut bpe = bpe.clone();
        bpe.dropout = None;
        tokenizer.with_model(bpe);
    }
    let json = |part: serde_json::Result<Value>| part.unwrap_or_default();
    let normalizer = json(serde_json::to_value(tokenizer.get_normalizer()));
    let Growth { factor, prefix } = growth(&normalizer)?;
    if factor > GROWTH_MAX || prefix > PREFIX_MAX {
        return Err(format!(
            "normalizer: makes up to {factor} bytes of one and puts up to {prefix} before a text; at \
             most {GROWTH_MAX} and {PREFIX_MAX} are done"
        ));
    }
    post_processor(&json(serde_json::to_value(tokenizer.get_post_processor())))
}

fn growth(normalizer: &Value) -> Result<Growth, String> {
    let text = |field: &Value| field.as_str().unwrap_or_default().len() as u64;
    let (mut factor, mut prefix) = (1, 0);
    match normalizer["type"].as_str().unwrap_or_default() {
        "Sequence" => {
            for each in normalizer["normalizers"].as_array().into_iter().flatten() {
                let next = growth(each)?;
                factor = next.factor.saturating_mul(factor);
                prefix = next
                    .factor
                    .saturating_mul(prefix)
                    .saturating_add(next.prefix);
            }
        }
        "Replace" => {
            let content = text(&normalizer["content"]);
            let pattern = &normalizer["pattern"];
            factor = match pattern.get("String") {
                Some(Value::String(empty)) if empty.is_empty() => {
                    return Err("normalizer: replaces the empty text".to_owned());
                }
                Some(string) => content.div_ceil(text(string).max(1)).max(1),
                // It may match a single byte, or nothing between two.
                None => content.saturating_add(1),
            };
        }
        "Prepend" => prefix = text(&normalizer["prepend"]),
        // The others change characters for characters.
        _ => {}
    }
    Ok(Growth { factor, prefix })
}

fn post_processor(value: &Value) -> Result<(), String> {
    if value["type"] == "Sequence" {
        let all = value["processors"].as_array();
        return all.into_iter().flatten().try_for_each(post_processor);
    }
    if value["type"] != "TemplateProcessing" {
        return Ok(());
    }
    let pieces = value["single"].as_array().map_or(&[][..], Vec::as_slice);
    let texts = pieces
        .iter()
        .filter(|piece| piece.get("Sequence").is_some());
    if pieces.len() > PIECES_MAX || texts.count() != 1 {
        return Err(format!(
            "post_processor: `single` has {} pieces; expected the text once and at most \
             {PIECES_MAX} in all",
            pieces.len()
        ));
    }
    for piece in pieces {
        let token = piece["SpecialToken"]["id"].as_str();
        if let Some(token) = token
            && value["special_tokens"].get(token).is_none()
        {
            return Err(format!(
                "post_processor: `single` names the token `{}`, which `special_tokens` lacks",
                shorten(token)
            ));
        }
    }
    Ok(())
}

/// Encodes a text once: the library may give up on what it let pass when it parsed.
pub(super) fn try_once(tokenizer: &Tokenizer) -> Result<(), String> {
    let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        ["", "a", "a b"].iter().try_for_each(|text| {
            let encoded = tokenizer.encode_fast(*text, true);
            encoded
                .map(drop)
                .map_err(|error| shorten(&error.to_string()))
        })
    }));
    tried.unwrap_or_else(|_| Err("the tokenizers library gives up on it".to_owned()))
}
