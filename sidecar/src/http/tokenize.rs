//! `/tokenize` and `/detokenize`, as vLLM has them.

use std::sync::Arc;

use super::app::App;
use super::body::JsonBody;
use super::encoders::Task;
use super::error::ApiError;
use super::prompt::{self, Prompt};
use super::requests::{self, DetokenizeRequest, Tokenizable, TokenizeRequest};
use super::types::{Detokenized, Tokenized};
use axum::Json;
use axum::extract::State;

/// Bytes that decoding takes for an id: a string with its allocation, and the text.
const DECODING_BYTES: usize = 96;

/// `{"prompt": …}` or `{"messages": […]}` to ids.
pub async fn tokenize(
    State(app): State<Arc<App>>,
    JsonBody(fields): JsonBody,
) -> Result<Json<Tokenized>, ApiError> {
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
    let strings = || {
        tokens
            .iter()
            .map(|id| loaded.tokenizer.token_text(*id))
            .collect()
    };
    Ok(Json(Tokenized {
        count: tokens.len(),
        max_model_len: loaded.engine.facts().max_model_len,
        token_strs: with_text.then(strings),
        tokens,
    }))
}

/// `{"tokens": […]}` to text, special tokens included.
pub async fn detokenize(
    State(app): State<Arc<App>>,
    JsonBody(fields): JsonBody,
) -> Result<Json<Detokenized>, ApiError> {
    let loaded = app.tokenizing()?;
    let DetokenizeRequest { model: _, ids } =
        requests::detokenize(fields, &|name| app.model_of(name), &loaded.bounds)?;
    // Decoding makes a string of each id.
    let bytes = ids.len().saturating_mul(DECODING_BYTES);
    let encoders = Arc::clone(&loaded);
    let decode = move |_: &Task<'_, _>| Ok(loaded.tokenizer.decode(&ids, false));
    let prompt = encoders.encoders.run(bytes, decode).await?;
    Ok(Json(Detokenized { prompt }))
}
