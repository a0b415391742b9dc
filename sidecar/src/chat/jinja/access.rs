//! `a.b`, `a[b]` and `a[b:c:d]` as Jinja2's sandbox reads them: an attribute before an item behind
//! a dot, an item before an attribute in brackets, else undefined.

use std::rc::Rc;
use std::sync::Arc;

use super::Looping;
use super::error::{Stop, failed, unsupported};
use super::methods;
use super::value::{Range, Value};

pub(super) fn attribute(value: &Value, name: &Arc<str>) -> Result<Value, Stop> {
    match attribute_of(value, name)? {
        Some(found) => Ok(found),
        None => Ok(entry(value, &Value::Str(Arc::clone(name))).unwrap_or(Value::Undefined)),
    }
}

pub(super) fn item(value: &Value, key: &Value) -> Result<Value, Stop> {
    if matches!(value, Value::Undefined) {
        return failed(format!(
            "a value is undefined; it has no item {}",
            shown(key)
        ));
    }
    if let Some(found) = entry(value, key) {
        return Ok(found);
    }
    match key {
        Value::Str(name) | Value::Markup(name) => {
            Ok(attribute_of(value, name)?.unwrap_or(Value::Undefined))
        }
        _ => Ok(Value::Undefined),
    }
}

fn shown(key: &Value) -> String {
    super::text::repr(key).unwrap_or_else(|_| key.type_name().to_owned())
}

/// What Python's `getattr` finds.
fn attribute_of(value: &Value, name: &Arc<str>) -> Result<Option<Value>, Stop> {
    if name.starts_with("__") {
        // What every Python object has and the sandbox gives to no template.
        return Ok(None);
    }
    let found = match value {
        Value::Undefined => {
            return failed(format!(
                "a value is undefined; it has no attribute '{name}'"
            ));
        }
        Value::Namespace(namespace) => namespace.borrow().get_str(name).cloned(),
        Value::Loop(looping) => loop_attribute(looping, name)?,
        Value::Macro(closure) => match &**name {
            "name" => Some(
                closure
                    .definition
                    .name
                    .clone()
                    .map_or(Value::None, Value::Str),
            ),
            "arguments" => Some(Value::tuple(
                closure
                    .definition
                    .parameters
                    .iter()
                    .map(|(name, _)| Value::Str(Arc::clone(name)))
                    .collect(),
            )),
            "caller" => Some(Value::Bool(closure.definition.uses_caller)),
            "catch_kwargs" => Some(Value::Bool(closure.definition.uses_kwargs)),
            "catch_varargs" => Some(Value::Bool(closure.definition.uses_varargs)),
            _ => None,
        },
        Value::Cycler(cycler) if &**name == "current" => {
            let at = *cycler.at.borrow();
            cycler.items.get(at).cloned()
        }
        Value::Int(_) | Value::Bool(_) | Value::Float(_)
            if ["real", "imag", "numerator", "denominator"].contains(&&**name) =>
        {
            return unsupported(&format!("the attribute '{name}' of a number"));
        }
        Value::Range(range) => match &**name {
            "start" => Some(Value::Int(range.start)),
            "stop" => Some(Value::Int(range.stop)),
            "step" => Some(Value::Int(range.step)),
            _ => None,
        },
        // What `groupby` gives has names for its parts in Jinja2, other tuples have not.
        Value::Tuple(parts) if parts.len() == 2 && ["grouper", "list"].contains(&&**name) => {
            return unsupported(&format!("'.{name}' of a group; use [0] and [1], which it"));
        }
        _ => None,
    };
    if found.is_some() {
        return Ok(found);
    }
    if methods::changes(value, name) {
        return Ok(Some(Value::Undefined));
    }
    if methods::exists(value, name) {
        return Ok(Some(Value::Method(
            Rc::new(value.clone()),
            Arc::clone(name),
        )));
    }
    Ok(None)
}

fn loop_attribute(looping: &Looping, name: &str) -> Result<Option<Value>, Stop> {
    let at = looping.at.get();
    // Read ahead before this is asked, see `Interpreter::look_ahead`.
    let items = looping.items.borrow();
    let length = items.len();
    let neighbour = |at: Option<usize>| {
        let item = at.and_then(|at| items.get(at));
        item.cloned().unwrap_or(Value::Undefined)
    };
    Ok(Some(match name {
        "index" => Value::count(at + 1),
        "index0" => Value::count(at),
        "revindex" => Value::count(length - at),
        "revindex0" => Value::count(length - at - 1),
        "first" => Value::Bool(at == 0),
        "last" => Value::Bool(at + 1 == length),
        "length" => Value::count(length),
        "depth" => Value::count(looping.depth + 1),
        "depth0" => Value::count(looping.depth),
        "previtem" => neighbour(at.checked_sub(1)),
        "nextitem" => neighbour(Some(at + 1)),
        _ => return Ok(None),
    }))
}

/// What Python's `value[key]` finds.
fn entry(value: &Value, key: &Value) -> Option<Value> {
    match value {
        Value::Dict(dict) => dict.get(key).cloned(),
        Value::List(items) | Value::Tuple(items) => {
            place(items.len(), key).map(|at| items[at].clone())
        }
        Value::Str(text) | Value::Markup(text) => {
            let at = place(text.chars().count(), key)?;
            let c = text.chars().nth(at)?;
            Some(Value::str(c.encode_utf8(&mut [0; 4])))
        }
        Value::Range(range) => place(range.len(), key).map(|at| range.get(at)),
        _ => None,
    }
}

/// The place that a Python index names, negative ones from the end.
fn place(length: usize, key: &Value) -> Option<usize> {
    let length = i128::try_from(length).ok()?;
    let at = key.as_int()?;
    let at = if at < 0 { at + length } else { at };
    (0..length)
        .contains(&at)
        .then(|| usize::try_from(at).ok())?
}

pub(super) fn slice(value: &Value, parts: [Option<Value>; 3]) -> Result<Value, Stop> {
    let length = match value {
        Value::Str(_) | Value::Markup(_) | Value::List(_) | Value::Tuple(_) | Value::Range(_) => {
            value.len().unwrap_or(0)
        }
        Value::Undefined => return failed("a value is undefined; it cannot be sliced"),
        other => return failed(format!("'{}' object cannot be sliced", other.type_name())),
    };
    let [start, stop, step] = indices(length, parts)?;
    let range = Range { start, stop, step };
    let places = (0..range.len()).filter_map(|at| match range.get(at) {
        Value::Int(at) => usize::try_from(at).ok(),
        _ => None,
    });
    Ok(match value {
        Value::List(items) => Value::list(places.map(|at| items[at].clone()).collect()),
        Value::Tuple(items) => Value::tuple(places.map(|at| items[at].clone()).collect()),
        Value::Range(of) => Value::Range(Range {
            start: of.start + start * of.step,
            stop: of.start + stop * of.step,
            step: of.step * step,
        }),
        Value::Str(text) | Value::Markup(text) => {
            let chars: Vec<char> = text.chars().collect();
            let part: String = places.map(|at| chars[at]).collect();
            match value {
                Value::Markup(_) => Value::Markup(Arc::from(part)),
                _ => Value::str(&part),
            }
        }
        other => other.clone(),
    })
}

/// Python's `slice(start, stop, step).indices(length)`.
fn indices(length: usize, parts: [Option<Value>; 3]) -> Result<[i128; 3], Stop> {
    let length = i128::try_from(length).unwrap_or(i128::MAX);
    let mut numbers = [None; 3];
    for (number, part) in numbers.iter_mut().zip(&parts) {
        *number = match part {
            None | Some(Value::None) => None,
            Some(part) => match part.as_int() {
                Some(number) => Some(number),
                None => {
                    return failed(
                        "slice indices must be integers or None or have an __index__ method",
                    );
                }
            },
        };
    }
    let [start, stop, step] = numbers;
    let step = step.unwrap_or(1);
    if step == 0 {
        return failed("slice step cannot be zero");
    }
    let (lowest, highest) = if step > 0 {
        (0, length)
    } else {
        (-1, length - 1)
    };
    let clamp = |number: i128| {
        let number = if number < 0 { number + length } else { number };
        number.clamp(lowest, highest)
    };
    let start = start.map_or(if step > 0 { lowest } else { highest }, clamp);
    let stop = stop.map_or(if step > 0 { highest } else { lowest }, clamp);
    Ok([start, stop, step])
}

/// Whether `value[name]` is there; `a.name` may be something else.
pub(super) fn is_item(value: &Value, name: &Arc<str>) -> bool {
    !methods::exists(value, name) && entry(value, &Value::Str(Arc::clone(name))).is_some()
}
