//! `/tokenize` and `/detokenize`, as vLLM has them.

use std::sync::Arc;

use super::app::App;
use super::body::JsonBody;
use super::encoders::Task;
use super::error::ApiError;
use super::prompt::{self, Prompt};
use super::requests::{self, DetokenizeRequest, Tokenizable, TokenizeRequest};
use super::types::{Detokenized, Tokenized};
use super::unsent::{Share, text_bytes};
use super::whole;
use crate::engine::request::{ALLOCATION_BYTES, Room};
use axum::extract::State;
use axum::response::Response;

/// Bytes that decoding takes for an id: a string with its allocation, and the text.
const DECODING_BYTES: usize = 96;
/// What an id takes in an answer: itself, and its digits in a text that doubles.
const ID_BYTES: usize = 4 + 2 * 11;
/// Texts of tokens that are made before their bytes are counted.
const TEXTS_AT_ONCE: usize = 1024;

fn room(share: &Share, bytes: usize) -> Result<(), ApiError> {
    match share.take(bytes) {
        true => Ok(()),
        false => Err(share.no_room()),
    }
}

/// A text that is JSON in a moment: of each byte up to six.
fn json_bytes(text: &str) -> usize {
    text.len() + text_bytes(6 * text.len())
}

/// `{"prompt": …}` or `{"messages": […]}` to ids.
pub async fn tokenize(
    State(app): State<Arc<App>>,
    JsonBody(fields): JsonBody,
) -> Result<Response, ApiError> {
    let loaded = app.tokenizing()?;
    let TokenizeRequest {
        model: _,
        with_text,
        of,
    } = requests::tokenize(fields, &|name| app.model_of(name))?;
    let tokens = match of {
        Tokenizable::Chat(messages, options) => {
            prompt::encode_chat(Arc::clone(&loaded), messages, options).await?
        }
        Tokenizable::Text { text, add_special } => {
            let prompts = vec![Prompt::Text(text)];
            let encoded = prompt::encode_prompts(Arc::clone(&loaded), prompts, add_special).await?;
            encoded.into_iter().flatten().collect()
        }
    };
    let share = loaded.unsent.share();
    room(&share, tokens.len() * ID_BYTES)?;
    let mut texts = Vec::new();
    for ids in tokens.chunks(TEXTS_AT_ONCE).filter(|_| with_text) {
        let first = texts.len();
        texts.extend(ids.iter().map(|id| loaded.tokenizer.token_text(*id)));
        let each = |text: &String| 2 * size_of::<String>() + ALLOCATION_BYTES + json_bytes(text);
        room(&share, texts[first..].iter().map(each).sum())?;
    }
    let answer = Tokenized {
        count: tokens.len(),
        max_model_len: loaded.engine.facts().max_model_len,
        token_strs: with_text.then_some(texts),
        tokens,
    };
    Ok(whole::object(answer, share))
}

/// `{"tokens": […]}` to text, special tokens included.
pub async fn detokenize(
    State(app): State<Arc<App>>,
    JsonBody(fields): JsonBody,
) -> Result<Response, ApiError> {
    let loaded = app.tokenizing()?;
    let DetokenizeRequest { model: _, ids } =
        requests::detokenize(fields, &|name| app.model_of(name), &loaded.bounds)?;
    let limit = loaded.bounds.max_model_len;
    if ids.len() > limit as usize {
        return Err(ApiError::context_length("tokens", limit, ids.len(), 0));
    }
    // Decoding makes a string of each id.
    let bytes = ids.len().saturating_mul(DECODING_BYTES);
    let encoders = Arc::clone(&loaded);
    let decode = move |_: &Task<'_, _>| Ok(loaded.tokenizer.decode(&ids, false));
    let prompt = encoders.encoders.run(bytes, decode).await?;
    let share = encoders.unsent.share();
    room(&share, json_bytes(&prompt))?;
    Ok(whole::object(Detokenized { prompt }, share))
}
