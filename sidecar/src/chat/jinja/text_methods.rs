//! The methods of texts that the sandbox lets templates call; what they do is in `strings`.

use std::sync::Arc;

use super::arguments::{Args, needed, size_of, text_of, whole_of};
use super::error::{Stop, failed, unsupported};
use super::format;
use super::strings;
use super::text::{is_printable, is_space};
use super::value::Value;

pub(super) fn of_str(subject: &Arc<str>, name: &str, args: Args) -> Result<Value, Stop> {
    let all = |args: Args, test: fn(char) -> bool| {
        args.none(name)?;
        Ok(Value::Bool(
            !subject.is_empty() && subject.chars().all(test),
        ))
    };
    let plain = |args: Args, change: fn(&str) -> String| {
        args.none(name)?;
        Ok(Value::str(&change(subject)))
    };
    match name {
        "upper" => plain(args, str::to_uppercase),
        "lower" => plain(args, str::to_lowercase),
        "capitalize" => plain(args, strings::capitalized),
        "title" => plain(args, strings::title),
        "swapcase" => plain(args, strings::swapped),
        "strip" | "lstrip" | "rstrip" => strip(subject, name, args),
        "split" | "rsplit" => split(subject, name, args),
        "partition" | "rpartition" => partition(subject, name, args),
        "splitlines" => {
            let [keep] = args.bind(name, ["keepends"])?;
            let lines = strings::lines(subject, keep.is_some_and(|keep| keep.is_true()));
            Ok(Value::list(
                lines.iter().map(|line| Value::str(line)).collect(),
            ))
        }
        "startswith" | "endswith" => affix(subject, name, args),
        "removeprefix" | "removesuffix" => {
            let [part] = args.bind(name, ["/part"])?;
            let part = text_of(&needed(part, name, "part")?, name)?;
            let rest = match name {
                "removeprefix" => subject.strip_prefix(&*part),
                _ => subject.strip_suffix(&*part),
            };
            Ok(Value::str(rest.unwrap_or(subject)))
        }
        "find" | "rfind" | "index" | "rindex" | "count" => search(subject, name, args),
        "replace" => {
            let [old, new, count] = args.bind(name, ["/old", "/new", "/count"])?;
            let old = text_of(&needed(old, name, "old")?, name)?;
            let new = text_of(&needed(new, name, "new")?, name)?;
            let count = match count {
                None => None,
                Some(count) => usize::try_from(whole_of(&count, name)?).ok(),
            };
            Ok(Value::str(&strings::replaced(subject, &old, &new, count)))
        }
        "join" => {
            let [items] = args.bind(name, ["/iterable"])?;
            let mut texts = Vec::new();
            for item in needed(items, name, "iterable")?.items()? {
                texts.push(text_of(&item, name)?);
            }
            let texts: Vec<&str> = texts.iter().map(|text| &**text).collect();
            Ok(Value::str(&texts.join(subject)))
        }
        "center" | "ljust" | "rjust" => {
            let [width, fill] = args.bind(name, ["/width", "/fillchar"])?;
            let width = size_of(&needed(width, name, "width")?, name)?;
            let fill = match fill {
                None => ' ',
                Some(fill) => one_char(&text_of(&fill, name)?)?,
            };
            Ok(Value::str(&match name {
                "center" => strings::centred(subject, width, fill),
                _ => strings::padded(subject, width, fill, name == "rjust"),
            }))
        }
        "zfill" => {
            let [width] = args.bind(name, ["/width"])?;
            let width = size_of(&needed(width, name, "width")?, name)?;
            Ok(Value::str(&strings::zero_filled(subject, width)))
        }
        "expandtabs" => {
            let [size] = args.bind(name, ["tabsize"])?;
            let size = size.map_or(Ok(8), |size| size_of(&size, name))?;
            if subject.matches('\t').count().saturating_mul(size) > 1 << 24 {
                return failed("expandtabs makes too many blanks");
            }
            Ok(Value::str(&strings::expanded_tabs(subject, size)))
        }
        "format" => Ok(Value::str(&format::braces(subject, &args)?)),
        "isalpha" => all(args, char::is_alphabetic),
        "isalnum" => all(args, char::is_alphanumeric),
        "isspace" => all(args, is_space),
        "isdigit" | "isdecimal" | "isnumeric" if subject.is_ascii() => {
            all(args, |c| c.is_ascii_digit())
        }
        "isprintable" => {
            args.none(name)?;
            Ok(Value::Bool(subject.chars().all(is_printable)))
        }
        "isascii" => {
            args.none(name)?;
            Ok(Value::Bool(subject.is_ascii()))
        }
        "islower" => {
            args.none(name)?;
            Ok(Value::Bool(strings::is_lower(subject)))
        }
        "isupper" => {
            args.none(name)?;
            Ok(Value::Bool(strings::is_upper(subject)))
        }
        "istitle" => {
            args.none(name)?;
            Ok(Value::Bool(strings::is_title(subject)))
        }
        "isidentifier" if subject.is_ascii() => {
            args.none(name)?;
            let starts = subject.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
            let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            Ok(Value::Bool(starts && subject.chars().all(word)))
        }
        "casefold" if subject.is_ascii() => plain(args, str::to_lowercase),
        _ => unsupported(&format!("the method '{name}' of this text")),
    }
}

fn strip(subject: &str, name: &str, args: Args) -> Result<Value, Stop> {
    let [chars] = args.bind(name, ["/chars"])?;
    let set: Option<Vec<char>> = match chars {
        None | Some(Value::None) => None,
        Some(chars) => Some(text_of(&chars, name)?.chars().collect()),
    };
    let cut = |c: char| {
        set.as_ref()
            .map_or_else(|| is_space(c), |set| set.contains(&c))
    };
    Ok(Value::str(match name {
        "strip" => subject.trim_matches(cut),
        "lstrip" => subject.trim_start_matches(cut),
        _ => subject.trim_end_matches(cut),
    }))
}

fn split(subject: &str, name: &str, args: Args) -> Result<Value, Stop> {
    let [by, most] = args.bind(name, ["sep", "maxsplit"])?;
    // Below zero: as many as there are.
    let most = match most {
        None => None,
        Some(most) => usize::try_from(whole_of(&most, name)?).ok(),
    };
    let from_right = name == "rsplit";
    let pieces = match by {
        None | Some(Value::None) => strings::split_blanks(subject, most, from_right),
        Some(by) => strings::split(subject, &text_of(&by, name)?, most, from_right)?,
    };
    Ok(Value::list(
        pieces.iter().map(|piece| Value::str(piece)).collect(),
    ))
}

fn partition(subject: &str, name: &str, args: Args) -> Result<Value, Stop> {
    let [by] = args.bind(name, ["/sep"])?;
    let by = text_of(&needed(by, name, "sep")?, name)?;
    if by.is_empty() {
        return failed("empty separator");
    }
    let parts = match name {
        "partition" => subject
            .split_once(&*by)
            .map_or([subject, "", ""], |(a, b)| [a, &by, b]),
        _ => subject
            .rsplit_once(&*by)
            .map_or(["", "", subject], |(a, b)| [a, &by, b]),
    };
    Ok(Value::tuple(parts.map(Value::str).to_vec()))
}

fn affix(subject: &str, name: &str, args: Args) -> Result<Value, Stop> {
    let [part, start, end] = args.bind(name, ["/part", "/start", "/end"])?;
    let part = needed(part, name, "part")?;
    let parts = match &part {
        Value::Tuple(parts) => parts.to_vec(),
        other => vec![other.clone()],
    };
    let Some((from, to)) = strings::bounds(subject, place(start, name)?, place(end, name)?) else {
        return Ok(Value::Bool(false));
    };
    let within = &subject[from..to];
    for part in parts {
        let part = text_of(&part, name)?;
        let fits = match name {
            "startswith" => within.starts_with(&*part),
            _ => within.ends_with(&*part),
        };
        if fits {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}

fn search(subject: &str, name: &str, args: Args) -> Result<Value, Stop> {
    let [part, start, end] = args.bind(name, ["/part", "/start", "/end"])?;
    let part = text_of(&needed(part, name, "part")?, name)?;
    let within = (place(start, name)?, place(end, name)?);
    if name == "count" {
        let Some((from, to)) = strings::bounds(subject, within.0, within.1) else {
            return Ok(Value::Int(0));
        };
        let within = &subject[from..to];
        return Ok(Value::count(match part.is_empty() {
            true => within.chars().count() + 1,
            false => within.matches(&*part).count(),
        }));
    }
    match strings::find(subject, &part, within, name.starts_with('r')) {
        Some(at) => Ok(Value::count(at)),
        None if name.ends_with("index") => failed("substring not found"),
        None => Ok(Value::Int(-1)),
    }
}

fn place(value: Option<Value>, name: &str) -> Result<Option<i128>, Stop> {
    match value {
        None | Some(Value::None) => Ok(None),
        Some(value) => whole_of(&value, name).map(Some),
    }
}

fn one_char(text: &str) -> Result<char, Stop> {
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(c), None) => Ok(c),
        _ => failed("the fill character must be exactly one character long"),
    }
}
