//! JSON as Python's `json.dumps(value, ensure_ascii=False)` writes it: models saw it in training.

use std::fmt::Write as _;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

/// Nesting that is written; messages from JSON are at most as deep.
const DEPTH_MAX: usize = 128;

pub(super) fn json(value: &Value, indent: Option<usize>) -> Result<Value, Error> {
    let mut out = String::new();
    write(&mut out, value, indent, 0)?;
    Ok(Value::from(out))
}

fn write(
    out: &mut String,
    value: &Value,
    indent: Option<usize>,
    depth: usize,
) -> Result<(), Error> {
    if depth > DEPTH_MAX {
        return Err(refuse("a value nested deeper than 128"));
    }
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => {
            // A number's text is JSON's too.
            let _ = write!(out, "{value}");
        }
        ValueKind::String => quote(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.collect();
            list(out, '[', ']', &items, indent, depth, |out, item| {
                write(out, item, indent, depth + 1)
            })?;
        }
        ValueKind::Map => {
            let keys: Vec<Value> = value.try_iter()?.collect();
            list(out, '{', '}', &keys, indent, depth, |out, key| {
                quote(out, &key.to_string());
                out.push_str(": ");
                write(out, &value.get_item(key)?, indent, depth + 1)
            })?;
        }
        other => return Err(refuse(&format!("a value of kind {other}"))),
    }
    Ok(())
}

fn list(
    out: &mut String,
    open: char,
    close: char,
    items: &[Value],
    indent: Option<usize>,
    depth: usize,
    mut item: impl FnMut(&mut String, &Value) -> Result<(), Error>,
) -> Result<(), Error> {
    let line = |out: &mut String, depth: usize| {
        if let Some(indent) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent.min(16) * depth));
        }
    };
    out.push(open);
    for (at, value) in items.iter().enumerate() {
        if at > 0 {
            out.push_str(if indent.is_some() { "," } else { ", " });
        }
        line(out, depth + 1);
        item(out, value)?;
    }
    if !items.is_empty() {
        line(out, depth);
    }
    out.push(close);
    Ok(())
}

fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn refuse(what: &str) -> Error {
    Error::new(
        ErrorKind::BadSerialization,
        format!("tojson: {what} is not JSON"),
    )
}
