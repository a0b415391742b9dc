//! JSON as Python's `json.dumps` writes it, with transformers' defaults: models saw it in
//! training.

use std::cmp::Ordering;
use std::fmt::Write as _;

use super::arguments::{Args, text_of};
use super::compare::order;
use super::error::{Stop, failed};
use super::hidden;
use super::text::{DEPTH_MAX, float};
use super::value::Value;

struct Style {
    ascii: bool,
    /// None: one line.
    indent: Option<String>,
    between: String,
    after_key: String,
    sorted: bool,
}

pub(super) fn dumps(value: &Value, args: Args) -> Result<String, Stop> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [ascii, indent, separators, sorted] = args.bind("tojson", names)?;
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Str(indent)) => Some(indent.to_string()),
        Some(other) => Some(" ".repeat(super::arguments::size_of(&other, "tojson")?.min(1 << 10))),
    };
    let (between, after_key) = match separators {
        None | Some(Value::None) if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None | Some(Value::None) => (", ".to_owned(), ": ".to_owned()),
        Some(pair) => match pair.items()?.as_slice() {
            [between, after_key] => (
                text_of(between, "tojson")?.to_string(),
                text_of(after_key, "tojson")?.to_string(),
            ),
            _ => return failed("tojson: separators must be two texts"),
        },
    };
    let style = Style {
        ascii: ascii.is_some_and(|flag| flag.is_true()),
        indent,
        between,
        after_key,
        sorted: sorted.is_some_and(|flag| flag.is_true()),
    };
    let mut out = String::new();
    style.write(&mut out, value, 0)?;
    Ok(out)
}

impl Style {
    fn write(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Stop> {
        if depth > DEPTH_MAX {
            return failed(format!("tojson: a value nested deeper than {DEPTH_MAX}"));
        }
        match value {
            Value::Dict(dict) => {
                let mut entries: Vec<&(Value, Value)> = dict.iter().collect();
                if self.sorted {
                    sort(&mut entries)?;
                }
                self.items(out, ('{', '}'), &entries, depth, |out, (key, value)| {
                    self.quote(out, &key_of(key)?);
                    out.push_str(&self.after_key);
                    self.write(out, value, depth + 1)
                })
            }
            Value::List(items) | Value::Tuple(items) => {
                self.items(out, ('[', ']'), items, depth, |out, item| {
                    self.write(out, item, depth + 1)
                })
            }
            Value::Str(text) | Value::Markup(text) => {
                self.quote(out, text);
                Ok(())
            }
            other => match scalar(other) {
                Some(text) => {
                    out.push_str(&text);
                    Ok(())
                }
                None => failed(format!(
                    "tojson: object of type {} is not JSON serializable",
                    other.type_name()
                )),
            },
        }
    }

    fn items<T>(
        &self,
        out: &mut String,
        (open, close): (char, char),
        items: &[T],
        depth: usize,
        mut item: impl FnMut(&mut String, &T) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let line = |out: &mut String, depth: usize| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                out.extend(std::iter::repeat_n(indent.as_str(), depth));
            }
        };
        out.push(open);
        for (at, value) in items.iter().enumerate() {
            if at > 0 {
                out.push_str(&self.between);
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

    fn quote(&self, out: &mut String, text: &str) {
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
                c if self.ascii && !(' '..='~').contains(&c) => match hidden::stands_for(c) {
                    // Written out it would be ASCII: then it is no special token any more.
                    Some(text) if !text.is_ascii() => escape(out, &text),
                    Some(_) => out.push(c),
                    None => escape(out, c.encode_utf8(&mut [0; 4])),
                },
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// As UTF-16, each unit a code.
fn escape(out: &mut String, text: &str) {
    for c in text.chars() {
        if (' '..='~').contains(&c) {
            out.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04x}");
        }
    }
}

fn scalar(value: &Value) -> Option<String> {
    Some(match value {
        Value::None => "null".to_owned(),
        Value::Bool(true) => "true".to_owned(),
        Value::Bool(false) => "false".to_owned(),
        Value::Int(number) => number.to_string(),
        Value::Float(number) if number.is_nan() => "NaN".to_owned(),
        Value::Float(number) if number.is_infinite() => if *number > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .to_owned(),
        Value::Float(number) => float(*number),
        _ => return None,
    })
}

fn key_of(key: &Value) -> Result<String, Stop> {
    match key {
        Value::Str(text) | Value::Markup(text) => Ok(text.to_string()),
        other => match scalar(other) {
            Some(text) => Ok(text),
            None => failed(format!(
                "tojson: keys must be str, int, float, bool or None, not {}",
                other.type_name()
            )),
        },
    }
}

fn sort(entries: &mut [&(Value, Value)]) -> Result<(), Stop> {
    let mut problem = None;
    entries.sort_by(|(a, _), (b, _)| match order(a, b, "<") {
        Ok(order) => order.unwrap_or(Ordering::Equal),
        Err(stop) => {
            problem.get_or_insert(stop);
            Ordering::Equal
        }
    });
    problem.map_or(Ok(()), Err)
}
