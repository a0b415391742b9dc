//! A parsed template and one run of it: messages in, a prompt out, bounded in steps and output.
//!
//! What steps and output do not bound (strings that double, lists in lists) the process around it
//! does, see `worker`.

use std::io;

use minijinja::{Environment, Error, ErrorKind, Value};

use super::environment::{self, Raised};
use super::{ChatError, ChatMessage};
use crate::model_error::shorten;

/// Bytes of a rendered prompt: far more than any context holds.
pub(super) const OUTPUT_BYTES_MAX: usize = 16 << 20;
pub(super) const NAME: &str = "chat_template";

#[derive(Debug)]
pub(super) struct Template {
    environment: Environment<'static>,
    bos_token: Option<String>,
    eos_token: Option<String>,
}

impl Template {
    /// # Errors
    /// Why the template does not parse.
    pub(super) fn parse(
        source: &str,
        bos_token: Option<String>,
        eos_token: Option<String>,
    ) -> Result<Template, String> {
        let refuse = |error: Error| format!("does not parse: {}", describe(&error));
        let mut environment = environment::new().map_err(refuse)?;
        let runnable = environment::without_generation_tags(source);
        environment
            .add_template_owned(NAME, runnable)
            .map_err(refuse)?;
        Ok(Template {
            environment,
            bos_token,
            eos_token,
        })
    }

    /// # Errors
    /// [`ChatError`].
    pub(super) fn render(
        &self,
        messages: &[ChatMessage],
        add_generation_prompt: bool,
    ) -> Result<String, ChatError> {
        let messages: Vec<Value> = messages.iter().map(value).collect();
        let token = |token: &Option<String>| token.clone().map_or(Value::UNDEFINED, Value::from);
        let context = Value::from_pairs([
            ("messages", Value::from(messages)),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
            ("tools", Value::from(())),
            ("documents", Value::from(())),
            ("bos_token", token(&self.bos_token)),
            ("eos_token", token(&self.eos_token)),
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
        let lossy = |error: std::string::FromUtf8Error| {
            String::from_utf8_lossy(error.as_bytes()).into_owned()
        };
        Ok(String::from_utf8(output.bytes).unwrap_or_else(lossy))
    }
}

/// A message as the dict that templates expect.
fn value(message: &ChatMessage) -> Value {
    let ChatMessage {
        role,
        content,
        name,
    } = message;
    let mut fields = vec![
        ("role", Value::from(role.as_str())),
        ("content", Value::from(content.as_str())),
    ];
    if let Some(name) = name {
        fields.push(("name", Value::from(name.as_str())));
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
