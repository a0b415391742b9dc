//! How Python writes values: `str` and `repr`.

use std::fmt::Write as _;

use super::error::{Stop, failed, unsupported};
use super::hidden;
use super::value::{Dict, Value, View};

/// Nesting that is written, as deep as JSON from a client.
pub(super) const DEPTH_MAX: usize = 128;

/// Python's white space: Unicode's, and the four separators of ASCII.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `str(value)`.
pub(super) fn text(value: &Value) -> Result<String, Stop> {
    match value {
        Value::Undefined => Ok(String::new()),
        Value::Str(text) | Value::Markup(text) => Ok(text.to_string()),
        other => repr(other),
    }
}

/// `repr(value)`.
pub(super) fn repr(value: &Value) -> Result<String, Stop> {
    let mut out = String::new();
    write(&mut out, value, 0)?;
    Ok(out)
}

fn write(out: &mut String, value: &Value, depth: usize) -> Result<(), Stop> {
    if depth > DEPTH_MAX {
        return failed(format!("a value nested deeper than {DEPTH_MAX} is written"));
    }
    match value {
        Value::Undefined => out.push_str("Undefined"),
        Value::None => out.push_str("None"),
        Value::Bool(flag) => out.push_str(if *flag { "True" } else { "False" }),
        Value::Int(number) => {
            let _ = write!(out, "{number}");
        }
        Value::Float(number) => out.push_str(&float(*number)),
        Value::Str(text) => quote(out, text),
        Value::Markup(text) => {
            out.push_str("Markup(");
            quote(out, text);
            out.push(')');
        }
        Value::List(items) => list(out, "[", items, "]", depth)?,
        Value::Tuple(items) if items.len() == 1 => list(out, "(", items, ",)", depth)?,
        Value::Tuple(items) => list(out, "(", items, ")", depth)?,
        Value::Dict(dict) => {
            out.push('{');
            for (at, (key, value)) in dict.iter().enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                write(out, key, depth + 1)?;
                out.push_str(": ");
                write(out, value, depth + 1)?;
            }
            out.push('}');
        }
        Value::View(view, items) => {
            out.push_str(match view {
                View::Keys => "dict_keys(",
                View::Values => "dict_values(",
                View::Items => "dict_items(",
            });
            list(out, "[", items, "])", depth)?;
        }
        Value::Range(range) => {
            let _ = write!(out, "range({}, {}", range.start, range.stop);
            if range.step != 1 {
                let _ = write!(out, ", {}", range.step);
            }
            out.push(')');
        }
        other => return unsupported(&format!("writing a {}", other.type_name())),
    }
    Ok(())
}

fn list(
    out: &mut String,
    open: &str,
    items: &[Value],
    close: &str,
    depth: usize,
) -> Result<(), Stop> {
    out.push_str(open);
    for (at, item) in items.iter().enumerate() {
        out.push_str(if at > 0 { ", " } else { "" });
        write(out, item, depth + 1)?;
    }
    out.push_str(close);
    Ok(())
}

/// The shortest digits that give the number back, as Python places them.
pub(super) fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{number}");
        return if plain.contains('.') {
            plain
        } else {
            plain + ".0"
        };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

fn quote(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if is_printable(c) || hidden::stands_for(c).is_some() => out.push(c),
            c => {
                let code = u32::from(c);
                let _ = match code {
                    0..=0xff => write!(out, "\\x{code:02x}"),
                    0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(quote);
}

/// Python's `str.isprintable`. Rust's debug form escapes the same categories; a letter before it
/// keeps marks that join to a letter from being escaped too.
pub(super) fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return (' '..='~').contains(&c);
    }
    let pair: String = ['a', c].iter().collect();
    !pair.escape_debug().to_string().contains("\\u{")
}

/// Whether `dict` may be given as keyword arguments.
pub(super) fn names_of(dict: &Dict) -> Result<Vec<(String, Value)>, Stop> {
    let pair = |(key, value): &(Value, Value)| match key {
        Value::Str(name) => Ok((name.to_string(), value.clone())),
        _ => failed("keywords must be strings"),
    };
    dict.iter().map(pair).collect()
}
