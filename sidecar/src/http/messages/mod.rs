//! The `messages` of a chat: what a message and its parts may hold, and what becomes of it.
//!
//! The rule of the body holds here too, by the same tables (`decisions`): a field is read and reaches
//! the template, or says nothing, or is a label, or is refused by name. What the model's template
//! never names it cannot honour: `tool_calls` are refused then.

mod calls;
#[cfg(test)]
mod tests;
mod variables;

use serde_json::Value;

use super::decisions;
use super::error::{ApiError, shown};
use super::fields::{Fields, wrong};
use crate::chat::Ordered;
use calls::tool_calls;
pub use variables::{says_nothing, variables};

/// The messages of a chat as templates see them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Messages {
    pub list: Vec<Ordered>,
    /// The last one says `prefix`: the answer goes on with it.
    pub prefix: bool,
    /// Fields that only a template which names them can honour.
    pub wanted: Vec<(String, &'static str)>,
}

/// Takes `messages`.
pub fn take(fields: &mut Fields) -> Result<Messages, ApiError> {
    let items = match fields.take("messages") {
        None => return Err(ApiError::invalid(Some("messages"), "messages: missing")),
        Some(Value::Array(items)) if items.is_empty() => {
            let message = "messages: the list is empty, at least one message is needed";
            return Err(ApiError::invalid(Some("messages"), message));
        }
        Some(Value::Array(items)) => items,
        Some(other) => return Err(wrong("messages", &other, "a list of messages")),
    };
    let mut messages = Messages::default();
    let last = items.len() - 1;
    for (at, item) in items.into_iter().enumerate() {
        let message = Fields::of(&format!("messages[{at}]"), item)?;
        let object = read(message, &mut messages, at == last)?;
        messages.list.push(object);
    }
    Ok(messages)
}

fn read(mut fields: Fields, messages: &mut Messages, last: bool) -> Result<Ordered, ApiError> {
    let role = role(&mut fields)?;
    fields.settle(match role {
        "assistant" => decisions::ASSISTANT,
        "tool" => decisions::TOOL,
        _ => decisions::SAID,
    })?;
    let mut object = vec![("role".to_owned(), Ordered::text(role))];
    object.push(("content".to_owned(), content(&mut fields, role)?));
    if let Some(name) = fields.string("name")? {
        object.push(("name".to_owned(), Ordered::Text(name)));
    }
    match role {
        "assistant" => answer(&mut fields, messages, last, &mut object)?,
        "tool" => {
            if let Some(id) = fields.string("tool_call_id")? {
                object.push(("tool_call_id".to_owned(), Ordered::Text(id)));
            }
        }
        _ => {}
    }
    fields.finish()?;
    Ok(Ordered::Object(object))
}

fn role(fields: &mut Fields) -> Result<&'static str, ApiError> {
    let field = fields.name("role");
    let role = match fields.take("role") {
        Some(Value::String(role)) => role,
        other => return Err(wrong(&field, &other.unwrap_or(Value::Null), "a string")),
    };
    match role.as_str() {
        // OpenAI's newer name for the same thing; templates know the older one.
        "system" | "developer" => Ok("system"),
        "user" => Ok("user"),
        "assistant" => Ok("assistant"),
        "tool" => Ok("tool"),
        other => {
            let message = format!(
                "{field}: {} is none of system, developer, user, assistant, tool",
                shown(other)
            );
            Err(ApiError::invalid(Some(&field), message))
        }
    }
}

fn content(fields: &mut Fields, role: &str) -> Result<Ordered, ApiError> {
    let field = fields.name("content");
    match fields.take("content") {
        Some(Value::String(text)) => Ok(Ordered::Text(text)),
        Some(Value::Array(items)) => {
            let part = |(at, item)| part(&format!("{field}[{at}]"), item);
            let parts = items.into_iter().enumerate().map(part);
            parts.collect::<Result<_, _>>().map(Ordered::List)
        }
        None if role == "assistant" => Ok(Ordered::text("")),
        other => {
            let other = other.unwrap_or(Value::Null);
            Err(wrong(&field, &other, "a string or a list of text parts"))
        }
    }
}

/// What only an assistant's message has.
fn answer(
    fields: &mut Fields,
    messages: &mut Messages,
    last: bool,
    object: &mut Vec<(String, Ordered)>,
) -> Result<(), ApiError> {
    let reasoning = match (
        said(fields, "reasoning_content")?,
        said(fields, "reasoning")?,
    ) {
        (Some(one), Some(other)) if one != other => {
            let field = fields.name("reasoning");
            let message = format!("{field}: another text than reasoning_content; send one");
            return Err(ApiError::invalid(Some(&field), message));
        }
        (one, other) => one.or(other),
    };
    // Under the names that transformers gives it. A template without a place for it leaves an
    // earlier answer's reasoning out, as its model was trained.
    for name in ["reasoning_content", "thinking"] {
        if let Some(reasoning) = &reasoning {
            object.push((name.to_owned(), Ordered::text(reasoning)));
        }
    }
    let calls = fields.take("tool_calls");
    if let Some(calls) = calls.filter(|calls| !calls.as_array().is_some_and(Vec::is_empty)) {
        let field = fields.name("tool_calls");
        object.push(("tool_calls".to_owned(), tool_calls(&field, calls)?));
        messages.wanted.push((field, "tool_calls"));
    }
    match fields.boolean("prefix")? {
        None | Some(false) => {}
        Some(true) if last => messages.prefix = true,
        Some(true) => {
            let why = "only the last message can be continued";
            return Err(ApiError::unsupported(&fields.name("prefix"), why));
        }
    }
    Ok(())
}

/// A text that is not empty.
fn said(fields: &mut Fields, name: &str) -> Result<Option<String>, ApiError> {
    Ok(fields.string(name)?.filter(|text| !text.is_empty()))
}

fn part(path: &str, item: Value) -> Result<Ordered, ApiError> {
    let mut part = Fields::of(path, item)?;
    let field = part.name("type");
    // What a part of another kind holds is not read: it is refused as a whole.
    match part.string("type")?.as_deref() {
        Some("text") => {}
        Some(other) => {
            let why = format!(
                "content of type {} is not supported, only text",
                shown(other)
            );
            return Err(ApiError::unsupported(&field, &why));
        }
        None => {
            let message = format!("{field}: missing, must be \"text\"");
            return Err(ApiError::invalid(Some(&field), message));
        }
    }
    part.settle(decisions::PART)?;
    let Some(text) = part.string("text")? else {
        return Err(wrong(&part.name("text"), &Value::Null, "a string"));
    };
    part.finish()?;
    Ok(Ordered::Object(vec![
        ("type".to_owned(), Ordered::text("text")),
        ("text".to_owned(), Ordered::Text(text)),
    ]))
}
