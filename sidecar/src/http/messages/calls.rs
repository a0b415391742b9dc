//! Calls of tools in what an assistant said.

use serde_json::Value;

use super::Message;
use crate::chat::Ordered;
use crate::http::error::ApiError;
use crate::http::fields::wrong;

/// Calls of tools, whose arguments templates want as an object: vLLM reads them so, too.
pub(super) fn tool_calls(field: &str, calls: Value) -> Result<Ordered, ApiError> {
    let Value::Array(calls) = calls else {
        return Err(wrong(field, &calls, "a list of calls"));
    };
    let call = |(at, call): (usize, Value)| {
        let path = format!("{field}[{at}]");
        let Value::Object(left) = call else {
            return Err(wrong(&path, &call, "an object"));
        };
        let mut call = Message { path, left };
        let id = call.text("id")?;
        let kind_of = call.text("type")?;
        if kind_of.is_some_and(|kind| kind != "function") {
            return Err(ApiError::unsupported(
                &call.name("type"),
                "only function is supported",
            ));
        }
        call.left.remove("index");
        let function = call.left.remove("function").unwrap_or(Value::Null);
        let Value::Object(left) = function else {
            return Err(wrong(&call.name("function"), &function, "an object"));
        };
        let mut function = Message {
            path: call.name("function"),
            left,
        };
        call.finish()?;
        let named = function.name("name");
        let Some(name) = function.text("name")? else {
            return Err(ApiError::invalid(Some(&named), format!("{named}: missing")));
        };
        let arguments = arguments(&mut function)?;
        function.finish()?;
        let mut object = Vec::new();
        if let Some(id) = id {
            object.push(("id".to_owned(), Ordered::Text(id)));
        }
        object.push(("type".to_owned(), Ordered::text("function")));
        object.push((
            "function".to_owned(),
            Ordered::Object(vec![
                ("name".to_owned(), Ordered::Text(name)),
                ("arguments".to_owned(), arguments),
            ]),
        ));
        Ok(Ordered::Object(object))
    };
    let calls = calls.into_iter().enumerate().map(call);
    calls.collect::<Result<_, _>>().map(Ordered::List)
}

fn arguments(function: &mut Message) -> Result<Ordered, ApiError> {
    let field = function.name("arguments");
    let expected = "a string that holds a JSON object, as answers have it";
    match function.take("arguments") {
        None => Ok(Ordered::Object(Vec::new())),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(Ordered::Object(Vec::new())),
        Some(Value::String(text)) => match serde_json::from_str(&text) {
            Ok(object @ Ordered::Object(_)) => Ok(object),
            Ok(_) => Err(ApiError::invalid(
                Some(&field),
                format!("{field}: must be {expected}"),
            )),
            Err(error) => {
                let message = format!("{field}: must be {expected}: {error}");
                Err(ApiError::invalid(Some(&field), message))
            }
        },
        Some(other) => Err(wrong(&field, &other, expected)),
    }
}
