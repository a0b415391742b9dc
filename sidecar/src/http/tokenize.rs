//! `/tokenize` and `/detokenize`, as vLLM has them.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::Value;

use super::app::App;
use super::body::JsonBody;
use super::chat_options::ChatOptions;
use super::decisions;
use super::encoders::Task;
use super::error::ApiError;
use super::fields::wrong;
use super::messages;
use super::prompt::{self, Prompt};
use super::types::{Detokenized, Tokenized};

/// Bytes that decoding takes for an id: a string with its allocation, and the text.
const DECODING_BYTES: usize = 96;

/// `{"prompt": …}` or `{"messages": […]}` to ids.
pub async fn tokenize(
    State(app): State<Arc<App>>,
    JsonBody(mut fields): JsonBody,
) -> Result<Json<Tokenized>, ApiError> {
    let loaded = app.tokenizing()?;
    let chat = fields.has("messages");
    fields.settle(match chat {
        true => decisions::TOKENIZE_MESSAGES,
        false => decisions::TOKENIZE_PROMPT,
    })?;
    app.model_of(&mut fields)?;
    let with_text = fields.boolean("return_token_strs")?.unwrap_or(false);
    let tokens = if chat {
        let messages = messages::take(&mut fields)?;
        let options = ChatOptions::take(&mut fields, messages.prefix)?;
        fields.finish()?;
        prompt::encode_chat(Arc::clone(&loaded), messages, options).await?
    } else {
        let Some(text) = fields.string("prompt")? else {
            let message = "prompt: missing, and so is messages; one of them is needed";
            return Err(ApiError::invalid(Some("prompt"), message));
        };
        let add_special = fields.boolean("add_special_tokens")?.unwrap_or(true);
        fields.finish()?;
        let prompts = vec![Prompt::Text(text)];
        let encoded = prompt::encode_prompts(Arc::clone(&loaded), prompts, add_special).await?;
        encoded.into_iter().flatten().collect()
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
    JsonBody(mut fields): JsonBody,
) -> Result<Json<Detokenized>, ApiError> {
    let loaded = app.tokenizing()?;
    fields.settle(decisions::DETOKENIZE)?;
    app.model_of(&mut fields)?;
    let ids = match fields.take("tokens") {
        Some(Value::Array(items)) => prompt::ids("tokens", &items, loaded.bounds.vocabulary)?,
        other => {
            return Err(wrong(
                "tokens",
                &other.unwrap_or(Value::Null),
                "a list of token ids",
            ));
        }
    };
    fields.finish()?;
    // Decoding makes a string of each id.
    let bytes = ids.len().saturating_mul(DECODING_BYTES);
    let encoders = Arc::clone(&loaded);
    let decode = move |_: &Task<'_, _>| Ok(loaded.tokenizer.decode(&ids, false));
    let prompt = encoders.encoders.run(bytes, decode).await?;
    Ok(Json(Detokenized { prompt }))
}
