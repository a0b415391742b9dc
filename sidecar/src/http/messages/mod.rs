//! The `messages` of a chat: what a message and its parts may hold, and what becomes of it.
//!
//! The rule of the body holds here too: a field is read and reaches the template, or says nothing
//! (null, or what [`NEUTRAL`] lists), or is a label ([`LABELS`]), or is refused by name. What the
//! model's template never names it cannot honour: `tool_calls` are refused then.

mod calls;
#[cfg(test)]
mod tests;
mod variables;

use serde_json::{Map, Value};

use super::error::{ApiError, shown};
use super::fields::{Fields, wrong};
use crate::chat::Ordered;
use calls::tool_calls;
pub use variables::{says_nothing, variables};

/// Labels of clients: no answer depends on them, whatever they hold.
const LABELS: [&str; 2] = ["id", "cache_control"];
/// Fields that answers carry and clients send back, with the values that say nothing.
const NEUTRAL: [(&str, &str); 6] = [
    ("refusal", r#""""#),
    ("annotations", "[]"),
    ("tool_calls", "[]"),
    ("prefix", "false"),
    ("reasoning_content", r#""""#),
    ("reasoning", r#""""#),
];

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
        let path = format!("messages[{at}]");
        let Value::Object(left) = item else {
            return Err(wrong(&path, &item, "an object"));
        };
        let mut message = Message { path, left };
        let object = message.read(&mut messages, at == last)?;
        message.finish()?;
        messages.list.push(object);
    }
    Ok(messages)
}

/// An object of the request whose fields are taken one by one.
struct Message {
    path: String,
    left: Map<String, Value>,
}

impl Message {
    fn name(&self, field: &str) -> String {
        format!("{}.{field}", self.path)
    }

    /// A field that says something.
    fn take(&mut self, field: &str) -> Option<Value> {
        let value = self.left.remove(field)?;
        let neutral = NEUTRAL.iter().any(|(name, nothing)| {
            *name == field && serde_json::from_str::<Value>(nothing).is_ok_and(|n| n == value)
        });
        (!value.is_null() && !neutral).then_some(value)
    }

    fn text(&mut self, field: &str) -> Result<Option<String>, ApiError> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(&self.name(field), &other, "a string")),
        }
    }

    fn read(&mut self, messages: &mut Messages, last: bool) -> Result<Ordered, ApiError> {
        let role = self.role()?;
        let mut object = vec![("role".to_owned(), Ordered::text(role))];
        object.push(("content".to_owned(), self.content(role)?));
        if let Some(name) = self.text("name")? {
            object.push(("name".to_owned(), Ordered::Text(name)));
        }
        match role {
            "assistant" => self.answer(messages, last, &mut object)?,
            "tool" => {
                if let Some(id) = self.text("tool_call_id")? {
                    object.push(("tool_call_id".to_owned(), Ordered::Text(id)));
                }
            }
            _ => {}
        }
        Ok(Ordered::Object(object))
    }

    fn role(&mut self) -> Result<&'static str, ApiError> {
        let field = self.name("role");
        let role = match self.left.remove("role") {
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

    fn content(&mut self, role: &str) -> Result<Ordered, ApiError> {
        let field = self.name("content");
        match self.left.remove("content") {
            Some(Value::String(text)) => Ok(Ordered::Text(text)),
            Some(Value::Array(items)) => {
                let part = |(at, item)| part(format!("{field}[{at}]"), item);
                let parts = items.into_iter().enumerate().map(part);
                parts.collect::<Result<_, _>>().map(Ordered::List)
            }
            None | Some(Value::Null) if role == "assistant" => Ok(Ordered::text("")),
            other => {
                let other = other.unwrap_or(Value::Null);
                Err(wrong(&field, &other, "a string or a list of text parts"))
            }
        }
    }

    /// What only an assistant's message has.
    fn answer(
        &mut self,
        messages: &mut Messages,
        last: bool,
        object: &mut Vec<(String, Ordered)>,
    ) -> Result<(), ApiError> {
        let reasoning = match (self.text("reasoning_content")?, self.text("reasoning")?) {
            (Some(one), Some(other)) if one != other => {
                let field = self.name("reasoning");
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
        if let Some(calls) = self.take("tool_calls") {
            let field = self.name("tool_calls");
            object.push(("tool_calls".to_owned(), tool_calls(&field, calls)?));
            messages.wanted.push((field, "tool_calls"));
        }
        match self.take("prefix") {
            None => {}
            Some(Value::Bool(_)) if last => messages.prefix = true,
            Some(Value::Bool(_)) => {
                let why = "only the last message can be continued";
                return Err(ApiError::unsupported(&self.name("prefix"), why));
            }
            Some(other) => return Err(wrong(&self.name("prefix"), &other, "true or false")),
        }
        Ok(())
    }

    /// Refuses what is left and says something.
    fn finish(mut self) -> Result<(), ApiError> {
        let names: Vec<String> = self.left.keys().cloned().collect();
        for name in names {
            if self.take(&name).is_some() && !LABELS.contains(&name.as_str()) {
                let field: String = self.name(&name).chars().take(96).collect();
                return Err(ApiError::unsupported(&field, "not supported in this place"));
            }
        }
        Ok(())
    }
}

fn part(path: String, item: Value) -> Result<Ordered, ApiError> {
    let Value::Object(left) = item else {
        return Err(wrong(&path, &item, "an object with type and text"));
    };
    let mut part = Message { path, left };
    let field = part.name("type");
    match part.text("type")?.as_deref() {
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
    let text = match part.left.remove("text") {
        Some(Value::String(text)) => text,
        other => {
            let other = other.unwrap_or(Value::Null);
            return Err(wrong(&part.name("text"), &other, "a string"));
        }
    };
    part.finish()?;
    Ok(Ordered::Object(vec![
        ("type".to_owned(), Ordered::text("text")),
        ("text".to_owned(), Ordered::Text(text)),
    ]))
}
