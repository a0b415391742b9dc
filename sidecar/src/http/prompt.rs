//! What to continue: the `messages` of a chat, the `prompt` of a completion, as token ids.

use std::sync::Arc;

use serde_json::Value;

use super::app::Loaded;
use super::chat_options::ChatOptions;
use super::effort;
use super::encoders::Task;
use super::error::ApiError;
use super::fields::{Fields, kind, wrong};
use super::messages::{Messages, says_nothing};
use crate::chat::{Chat, ChatError, ChatTemplate, Ordered};

/// A prompt as it was sent, checked but not tokenized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    Text(String),
    Ids(Vec<u32>),
}

impl Prompt {
    /// Bytes of memory that it holds.
    fn bytes(&self) -> usize {
        match self {
            Prompt::Text(text) => text.len(),
            Prompt::Ids(ids) => size_of_val(ids.as_slice()),
        }
    }
}

/// `prompt`: a string, a list of strings, a list of ids, or a list of lists of ids.
pub fn prompts(fields: &mut Fields, vocabulary: u32) -> Result<Vec<Prompt>, ApiError> {
    const EXPECTED: &str = "a string, a list of strings, or one or more lists of token ids";
    let missing = || ApiError::invalid(Some("prompt"), format!("prompt: missing; {EXPECTED}"));
    match fields.take("prompt").ok_or_else(missing)? {
        Value::String(text) => Ok(vec![Prompt::Text(text)]),
        Value::Array(items) if items.is_empty() => Err(ApiError::invalid(
            Some("prompt"),
            "prompt: the list is empty",
        )),
        Value::Array(items) if items.iter().all(Value::is_number) => {
            Ok(vec![Prompt::Ids(ids("prompt", &items, vocabulary)?)])
        }
        Value::Array(items) => items
            .into_iter()
            .map(|item| match item {
                Value::String(text) => Ok(Prompt::Text(text)),
                Value::Array(list) => Ok(Prompt::Ids(ids("prompt", &list, vocabulary)?)),
                other => Err(wrong("prompt", &other, EXPECTED)),
            })
            .collect(),
        other => Err(wrong("prompt", &other, EXPECTED)),
    }
}

/// A list of token ids below `vocabulary`.
pub fn ids(field: &str, items: &[Value], vocabulary: u32) -> Result<Vec<u32>, ApiError> {
    let id = |(at, item): (usize, &Value)| {
        let id = item.as_u64().and_then(|id| u32::try_from(id).ok());
        id.filter(|id| *id < vocabulary).ok_or_else(|| {
            let got = match item {
                Value::Number(number) => number.to_string(),
                other => kind(other).to_owned(),
            };
            let message = format!(
                "{field}[{at}]: {got} is not a token id from 0 to {}",
                vocabulary - 1
            );
            ApiError::invalid(Some(field), message)
        })
    };
    items.iter().enumerate().map(id).collect()
}

/// Tokenizes prompts on a thread where that may take its time.
pub async fn encode_prompts(
    loaded: Arc<Loaded>,
    prompts: Vec<Prompt>,
    add_special: bool,
) -> Result<Vec<Vec<u32>>, ApiError> {
    for prompt in &prompts {
        if let Prompt::Text(text) = prompt {
            check_text("prompt", text.len(), &loaded)?;
        }
    }
    let bytes = prompts.iter().map(Prompt::bytes).sum();
    let encoders = Arc::clone(&loaded);
    let work = move |task: &Task<'_, _>| {
        let encode = |prompt| match prompt {
            Prompt::Ids(ids) => Ok(ids),
            Prompt::Text(_) if task.abandoned() => Err(ApiError::engine("the client has left")),
            Prompt::Text(text) => task
                .on_text(text.len(), || loaded.tokenizer.encode(&text, add_special))
                .map_err(|error| ApiError::invalid(Some("prompt"), format!("prompt: {error}"))),
        };
        prompts.into_iter().map(encode).collect()
    };
    encoders.encoders.run(bytes, work).await
}

/// Refuses a text that cannot fit the context before its tokenization takes time and memory.
fn check_text(field: &str, bytes: usize, loaded: &Loaded) -> Result<(), ApiError> {
    let (most, context) = (loaded.longest_text, loaded.bounds.max_model_len);
    if bytes <= most {
        return Ok(());
    }
    let message = format!(
        "this model's maximum context length is {context} tokens, at most {most} bytes of text; \
         the {field} has {bytes}; shorten the {field}"
    );
    Err(ApiError::invalid(Some(field), message).with_code("context_length_exceeded"))
}

/// Bytes of a message beside its text.
const MESSAGE_BYTES: usize = 128;

/// Renders and tokenizes a chat.
pub async fn encode_chat(
    loaded: Arc<Loaded>,
    messages: Messages,
    options: ChatOptions,
) -> Result<Vec<u32>, ApiError> {
    let Messages { list, wanted, .. } = messages;
    let ChatOptions {
        ending,
        add_special_tokens,
        effort,
        variables,
    } = options;
    let mut chat = Chat {
        messages: list,
        variables,
        ending,
        tools: None,
    };
    let bytes = chat.bytes();
    check_text("messages", bytes, &loaded)?;
    let held = bytes + chat.messages.len() * MESSAGE_BYTES;
    let encoders = Arc::clone(&loaded);
    let work = move |task: &Task<'_, _>| {
        let Some(template) = &loaded.template else {
            let message = "messages: this model has no chat template; use /v1/completions";
            return Err(ApiError::invalid(Some("messages"), message).with_code("no_chat_template"));
        };
        effort::apply(effort, template, &mut chat)?;
        check_names(template, &wanted, &chat)?;
        let rendered = template.render_chat(&chat).map_err(|error| {
            let code = match error {
                ChatError::Refused { .. } => "messages_refused",
                ChatError::Failed { .. } => "chat_template_failed",
                ChatError::Busy => return ApiError::busy(&error.to_string()),
            };
            ApiError::invalid(Some("messages"), format!("messages: {error}")).with_code(code)
        })?;
        check_text("messages", rendered.text.len(), &loaded)?;
        task.on_text(rendered.text.len(), || {
            let tokenizer = &loaded.tokenizer;
            let ids = tokenizer.encode_chat(&rendered)?;
            match add_special_tokens {
                true => tokenizer.surrounded(ids),
                false => Ok(ids),
            }
        })
        .map_err(|error| ApiError::invalid(Some("messages"), format!("messages: {error}")))
    };
    encoders.encoders.run(held, work).await
}

/// What the template never names it cannot honour.
fn check_names(
    template: &ChatTemplate,
    wanted: &[(String, &'static str)],
    chat: &Chat,
) -> Result<(), ApiError> {
    const WHY: &str = "this model's chat template does not read it";
    if let Some((field, _)) = wanted.iter().find(|(_, word)| !template.reads(word, chat)) {
        return Err(ApiError::unsupported(field, WHY));
    }
    let unread =
        |(name, value): &&(String, Ordered)| !says_nothing(value) && !template.reads(name, chat);
    match chat.variables.iter().find(unread) {
        None => Ok(()),
        Some((name, _)) => {
            let name: String = name.chars().take(64).collect();
            Err(ApiError::unsupported(
                &format!("chat_template_kwargs.{name}"),
                WHY,
            ))
        }
    }
}

/// Runs what may take milliseconds (reading `/proc`) off the threads that answer requests.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ApiError::engine(format!(
            "the request could not be prepared: {error}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(body: &str) -> Fields {
        Fields::parse(body.as_bytes()).unwrap()
    }

    #[test]
    fn prompts_of_every_kind_are_read() {
        let text = |text: &str| Prompt::Text(text.into());
        for (body, expected) in [
            (r#"{"prompt": "a"}"#, vec![text("a")]),
            (r#"{"prompt": ["a", "b"]}"#, vec![text("a"), text("b")]),
            (r#"{"prompt": [1, 2]}"#, vec![Prompt::Ids(vec![1, 2])]),
            (
                r#"{"prompt": [[1], [2, 3]]}"#,
                vec![Prompt::Ids(vec![1]), Prompt::Ids(vec![2, 3])],
            ),
        ] {
            assert_eq!(prompts(&mut fields(body), 10).unwrap(), expected, "{body}");
        }
        for (body, part) in [
            (r#"{}"#, "prompt: missing"),
            (r#"{"prompt": []}"#, "prompt: the list is empty"),
            (r#"{"prompt": {"a": 1}}"#, "not an object"),
            (
                r#"{"prompt": [10]}"#,
                "prompt[0]: 10 is not a token id from 0 to 9",
            ),
            (r#"{"prompt": [1, -1]}"#, "prompt[1]: -1 is not a token id"),
            (r#"{"prompt": [1.5]}"#, "prompt[0]: 1.5 is not"),
            (r#"{"prompt": ["a", true]}"#, "not a boolean"),
            (
                r#"{"prompt": [[1, "x"]]}"#,
                "prompt[1]: a string is not a token id",
            ),
        ] {
            let error = prompts(&mut fields(body), 10).unwrap_err();
            assert!(error.message.contains(part), "{body}: {}", error.message);
            assert_eq!(error.param.as_deref(), Some("prompt"));
        }
    }
}
