//! How a chat becomes a prompt, beside its messages.

use serde_json::{Map, Value};

use super::error::ApiError;
use super::fields::{Fields, wrong};

/// What a request says of it.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatOptions {
    /// The prompt ends where the assistant begins.
    pub add_generation_prompt: bool,
    /// The tokenizer's own special tokens stand around what the template wrote.
    pub add_special_tokens: bool,
    /// Variables for the template.
    pub template_kwargs: Map<String, Value>,
}

impl ChatOptions {
    pub fn take(fields: &mut Fields) -> Result<ChatOptions, ApiError> {
        let template_kwargs = match fields.take("chat_template_kwargs") {
            None => Map::new(),
            Some(Value::Object(kwargs)) => kwargs,
            Some(other) => return Err(wrong("chat_template_kwargs", &other, "an object")),
        };
        Ok(ChatOptions {
            add_generation_prompt: fields.boolean("add_generation_prompt")?.unwrap_or(true),
            add_special_tokens: fields.boolean("add_special_tokens")?.unwrap_or(false),
            template_kwargs,
        })
    }
}
