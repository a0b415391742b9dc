//! Filters that take sequences apart and put them together.

use super::super::Interpreter;
use super::super::arguments::{Args, needed, size_of};
use super::super::error::{Stop, failed};
use super::super::test_holds;
use super::super::text::text;
use super::super::value::Value;
use super::{apply as filter, attribute_of};

pub(super) fn apply(
    interpreter: &mut Interpreter,
    name: &str,
    value: &Value,
    args: Args,
) -> Result<Value, Stop> {
    match name {
        "length" | "count" => {
            args.none(name)?;
            match value.len() {
                Some(length) => Ok(Value::count(length)),
                None => failed(format!(
                    "object of type '{}' has no len()",
                    value.type_name()
                )),
            }
        }
        "first" => {
            args.none(name)?;
            Ok(match value {
                Value::Once(items) => items.borrow_mut().pop_front(),
                other => other.items()?.into_iter().next(),
            }
            .unwrap_or(Value::Undefined))
        }
        "last" => {
            args.none(name)?;
            match value {
                Value::Once(_) => failed("'generator' object is not reversible"),
                other => Ok(other.items()?.pop().unwrap_or(Value::Undefined)),
            }
        }
        "list" => {
            args.none(name)?;
            Ok(Value::list(value.items()?))
        }
        "join" => {
            let [by, attribute] = args.bind(name, ["d", "attribute"])?;
            let by = by.map_or(Ok(String::new()), |by| text(&by))?;
            let mut texts = Vec::new();
            for item in value.items()? {
                texts.push(text(&attribute_of(&item, attribute.as_ref(), None)?)?);
            }
            Ok(Value::str(&texts.join(&by)))
        }
        "reverse" => {
            args.none(name)?;
            let mut items = value.items()?;
            items.reverse();
            match value {
                Value::Str(text) => Ok(Value::str(&text.chars().rev().collect::<String>())),
                Value::Once(_) => Ok(Value::list(items)),
                _ => Ok(Value::once(items)),
            }
        }
        "items" => {
            args.none(name)?;
            match value {
                Value::Undefined => Ok(Value::once(Vec::new())),
                Value::Dict(dict) => {
                    let pair = |(key, value): &(Value, Value)| {
                        Value::tuple(vec![key.clone(), value.clone()])
                    };
                    Ok(Value::once(dict.iter().map(pair).collect()))
                }
                _ => failed("can only get item pairs from a mapping"),
            }
        }
        "batch" | "slice" => {
            let [count, fill] = args.bind(name, ["/count", "fill_with"])?;
            let count = size_of(&needed(count, name, "count")?, name)?;
            let items = value.items()?;
            let fill = fill.filter(|fill| !matches!(fill, Value::None));
            interpreter.steps_of(count)?;
            let parts = match name {
                "batch" => batch(items, count, fill),
                _ => slice(&items, count, fill)?,
            };
            Ok(Value::once(parts.into_iter().map(Value::list).collect()))
        }
        "map" => map(interpreter, value, args),
        _ => select(interpreter, name, value, args),
    }
}

fn batch(items: Vec<Value>, size: usize, fill: Option<Value>) -> Vec<Vec<Value>> {
    let mut parts: Vec<Vec<Value>> = Vec::new();
    let mut part = Vec::new();
    for item in items {
        if part.len() == size {
            parts.push(std::mem::take(&mut part));
        }
        part.push(item);
    }
    if !part.is_empty() {
        if let Some(fill) = fill
            && part.len() < size
        {
            part.resize(size, fill);
        }
        parts.push(part);
    }
    // A size of zero: an empty part before each item, as Jinja2 has it.
    parts
}

fn slice(items: &[Value], slices: usize, fill: Option<Value>) -> Result<Vec<Vec<Value>>, Stop> {
    if slices == 0 {
        return failed("integer division or modulo by zero");
    }
    let (each, extra) = (items.len() / slices, items.len() % slices);
    let mut at = 0;
    let mut parts = Vec::new();
    for number in 0..slices {
        let size = each + usize::from(number < extra);
        let mut part = items[at..at + size].to_vec();
        at += size;
        if let Some(fill) = &fill
            && number >= extra
        {
            part.push(fill.clone());
        }
        parts.push(part);
    }
    Ok(parts)
}

fn map(interpreter: &mut Interpreter, value: &Value, args: Args) -> Result<Value, Stop> {
    if !value.is_true() {
        return Ok(Value::once(Vec::new()));
    }
    let mut out = Vec::new();
    if args.positional.is_empty() && args.named.iter().any(|(name, _)| &**name == "attribute") {
        let [attribute, default] = args.bind("map", ["attribute", "default"])?;
        let default = default.filter(|default| !matches!(default, Value::None));
        for item in value.items()? {
            out.push(attribute_of(&item, attribute.as_ref(), default.as_ref())?);
        }
        return Ok(Value::once(out));
    }
    let Some(name) = args.positional.first().cloned() else {
        return failed("map requires a filter argument");
    };
    let name = text(&name)?;
    let rest = Interpreter::rest_of(args, 1);
    for item in value.items()? {
        out.push(filter(interpreter, &name, item, rest.clone())?);
    }
    Ok(Value::once(out))
}

/// `select`, `reject` and their kin with `attr`.
fn select(
    interpreter: &mut Interpreter,
    name: &str,
    value: &Value,
    args: Args,
) -> Result<Value, Stop> {
    if !value.is_true() {
        return Ok(Value::once(Vec::new()));
    }
    let attribute = if name.ends_with("attr") {
        match args.positional.first() {
            Some(attribute) => Some(attribute.clone()),
            None => return failed("Missing parameter for attribute name"),
        }
    } else {
        None
    };
    let taken = usize::from(attribute.is_some());
    let test = match args.positional.get(taken) {
        Some(test) => Some(text(test)?),
        None => None,
    };
    let rest = Interpreter::rest_of(args, taken + 1);
    let mut kept = Vec::new();
    for item in value.items()? {
        interpreter.step()?;
        let tested = attribute_of(&item, attribute.as_ref(), None)?;
        let holds = match &test {
            Some(test) => test_holds(test, &tested, rest.clone())?,
            None => tested.is_true(),
        };
        if holds != name.starts_with("reject") {
            kept.push(item);
        }
    }
    Ok(Value::once(kept))
}
