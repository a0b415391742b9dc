//! How a chat becomes a prompt, beside its messages.

use super::effort;
use super::error::ApiError;
use super::fields::Fields;
use super::messages::variables;
use crate::chat::{Ending, Ordered};

/// What a request says of it.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatOptions {
    pub ending: Ending,
    /// The tokenizer's own special tokens stand around what the template wrote.
    pub add_special_tokens: bool,
    /// How long the model thinks, where its template has a switch for it.
    pub effort: Option<String>,
    /// Variables for the template.
    pub variables: Vec<(String, Ordered)>,
}

impl ChatOptions {
    /// `prefix`: the last message asks for the same as `continue_final_message`.
    pub fn take(fields: &mut Fields, prefix: bool) -> Result<ChatOptions, ApiError> {
        const CONTINUE: &str = "continue_final_message";
        let prompt = fields.boolean("add_generation_prompt")?;
        let continues = fields.boolean(CONTINUE)?.unwrap_or(false) || prefix;
        let ending = match (continues, prompt) {
            (true, Some(true)) => {
                let message = format!(
                    "{CONTINUE}: not together with add_generation_prompt=true, which begins \
                     another message"
                );
                return Err(ApiError::invalid(Some(CONTINUE), message));
            }
            (true, _) => Ending::Continue,
            (false, Some(false)) => Ending::Open,
            (false, _) => Ending::Prompt,
        };
        Ok(ChatOptions {
            ending,
            add_special_tokens: fields.boolean("add_special_tokens")?.unwrap_or(false),
            effort: effort::take(fields)?,
            variables: variables(fields)?,
        })
    }
}
