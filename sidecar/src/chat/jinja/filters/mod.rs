//! `value | filter`: Jinja2's filters, by what they work on.

mod numbers;
mod order;
mod sequences;
mod words;

use std::sync::Arc;

use super::Interpreter;
use super::access;
use super::arguments::{Args, needed};
use super::error::{Stop, failed, unsupported};
use super::json;
use super::text::{repr, text};
use super::value::Value;

/// Jinja2 has these; what they write depends on chance, on HTML or on Python's own layout.
const ABSENT: [&str; 8] = [
    "filesizeformat",
    "pprint",
    "random",
    "striptags",
    "urlize",
    "wordwrap",
    "xmlattr",
    "forceescape",
];

const NAMES: [&str; 46] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "first",
    "float",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "wordcount",
];

pub(super) fn exists(name: &str) -> bool {
    NAMES.contains(&name) || ABSENT.contains(&name)
}

pub(super) fn apply(
    interpreter: &mut Interpreter,
    name: &str,
    value: Value,
    args: Args,
) -> Result<Value, Stop> {
    interpreter.step()?;
    interpreter.steps_of(value.len().unwrap_or(0) / 256)?;
    match name {
        "default" | "d" => {
            let [default, boolean] = args.bind(name, ["default_value", "boolean"])?;
            let absent = match &value {
                Value::Undefined => true,
                other => boolean.is_some_and(|flag| flag.is_true()) && !other.is_true(),
            };
            Ok(match absent {
                true => default.unwrap_or_else(|| Value::str("")),
                false => value,
            })
        }
        "tojson" => Ok(Value::str(&json::dumps(&value, args)?)),
        "string" => {
            args.none(name)?;
            match &value {
                Value::Markup(_) => Ok(value),
                other => Ok(Value::str(&text(other)?)),
            }
        }
        "safe" | "escape" | "e" => {
            args.none(name)?;
            let shown = text(&value)?;
            Ok(match (name, &value) {
                ("safe", _) | (_, Value::Markup(_)) => Value::Markup(Arc::from(shown)),
                _ => Value::Markup(Arc::from(words::escaped(&shown))),
            })
        }
        "attr" => {
            let [attribute] = args.bind(name, ["name"])?;
            let attribute = Arc::from(text(&needed(attribute, name, "name")?)?);
            if matches!(value, Value::Dict(_)) && access::is_item(&value, &attribute) {
                return Ok(Value::Undefined);
            }
            access::attribute(&value, &attribute)
        }
        "abs" | "int" | "float" | "round" | "sum" => numbers::apply(name, &value, args),
        "sort" | "dictsort" | "min" | "max" | "unique" | "groupby" => {
            order::apply(name, &value, args)
        }
        "upper" | "lower" | "capitalize" | "title" | "trim" | "center" | "replace" | "indent"
        | "truncate" | "wordcount" | "urlencode" | "format" => words::apply(name, &value, args),
        _ if ABSENT.contains(&name) => unsupported(&format!("the filter '{name}'")),
        _ if exists(name) => sequences::apply(interpreter, name, &value, args),
        _ => failed(format!("no filter named '{name}'")),
    }
}

/// How `attribute=` reads: `a.b`, numbers as places; nothing: the item itself.
pub(super) fn attribute_of(
    item: &Value,
    attribute: Option<&Value>,
    default: Option<&Value>,
) -> Result<Value, Stop> {
    let step = |item: &Value, key: &Value| {
        let found = access::item(item, key)?;
        Ok(match (found, default) {
            (Value::Undefined, Some(default)) => default.clone(),
            (found, _) => found,
        })
    };
    match attribute {
        None | Some(Value::None) => Ok(item.clone()),
        Some(Value::Str(path)) => {
            let mut found = item.clone();
            for part in path.split('.') {
                let key = match part.parse::<i128>() {
                    Ok(at) if part.bytes().all(|b| b.is_ascii_digit()) => Value::Int(at),
                    _ => Value::str(part),
                };
                found = step(&found, &key)?;
            }
            Ok(found)
        }
        Some(key @ Value::Int(_)) => step(item, key),
        Some(other) => failed(format!("no attribute is named {}", repr(other)?)),
    }
}

/// Letters that differ only in size are one where a filter does not tell them apart.
pub(super) fn folded(value: Value, case_sensitive: bool) -> Value {
    match &value {
        Value::Str(text) if !case_sensitive => Value::str(&text.to_lowercase()),
        _ => value,
    }
}
