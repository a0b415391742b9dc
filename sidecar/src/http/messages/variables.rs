//! Variables that a request hands to the template.

use serde_json::Value;

use crate::chat::{Ordered, is_beyond};
use crate::http::error::ApiError;
use crate::http::fields::{Fields, wrong};

/// Variables for the template: `chat_template_kwargs`.
pub fn variables(fields: &mut Fields) -> Result<Vec<(String, Ordered)>, ApiError> {
    const FIELD: &str = "chat_template_kwargs";
    let given = match fields.take(FIELD) {
        None => return Ok(Vec::new()),
        Some(Value::Object(given)) => given,
        Some(other) => return Err(wrong(FIELD, &other, "an object")),
    };
    let mut variables = Vec::new();
    for (name, value) in given {
        let field = format!("{FIELD}.{}", name.chars().take(64).collect::<String>());
        let taken = [
            "messages",
            "tools",
            "documents",
            "add_generation_prompt",
            "continue_final_message",
            "chat_template",
            "tokenize",
        ];
        if taken.contains(&name.as_str()) {
            return Err(ApiError::unsupported(
                &field,
                "this is no variable for templates",
            ));
        }
        if is_disordered(&value) {
            let why = "objects with several fields are not supported: their order would be lost";
            return Err(ApiError::unsupported(&field, why));
        }
        if has_beyond(&value) {
            let why = "whole numbers beyond 64 bits are not supported: their digits would be lost";
            return Err(ApiError::unsupported(&field, why));
        }
        variables.push((name, Ordered::from(&value)));
    }
    Ok(variables)
}

fn is_disordered(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.len() > 1 || fields.values().any(is_disordered),
        Value::Array(items) => items.iter().any(is_disordered),
        _ => false,
    }
}

fn has_beyond(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64() && number.as_f64().is_some_and(is_beyond),
        Value::Object(fields) => fields.values().any(has_beyond),
        Value::Array(items) => items.iter().any(has_beyond),
        _ => false,
    }
}

/// Whether a variable that the template never names says nothing there.
pub fn says_nothing(value: &Ordered) -> bool {
    matches!(value, Ordered::Null | Ordered::Bool(false))
}
