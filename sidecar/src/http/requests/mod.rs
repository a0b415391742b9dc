//! What each endpoint reads of its body: fields to a checked request, with nothing left over.
//!
//! Every level of the body is read by `fields` under a table of `decisions`; the tests here walk all
//! of them. What needs the engine's answer comes later.

#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;

use axum::http::HeaderMap;
use serde_json::Value;

use super::bounds::Bounds;
use super::chat_options::ChatOptions;
use super::decisions;
use super::error::{ApiError, shown};
use super::fields::{Fields, Table, wrong};
use super::messages::{self, Messages};
use super::params::{self, Params};
use super::prompt::{self, Prompt};
use crate::model::SamplingDefaults;

/// An id of a request becomes a part of its answer's and of log lines.
const REQUEST_ID_BYTES: usize = 128;
const REQUEST_ID: &str = "request_id";
const REQUEST_ID_HEADER: &str = "x-request-id";

/// The model that a name, or none, stands for. An unknown one is told before anything else.
pub type Served<'a> = &'a dyn Fn(Option<String>) -> Result<String, ApiError>;

/// A chat that is to be answered.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatRequest {
    pub model: String,
    /// What the client calls it.
    pub id: Option<String>,
    pub messages: Messages,
    pub options: ChatOptions,
    pub params: Params,
}

/// Prompts that are to be continued.
#[derive(Clone, Debug, PartialEq)]
pub struct CompletionRequest {
    pub model: String,
    pub id: Option<String>,
    pub prompts: Vec<Prompt>,
    pub add_special: bool,
    pub params: Params,
}

/// A text or a chat whose tokens are asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenizeRequest {
    pub model: String,
    pub with_text: bool,
    pub of: Tokenizable,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Tokenizable {
    Chat(Messages, ChatOptions),
    Text { text: String, add_special: bool },
}

#[derive(Clone, Debug, PartialEq)]
pub struct DetokenizeRequest {
    pub model: String,
    pub ids: Vec<u32>,
}

/// # Errors
/// 400 that names the field; so for all of these.
pub fn chat(
    mut fields: Fields,
    served: Served<'_>,
    bounds: &Bounds,
    defaults: &SamplingDefaults,
) -> Result<ChatRequest, ApiError> {
    fields.settle(decisions::CHAT)?;
    let model = served(fields.string("model")?)?;
    let id = id(&mut fields)?;
    let messages = messages::take(&mut fields)?;
    let names = ["max_completion_tokens", "max_tokens"];
    let mut params = params::take(&mut fields, bounds, defaults, &names)?;
    params.sampling.logprobs = chat_logprobs(&mut fields)?;
    let options = ChatOptions::take(&mut fields, messages.prefix)?;
    fields.finish()?;
    Ok(ChatRequest {
        model,
        id,
        messages,
        options,
        params,
    })
}

pub fn completion(
    mut fields: Fields,
    served: Served<'_>,
    bounds: &Bounds,
    defaults: &SamplingDefaults,
) -> Result<CompletionRequest, ApiError> {
    fields.settle(decisions::COMPLETION)?;
    let model = served(fields.string("model")?)?;
    let id = id(&mut fields)?;
    let prompts = prompt::prompts(&mut fields, bounds.vocabulary)?;
    let mut params = params::take(&mut fields, bounds, defaults, &["max_tokens"])?;
    params.sampling.logprobs = params::logprob_count(&mut fields, "logprobs")?;
    let add_special = fields.boolean("add_special_tokens")?.unwrap_or(true);
    fields.finish()?;
    Ok(CompletionRequest {
        model,
        id,
        prompts,
        add_special,
        params,
    })
}

pub fn tokenize(mut fields: Fields, served: Served<'_>) -> Result<TokenizeRequest, ApiError> {
    let chat = fields.has("messages");
    if chat && fields.has("prompt") {
        let message = "messages: not together with prompt; one text is tokenized at a time";
        return Err(ApiError::invalid(Some("messages"), message));
    }
    only_of_chats(&fields, chat)?;
    fields.settle(match chat {
        true => decisions::TOKENIZE_MESSAGES,
        false => decisions::TOKENIZE_PROMPT,
    })?;
    let model = served(fields.string("model")?)?;
    let with_text = fields.boolean("return_token_strs")?.unwrap_or(false);
    let of = if chat {
        let messages = messages::take(&mut fields)?;
        let options = ChatOptions::take(&mut fields, messages.prefix)?;
        Tokenizable::Chat(messages, options)
    } else {
        let Some(text) = fields.string("prompt")? else {
            let message = "prompt: missing, and so is messages; one of them is needed";
            return Err(ApiError::invalid(Some("prompt"), message));
        };
        let add_special = fields.boolean("add_special_tokens")?.unwrap_or(true);
        Tokenizable::Text { text, add_special }
    };
    fields.finish()?;
    Ok(TokenizeRequest {
        model,
        with_text,
        of,
    })
}

/// What only a chat may have is refused of a prompt for that reason.
fn only_of_chats(fields: &Fields, chat: bool) -> Result<(), ApiError> {
    let of = |tables: &[Table]| tables.concat();
    let prompts = of(decisions::TOKENIZE_PROMPT);
    let mut chats = of(decisions::TOKENIZE_MESSAGES).into_iter();
    let misplaced = chats.find(|(name, _)| {
        !chat && fields.has(name) && prompts.iter().all(|(known, _)| known != name)
    });
    match misplaced {
        None => Ok(()),
        Some((name, _)) => Err(ApiError::unsupported(name, "only allowed with messages")),
    }
}

pub fn detokenize(
    mut fields: Fields,
    served: Served<'_>,
    bounds: &Bounds,
) -> Result<DetokenizeRequest, ApiError> {
    fields.settle(decisions::DETOKENIZE)?;
    let model = served(fields.string("model")?)?;
    let ids = match fields.take("tokens") {
        Some(Value::Array(items)) => prompt::ids("tokens", &items, bounds.vocabulary)?,
        other => {
            let other = other.unwrap_or(Value::Null);
            return Err(wrong("tokens", &other, "a list of token ids"));
        }
    };
    fields.finish()?;
    Ok(DetokenizeRequest { model, ids })
}

/// Chat has a switch and a count; the count alone is an error, as with OpenAI.
fn chat_logprobs(fields: &mut Fields) -> Result<Option<u8>, ApiError> {
    let wanted = fields.boolean("logprobs")?.unwrap_or(false);
    let top = params::logprob_count(fields, "top_logprobs")?;
    if let Some(count @ 1..) = top
        && !wanted
    {
        let message = format!("top_logprobs: {count} needs logprobs=true");
        return Err(ApiError::invalid(Some("top_logprobs"), message));
    }
    Ok(wanted.then_some(top.unwrap_or(0)))
}

fn id(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    match fields.string(REQUEST_ID)? {
        None => Ok(None),
        Some(id) => checked_id(REQUEST_ID, &id).map(Some),
    }
}

/// The part of the answer's id that clients may choose: as with vLLM the header's, else the body's.
///
/// # Errors
/// 400 for a header that is none.
pub fn answer_id(headers: &HeaderMap, id: Option<String>) -> Result<Option<String>, ApiError> {
    match headers.get(REQUEST_ID_HEADER) {
        None => Ok(id),
        Some(value) => {
            let value = String::from_utf8_lossy(value.as_bytes());
            checked_id(REQUEST_ID_HEADER, &value).map(Some)
        }
    }
}

fn checked_id(name: &str, id: &str) -> Result<String, ApiError> {
    if (1..=REQUEST_ID_BYTES).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(id.to_owned());
    }
    let message = format!(
        "{name}: {} is not 1 to {REQUEST_ID_BYTES} visible ASCII characters",
        shown(id)
    );
    Err(ApiError::invalid(Some(name), message))
}
