//! Chat templates: messages to one prompt, by the model's own Jinja template, bounded.
//!
//! A template is a program of the model's publisher: it gets fuel, a bound on its output, no
//! files and no environment. What users write never becomes a special token (`protect`).

mod clock;
mod environment;
mod protect;
mod python;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::Range;

use minijinja::{Environment, Error, ErrorKind, Value};

use crate::model::error::shorten;
use crate::model::{Model, ModelError};
use crate::tokenizer::Tokenizer;
use environment::Raised;
use protect::Placeholders;

/// Bytes of a rendered prompt: far more than any context holds.
const OUTPUT_BYTES_MAX: usize = 16 << 20;
const NAME: &str = "chat_template";

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
    environment: Environment<'static>,
    source: String,
    tokenizer: Tokenizer,
    bos_token: Option<String>,
    eos_token: Option<String>,
}

impl ChatTemplate {
    /// The model's template; None where it has none.
    ///
    /// # Errors
    /// [`ModelError::InvalidChatTemplate`] where it does not parse.
    pub fn load(model: &Model, tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>, ModelError> {
        let Some(source) = &model.chat_template else {
            return Ok(None);
        };
        let mut template = ChatTemplate::parse(source, tokenizer)?;
        template.bos_token = model.bos_token.clone();
        template.eos_token = model.eos_token.clone();
        Ok(Some(template))
    }

    /// Parses a template, without the tokens that some write around messages.
    fn parse(source: &str, tokenizer: &Tokenizer) -> Result<ChatTemplate, ModelError> {
        let refuse =
            |e: Error| ModelError::template(NAME, format!("does not parse: {}", describe(&e)));
        let mut environment = environment::new().map_err(refuse)?;
        let runnable = environment::without_generation_tags(source);
        environment
            .add_template_owned(NAME, runnable)
            .map_err(refuse)?;
        Ok(ChatTemplate {
            environment,
            source: source.to_owned(),
            tokenizer: tokenizer.clone(),
            bos_token: None,
            eos_token: None,
        })
    }

    /// Renders messages to a prompt.
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
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| value(message, &mut placeholders))
            .collect();
        let context = Value::from_pairs([
            ("messages", Value::from(messages)),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
            ("tools", Value::from(())),
            ("documents", Value::from(())),
            (
                "bos_token",
                self.bos_token.clone().map_or(Value::UNDEFINED, Value::from),
            ),
            (
                "eos_token",
                self.eos_token.clone().map_or(Value::UNDEFINED, Value::from),
            ),
        ]);
        let mut output = Bounded { bytes: Vec::new() };
        self.environment
            .get_template(NAME)
            .and_then(|template| {
                template
                    .render_captured_to(context, &mut output)
                    .map(|_| ())
            })
            .map_err(|e| explain(&e, output.is_full()))?;
        let text = String::from_utf8_lossy(&output.bytes);
        Ok(placeholders.restore(&text))
    }
}

/// A message as the dict that templates expect.
fn value(message: &ChatMessage, placeholders: &mut Placeholders<'_>) -> Value {
    let ChatMessage {
        role,
        content,
        name,
    } = message;
    let mut fields = vec![
        ("role", Value::from(placeholders.hide(role))),
        ("content", Value::from(placeholders.hide(content))),
    ];
    if let Some(name) = name {
        fields.push(("name", Value::from(placeholders.hide(name))));
    }
    Value::from_pairs(fields)
}

/// Output that refuses to grow beyond its bound.
struct Bounded {
    bytes: Vec<u8>,
}

impl Bounded {
    fn is_full(&self) -> bool {
        self.bytes.len() >= OUTPUT_BYTES_MAX
    }
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = OUTPUT_BYTES_MAX - self.bytes.len();
        if room == 0 {
            return Err(io::Error::other("the prompt is too long"));
        }
        let count = bytes.len().min(room);
        self.bytes.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn explain(error: &Error, output_is_full: bool) -> ChatError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = source {
        if let Some(Raised(message)) = cause.downcast_ref() {
            return ChatError::Refused {
                message: shorten(message),
            };
        }
        if let Some(cause) = cause.downcast_ref::<Error>()
            && cause.kind() == ErrorKind::OutOfFuel
        {
            let message = format!(
                "it did not end within {} steps; it loops, or the chat is too long",
                environment::FUEL
            );
            return ChatError::Failed { message };
        }
        source = cause.source();
    }
    if output_is_full {
        let message = format!("it wrote more than {OUTPUT_BYTES_MAX} bytes");
        return ChatError::Failed { message };
    }
    ChatError::Failed {
        message: describe(error),
    }
}

/// One line: what and where.
fn describe(error: &Error) -> String {
    let detail = error
        .detail()
        .map_or_else(|| error.kind().to_string(), shorten);
    match error.line() {
        Some(line) => format!("{detail} (line {line} of the template)"),
        None => detail,
    }
}
