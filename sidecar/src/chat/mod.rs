//! Chat templates: messages to one prompt, by the model's own Jinja template, bounded.
//!
//! A template is a program of the model's publisher: it gets no files and no environment, steps and
//! output are counted (`template`), and it runs in a process that the kernel holds to its memory and
//! time (`worker`, seen from here `confined`). What users write never becomes a special token
//! (`protect`).

mod clock;
mod confined;
mod environment;
mod frames;
mod protect;
mod python;
mod template;
#[cfg(test)]
mod tests;
pub mod worker;

use std::path::Path;

use crate::model::{Model, ModelError};
use crate::tokenizer::{Rendered, Tokenizer};
use confined::{Confined, NotStarted};
use protect::Placeholders;
use template::{NAME, Template};

/// One message of a chat. Content parts are joined before they get here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatMessage {
    pub role: String,
    pub content: String,
    pub name: Option<String>,
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
    runs: Runs,
    source: String,
    tokenizer: Tokenizer,
    bos_token: Option<String>,
    eos_token: Option<String>,
}

/// Where a template runs.
#[derive(Debug)]
enum Runs {
    Here(Template),
    Confined(Confined),
}

impl ChatTemplate {
    /// The model's template, run in this process: its memory has no bound. None where the model
    /// has none.
    ///
    /// # Errors
    /// [`ModelError::InvalidChatTemplate`] where it does not parse.
    pub fn load(model: &Model, tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>, ModelError> {
        let Some(source) = &model.chat_template else {
            return Ok(None);
        };
        let token = |name| model.special_tokens.get(name).map(str::to_owned);
        let tokens = [token("bos_token"), token("eos_token")];
        ChatTemplate::parse(source, tokenizer, tokens).map(Some)
    }

    /// The model's template, run in a process of its own. `program` is this one. Where the machine
    /// gives no process it runs in this one, with a warning: chats matter more than the bound.
    ///
    /// # Errors
    /// As [`ChatTemplate::load`].
    pub fn load_confined(
        model: &Model,
        tokenizer: &Tokenizer,
        program: &Path,
    ) -> Result<Option<ChatTemplate>, ModelError> {
        let Some(source) = &model.chat_template else {
            return Ok(None);
        };
        let token = |name| model.special_tokens.get(name).map(str::to_owned);
        let (bos_token, eos_token) = (token("bos_token"), token("eos_token"));
        let setup = [Some(source.clone()), bos_token.clone(), eos_token.clone()];
        match Confined::start(program, setup) {
            Ok(confined) => Ok(Some(ChatTemplate {
                runs: Runs::Confined(confined),
                source: source.clone(),
                tokenizer: tokenizer.clone(),
                bos_token,
                eos_token,
            })),
            Err(NotStarted::Template(message)) => Err(ModelError::template(NAME, message)),
            Err(NotStarted::Machine(error)) => {
                tracing::warn!(
                    %error,
                    "no process for the chat template: it runs in this one, without a bound on its \
                     memory"
                );
                ChatTemplate::load(model, tokenizer)
            }
        }
    }

    fn parse(
        source: &str,
        tokenizer: &Tokenizer,
        [bos_token, eos_token]: [Option<String>; 2],
    ) -> Result<ChatTemplate, ModelError> {
        let template = Template::parse(source, bos_token.clone(), eos_token.clone())
            .map_err(|message| ModelError::template(NAME, message))?;
        Ok(ChatTemplate {
            runs: Runs::Here(template),
            source: source.to_owned(),
            tokenizer: tokenizer.clone(),
            bos_token,
            eos_token,
        })
    }

    /// Renders messages to a prompt. Takes its time: not for the threads that answer requests.
    ///
    /// # Errors
    /// [`ChatError`].
    pub fn render(
        &self,
        messages: &[ChatMessage],
        add_generation_prompt: bool,
    ) -> Result<Rendered, ChatError> {
        let tokens = [self.bos_token.as_deref(), self.eos_token.as_deref()];
        let fixed = std::iter::once(self.source.as_str()).chain(tokens.into_iter().flatten());
        let mut placeholders = Placeholders::new(&self.tokenizer, fixed, messages);
        let mut hide = |text: &String| placeholders.hide(text);
        let hidden: Vec<ChatMessage> = messages
            .iter()
            .map(|message| ChatMessage {
                role: hide(&message.role),
                content: hide(&message.content),
                name: message.name.as_ref().map(&mut hide),
            })
            .collect();
        let text = match &self.runs {
            Runs::Here(template) => template.render(&hidden, add_generation_prompt),
            Runs::Confined(confined) => confined.render(&hidden, add_generation_prompt),
        };
        Ok(placeholders.restore(&text?))
    }
}
