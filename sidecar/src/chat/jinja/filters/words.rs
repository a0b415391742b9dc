//! Filters on texts.

use std::fmt::Write as _;

use super::super::arguments::{Args, needed, size_of, text_of, whole_of};
use super::super::error::{Stop, failed, unsupported};
use super::super::format::percent;
use super::super::strings;
use super::super::text::{is_space, text};
use super::super::value::{Dict, Value};

pub(super) fn apply(name: &str, value: &Value, args: Args) -> Result<Value, Stop> {
    if matches!(value, Value::Markup(_)) {
        return unsupported(&format!(
            "the filter '{name}' on text that `safe` or `escape` marked"
        ));
    }
    let shown = || text(value);
    match name {
        "upper" | "lower" | "capitalize" | "title" | "wordcount" => {
            args.none(name)?;
            let shown = shown()?;
            Ok(match name {
                "upper" => Value::str(&shown.to_uppercase()),
                "lower" => Value::str(&shown.to_lowercase()),
                "capitalize" => Value::str(&strings::capitalized(&shown)),
                "title" => Value::str(&title(&shown)),
                _ => Value::count(words(&shown)?),
            })
        }
        "trim" => {
            let [chars] = args.bind(name, ["chars"])?;
            let shown = shown()?;
            Ok(Value::str(match chars {
                None | Some(Value::None) => shown.trim_matches(is_space),
                Some(chars) => {
                    let set: Vec<char> = text_of(&chars, name)?.chars().collect();
                    shown.trim_matches(|c| set.contains(&c))
                }
            }))
        }
        "center" => {
            let [width] = args.bind(name, ["width"])?;
            let width = width.map_or(Ok(80), |width| size_of(&width, name))?;
            Ok(Value::str(&strings::centred(&shown()?, width, ' ')))
        }
        "replace" => {
            let [old, new, count] = args.bind(name, ["old", "new", "count"])?;
            let old = text(&needed(old, name, "old")?)?;
            let new = text(&needed(new, name, "new")?)?;
            let count = match count {
                None | Some(Value::None) => None,
                Some(count) => usize::try_from(whole_of(&count, name)?).ok(),
            };
            Ok(Value::str(&strings::replaced(&shown()?, &old, &new, count)))
        }
        "format" => {
            let Args { positional, named } = args;
            let values = match (positional.is_empty(), named.is_empty()) {
                (false, false) => {
                    return failed(
                        "can't handle positional and keyword arguments at the same time",
                    );
                }
                (true, false) => {
                    let mut dict = Dict::default();
                    for (name, value) in named {
                        dict.insert(Value::Str(name), value);
                    }
                    Value::Dict(dict.into())
                }
                _ => Value::tuple(positional),
            };
            Ok(Value::str(&percent(&shown()?, &values)?))
        }
        "indent" => indent(value, args),
        "truncate" => truncate(value, args),
        _ => {
            args.none(name)?;
            let pairs = match value {
                Value::Dict(dict) => dict.iter().cloned().collect(),
                Value::List(_) | Value::Tuple(_) | Value::View(..) => pairs_of(value)?,
                Value::Str(_) | Value::Int(_) | Value::Float(_) | Value::Bool(_) => {
                    return Ok(Value::str(&percent_encoded(&shown()?)));
                }
                other => {
                    let kind = other.type_name();
                    return unsupported(&format!("the filter 'urlencode' on a {kind}"));
                }
            };
            let mut query = Vec::new();
            for (key, value) in pairs {
                // In queries blanks are written as plus, and slashes are not plain.
                let encoded = |value: &Value| -> Result<String, Stop> {
                    let encoded = percent_encoded(&text(value)?);
                    Ok(encoded.replace('/', "%2F").replace("%20", "+"))
                };
                query.push(format!("{}={}", encoded(&key)?, encoded(&value)?));
            }
            Ok(Value::str(&query.join("&")))
        }
    }
}

/// Each word begins large; words begin behind blanks, hyphens and open brackets.
fn title(text: &str) -> String {
    let mut out = String::new();
    let mut begins = true;
    for c in text.chars() {
        let between = is_space(c) || "-({[<".contains(c);
        if between {
            out.push(c);
        } else if begins {
            out.extend(c.to_uppercase());
        } else {
            out.extend(c.to_lowercase());
        }
        begins = between;
    }
    out
}

fn words(text: &str) -> Result<usize, Stop> {
    let mut count = 0;
    let mut inside = false;
    for c in text.chars() {
        let word = c == '_' || c.is_alphanumeric();
        if word && !c.is_ascii() && !plain_letter(c) {
            return unsupported(&format!("counting words with the letter {c:?}"));
        }
        count += usize::from(word && !inside);
        inside = word;
    }
    Ok(count)
}

/// A letter that Python calls one, too: Rust also counts marks that some scripts join to letters.
pub(super) fn plain_letter(c: char) -> bool {
    c.is_lowercase()
        || c.is_uppercase()
        || c.is_numeric()
        || matches!(u32::from(c),
            0x5d0..=0x5ea | 0x620..=0x64a | 0x3041..=0x3096 | 0x30a1..=0x30fa | 0x3400..=0x4dbf
            | 0x4e00..=0x9fff | 0xac00..=0xd7a3 | 0x20000..=0x2fa1f)
}

fn indent(value: &Value, args: Args) -> Result<Value, Stop> {
    let [width, first, blank] = args.bind("indent", ["width", "first", "blank"])?;
    let truth = |flag: Option<Value>| flag.is_some_and(|flag| flag.is_true());
    let indention = match width {
        Some(Value::Str(text)) => text.to_string(),
        Some(width) => " ".repeat(size_of(&width, "indent")?),
        None => " ".repeat(4),
    };
    let subject = text_of(value, "indent")?.to_string() + "\n";
    let lines = strings::lines(&subject, false);
    if indention.len().saturating_mul(lines.len()) > 1 << 26 {
        return failed("indent makes more than 64 MiB of blanks");
    }
    let blank = truth(blank);
    let mut out = String::new();
    for (at, line) in lines.iter().enumerate() {
        if at > 0 {
            out.push('\n');
            if blank || !line.is_empty() {
                out.push_str(&indention);
            }
        }
        out.push_str(line);
    }
    Ok(Value::str(&if truth(first) {
        indention + &out
    } else {
        out
    }))
}

fn truncate(value: &Value, args: Args) -> Result<Value, Stop> {
    let names = ["length", "killwords", "end", "leeway"];
    let [length, killwords, end, leeway] = args.bind("truncate", names)?;
    let length = length.map_or(Ok(255), |length| size_of(&length, "truncate"))?;
    let leeway = match leeway {
        None | Some(Value::None) => 5,
        Some(leeway) => size_of(&leeway, "truncate")?,
    };
    let end = end.map_or(Ok("...".into()), |end| text_of(&end, "truncate"))?;
    let subject = text_of(value, "truncate")?;
    let Some(kept) = length.checked_sub(end.chars().count()) else {
        return failed(format!(
            "expected length >= {}, got {length}",
            end.chars().count()
        ));
    };
    if subject.chars().count() <= length + leeway {
        return Ok(Value::Str(subject));
    }
    let cut: String = subject.chars().take(kept).collect();
    let whole = match cut.rfind(' ') {
        Some(at) if !killwords.is_some_and(|flag| flag.is_true()) => &cut[..at],
        _ => &cut,
    };
    Ok(Value::str(&format!("{whole}{end}")))
}

fn pairs_of(value: &Value) -> Result<Vec<(Value, Value)>, Stop> {
    let pair = |item: Value| match <[Value; 2]>::try_from(item.items()?) {
        Ok([key, value]) => Ok((key, value)),
        Err(_) => failed("urlencode: an item that is no pair"),
    };
    value.items()?.into_iter().map(pair).collect()
}

fn percent_encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"_.-~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('\'', "&#39;")
        .replace('"', "&#34;")
}
