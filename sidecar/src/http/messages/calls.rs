//! Calls of tools in what an assistant said.

use serde_json::Value;

use crate::chat::Ordered;
use crate::http::decisions;
use crate::http::error::ApiError;
use crate::http::fields::{Fields, wrong};

/// Calls of tools, whose arguments templates want as an object: vLLM reads them so, too.
pub(super) fn tool_calls(field: &str, calls: Value) -> Result<Ordered, ApiError> {
    let Value::Array(calls) = calls else {
        return Err(wrong(field, &calls, "a list of calls"));
    };
    let call = |(at, call): (usize, Value)| {
        let mut call = Fields::of(&format!("{field}[{at}]"), call)?;
        call.settle(decisions::CALL)?;
        let id = call.string("id")?;
        let Some(mut function) = call.object("function")? else {
            return Err(wrong(&call.name("function"), &Value::Null, "an object"));
        };
        call.finish()?;
        function.settle(decisions::FUNCTION)?;
        let named = function.name("name");
        let Some(name) = function.string("name")? else {
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

fn arguments(function: &mut Fields) -> Result<Ordered, ApiError> {
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
