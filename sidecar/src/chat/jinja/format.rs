//! `"%s" % value` and `"{}".format(value)`.

use std::iter::Peekable;
use std::str::Chars;
use std::sync::Arc;

use super::arguments::Args;
use super::error::{Stop, failed, unsupported};
use super::spec::{self, Spec};
use super::text::{repr, text};
use super::value::Value;
use super::{attribute, item};

/// Width of one field; more is a mistake or an attack.
const WIDTH_MAX: usize = 1 << 20;

/// Python's `format % value`.
pub(super) fn percent(format: &str, value: &Value) -> Result<String, Stop> {
    let positional: Vec<Value> = match value {
        Value::Tuple(items) => items.to_vec(),
        other => vec![other.clone()],
    };
    let mut taken = 0;
    let mut named = false;
    let mut out = String::new();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.peek() == Some(&'%') {
            chars.next();
            out.push('%');
            continue;
        }
        let mut argument = None;
        if chars.peek() == Some(&'(') {
            chars.next();
            let name = until_close(&mut chars)?;
            let Value::Dict(dict) = value else {
                return failed("format requires a mapping");
            };
            named = true;
            argument = Some(match dict.get_str(&name) {
                Some(found) => found.clone(),
                None => return failed(format!("no value for the format's '{name}'")),
            });
        }
        let mut next = || {
            let found = positional.get(taken).cloned();
            taken += 1;
            found.map_or_else(|| failed("not enough arguments for format string"), Ok)
        };
        let mut spec = Spec::default();
        while let Some(flag @ ('-' | '+' | ' ' | '0' | '#')) = chars.peek().copied() {
            chars.next();
            match flag {
                '-' => spec.align = Some('<'),
                '+' => spec.sign = '+',
                ' ' if spec.sign != '+' => spec.sign = ' ',
                '0' => spec.zero = true,
                '#' => spec.alternate = true,
                _ => {}
            }
        }
        spec.width = size(&mut chars, &mut next)?.unwrap_or(0);
        if chars.peek() == Some(&'.') {
            chars.next();
            spec.precision = Some(size(&mut chars, &mut next)?.unwrap_or(0));
        }
        while let Some('h' | 'l' | 'L') = chars.peek() {
            chars.next();
        }
        let Some(kind) = chars.next() else {
            return failed("incomplete format");
        };
        if kind == '%' {
            return unsupported("'%' with something between it and its own sign");
        }
        let argument = match argument {
            Some(argument) => argument,
            None => next()?,
        };
        out.push_str(&converted(&argument, kind, spec)?);
    }
    if !named && taken < positional.len() && !matches!(value, Value::Dict(_) | Value::List(_)) {
        return failed("not all arguments converted during string formatting");
    }
    Ok(out)
}

fn until_close(chars: &mut Peekable<Chars<'_>>) -> Result<String, Stop> {
    let mut name = String::new();
    let mut depth = 1;
    for c in chars {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Ok(name);
        }
        name.push(c);
    }
    failed("incomplete format key")
}

/// A width or precision: digits, or `*` for the next argument.
fn size(
    chars: &mut Peekable<Chars<'_>>,
    next: &mut impl FnMut() -> Result<Value, Stop>,
) -> Result<Option<usize>, Stop> {
    if chars.peek() == Some(&'*') {
        chars.next();
        return match next()?.as_int() {
            Some(width) if width >= 0 => {
                checked(usize::try_from(width).unwrap_or(usize::MAX)).map(Some)
            }
            Some(_) => unsupported("a negative width for '*' in a format"),
            None => failed("* wants int"),
        };
    }
    let mut number: Option<usize> = None;
    while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
        chars.next();
        let so_far = number.unwrap_or(0).saturating_mul(10);
        number = Some(checked(so_far.saturating_add(digit as usize))?);
    }
    Ok(number)
}

fn checked(width: usize) -> Result<usize, Stop> {
    if width > WIDTH_MAX {
        return failed(format!(
            "a width of {width} in a format, at most {WIDTH_MAX} is allowed"
        ));
    }
    Ok(width)
}

fn converted(value: &Value, kind: char, mut spec: Spec) -> Result<String, Stop> {
    match kind {
        's' | 'r' => {
            let whole = if kind == 's' {
                text(value)?
            } else {
                repr(value)?
            };
            spec.zero = false;
            spec.align.get_or_insert('>');
            Ok(spec.text(&whole))
        }
        'c' => match (value, value.as_int()) {
            (Value::Str(text), _) if text.chars().count() == 1 => {
                spec.zero = false;
                spec.align.get_or_insert('>');
                Ok(spec.text(text))
            }
            _ => unsupported("'%c' with another value than one character"),
        },
        'd' | 'i' | 'u' => {
            let number = match value {
                Value::Float(number) if number.is_finite() && number.abs() < 1e30 => {
                    #[expect(clippy::cast_possible_truncation, reason = "as Python's int(float)")]
                    let whole = number.trunc() as i128;
                    whole
                }
                other => match other.as_int() {
                    Some(number) => number,
                    None => {
                        return failed(format!(
                            "%{kind} format: a real number is required, not {}",
                            other.type_name()
                        ));
                    }
                },
            };
            let digits = spec.precision.take().unwrap_or(0);
            let magnitude = format!("{:0digits$}", number.unsigned_abs());
            Ok(spec.number(number < 0, "", &magnitude))
        }
        'x' | 'X' | 'o' => {
            let Some(number) = value.as_int() else {
                return failed(format!(
                    "%{kind} format: an integer is required, not {}",
                    value.type_name()
                ));
            };
            let magnitude = number.unsigned_abs();
            let (prefix, digits) = match kind {
                'x' => ("0x", format!("{magnitude:x}")),
                'X' => ("0X", format!("{magnitude:X}")),
                _ => ("0o", format!("{magnitude:o}")),
            };
            let prefix = if spec.alternate { prefix } else { "" };
            if spec.precision.take().is_some() {
                return unsupported(&format!("a precision for '%{kind}'"));
            }
            Ok(spec.number(number < 0, prefix, &digits))
        }
        'f' | 'F' | 'e' | 'E' | 'g' | 'G' => {
            let Some(number) = value.as_float() else {
                return failed(format!("must be real number, not {}", value.type_name()));
            };
            spec.float(number, kind)
        }
        other => failed(format!("unsupported format character {other:?}")),
    }
}

/// Python's `format.format(...)`.
pub(super) fn braces(format: &str, args: &Args) -> Result<String, Stop> {
    let mut next = 0;
    fields(format, args, &mut next, 2)
}

fn fields(format: &str, args: &Args, next: &mut usize, depth: usize) -> Result<String, Stop> {
    if depth == 0 {
        return failed("Max string recursion exceeded");
    }
    let mut out = String::new();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '{' if chars.peek() == Some(&'{') => {
                chars.next();
                out.push('{');
            }
            '}' if chars.peek() == Some(&'}') => {
                chars.next();
                out.push('}');
            }
            '}' => return failed("Single '}' encountered in format string"),
            '{' => {
                let mut field = String::new();
                let mut open = 1;
                for c in chars.by_ref() {
                    match c {
                        '{' => open += 1,
                        '}' => open -= 1,
                        _ => {}
                    }
                    if open == 0 {
                        break;
                    }
                    field.push(c);
                }
                if open > 0 {
                    return failed("expected '}' before end of string");
                }
                out.push_str(&replacement(&field, args, next, depth)?);
            }
            other => out.push(other),
        }
    }
    Ok(out)
}

fn replacement(field: &str, args: &Args, next: &mut usize, depth: usize) -> Result<String, Stop> {
    let (head, format) = field.split_once(':').unwrap_or((field, ""));
    let (name, conversion) = match head.split_once('!') {
        Some((name, conversion)) => (name, Some(conversion)),
        None => (head, None),
    };
    let value = named_value(name, args, next)?;
    let value = match conversion {
        None => value,
        Some("s") => Value::str(&text(&value)?),
        Some("r") => Value::str(&repr(&value)?),
        Some(other) => return unsupported(&format!("the conversion '!{other}' of a format")),
    };
    let format = if format.contains('{') {
        fields(format, args, next, depth - 1)?
    } else {
        format.to_owned()
    };
    spec::formatted(&value, &format)
}

/// `0`, `name`, with `.attribute` and `[item]` behind; nothing: the next argument.
fn named_value(name: &str, args: &Args, next: &mut usize) -> Result<Value, Stop> {
    let end = name.find(['.', '[']).unwrap_or(name.len());
    let (first, mut rest) = name.split_at(end);
    let place = |at: usize| match args.positional.get(at) {
        Some(value) => Ok(value.clone()),
        None => failed("Replacement index out of range for positional args tuple"),
    };
    let mut value = if first.is_empty() {
        *next += 1;
        place(*next - 1)?
    } else if let Ok(at) = first.parse::<usize>() {
        place(at)?
    } else {
        match args.named.iter().find(|(name, _)| &**name == first) {
            Some((_, value)) => value.clone(),
            None => return failed(format!("the format has no value for '{first}'")),
        }
    };
    while !rest.is_empty() {
        if let Some(behind) = rest.strip_prefix('[') {
            let Some((key, behind)) = behind.split_once(']') else {
                return failed("Missing ']' in format string");
            };
            let key = key.parse().map_or_else(|_| Value::str(key), Value::Int);
            value = item(&value, &key)?;
            rest = behind;
        } else if let Some(behind) = rest.strip_prefix('.') {
            let end = behind.find(['.', '[']).unwrap_or(behind.len());
            value = attribute(&value, &Arc::from(&behind[..end]))?;
            rest = &behind[end..];
        } else {
            return failed("Only '.' or '[' may follow ']' in format field specifier");
        }
        if matches!(value, Value::Undefined) {
            return failed(format!("the format has no value for '{name}'"));
        }
    }
    Ok(value)
}
