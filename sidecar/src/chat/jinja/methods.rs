//! The methods of Python's values that the sandbox lets templates call: those that change nothing.

use std::rc::Rc;

use super::Interpreter;
use super::arguments::{Args, needed};
use super::compare::equal;
use super::error::{Stop, failed, unsupported};
use super::text_methods::of_str;
use super::value::{Dict, Value, View};

const OF_STR: [&str; 47] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];
const OF_DICT: [&str; 11] = [
    "clear",
    "copy",
    "fromkeys",
    "get",
    "items",
    "keys",
    "pop",
    "popitem",
    "setdefault",
    "update",
    "values",
];
const OF_LIST: [&str; 11] = [
    "append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse",
    "sort",
];
const OF_INT: [&str; 6] = [
    "as_integer_ratio",
    "bit_count",
    "bit_length",
    "conjugate",
    "from_bytes",
    "to_bytes",
];
const OF_FLOAT: [&str; 5] = [
    "as_integer_ratio",
    "conjugate",
    "fromhex",
    "hex",
    "is_integer",
];

/// Whether Python's value of this kind has the method.
pub(super) fn exists(value: &Value, name: &str) -> bool {
    match value {
        Value::Str(_) | Value::Markup(_) => OF_STR.contains(&name),
        Value::Dict(_) => OF_DICT.contains(&name),
        Value::List(_) => OF_LIST.contains(&name),
        Value::Tuple(_) | Value::Range(_) => ["count", "index"].contains(&name),
        Value::Int(_) | Value::Bool(_) => OF_INT.contains(&name),
        Value::Float(_) => OF_FLOAT.contains(&name),
        Value::Loop(_) => ["cycle", "changed"].contains(&name),
        Value::Cycler(_) => ["next", "reset"].contains(&name),
        Value::View(View::Keys | View::Items, _) => name == "isdisjoint",
        Value::Once(_) => ["send", "throw", "close"].contains(&name),
        Value::Function("dict") => name == "fromkeys",
        _ => false,
    }
}

/// Whether the method would change the value: the sandbox gives no template such a one.
pub(super) fn changes(value: &Value, name: &str) -> bool {
    match value {
        Value::Dict(_) => ["clear", "pop", "popitem", "setdefault", "update"].contains(&name),
        Value::List(_) => [
            "append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort",
        ]
        .contains(&name),
        _ => false,
    }
}

pub(super) fn call(
    interpreter: &mut Interpreter,
    value: &Value,
    name: &str,
    args: Args,
) -> Result<Value, Stop> {
    match value {
        Value::Str(text) => {
            interpreter.steps_of(text.len() / 256)?;
            of_str(text, name, args)
        }
        Value::Dict(dict) => of_dict(dict, name, args),
        Value::List(items) | Value::Tuple(items) => of_list(items, name, args),
        Value::Loop(looping) if name == "cycle" => {
            let Args {
                positional: items, ..
            } = args;
            match items.len() {
                0 => failed("no items for cycling given"),
                length => Ok(items[looping.at.get() % length].clone()),
            }
        }
        Value::Loop(looping) if name == "changed" => {
            let mut last = looping.changed.borrow_mut();
            let same = last.as_ref().is_some_and(|last| {
                last.len() == args.positional.len()
                    && last.iter().zip(&args.positional).all(|(a, b)| equal(a, b))
            });
            *last = Some(args.positional);
            Ok(Value::Bool(!same))
        }
        Value::Cycler(cycler) => {
            args.none(name)?;
            let at = *cycler.at.borrow();
            if name == "reset" {
                *cycler.at.borrow_mut() = 0;
                return Ok(Value::None);
            }
            *cycler.at.borrow_mut() = (at + 1) % cycler.items.len();
            Ok(cycler.items[at].clone())
        }
        Value::Float(number) if name == "is_integer" => {
            args.none(name)?;
            Ok(Value::Bool(number.is_finite() && number.fract() == 0.0))
        }
        Value::Function("dict") => from_keys(args),
        other => unsupported(&format!("the method '{name}' of a {}", other.type_name())),
    }
}

fn of_dict(dict: &Rc<Dict>, name: &str, args: Args) -> Result<Value, Stop> {
    let view = |kind: View, items: Vec<Value>| Value::View(kind, Rc::new(items));
    match name {
        "get" => {
            let [key, default] = args.bind(name, ["/key", "/default"])?;
            let key = needed(key, name, "key")?;
            Dict::check_key(&key)?;
            let found = dict.get(&key).cloned();
            Ok(found.or(default).unwrap_or(Value::None))
        }
        "keys" => {
            args.none(name)?;
            Ok(view(View::Keys, dict.keys().cloned().collect()))
        }
        "values" => {
            args.none(name)?;
            Ok(view(
                View::Values,
                dict.iter().map(|(_, v)| v.clone()).collect(),
            ))
        }
        "items" => {
            args.none(name)?;
            let pair =
                |(key, value): &(Value, Value)| Value::tuple(vec![key.clone(), value.clone()]);
            Ok(view(View::Items, dict.iter().map(pair).collect()))
        }
        "copy" => {
            args.none(name)?;
            Ok(Value::Dict(Rc::clone(dict)))
        }
        "fromkeys" => from_keys(args),
        _ => unsupported(&format!("the method '{name}' of a dict")),
    }
}

fn from_keys(args: Args) -> Result<Value, Stop> {
    let [keys, value] = args.bind("fromkeys", ["/iterable", "/value"])?;
    let value = value.unwrap_or(Value::None);
    let mut dict = Dict::default();
    for key in needed(keys, "fromkeys", "iterable")?.items()? {
        Dict::check_key(&key)?;
        dict.insert(key, value.clone());
    }
    Ok(Value::Dict(Rc::new(dict)))
}

fn of_list(items: &Rc<Vec<Value>>, name: &str, args: Args) -> Result<Value, Stop> {
    match name {
        "count" => {
            let [item] = args.bind(name, ["/value"])?;
            let item = needed(item, name, "value")?;
            Ok(Value::count(
                items.iter().filter(|found| equal(found, &item)).count(),
            ))
        }
        "index" => {
            let [item, start, stop] = args.bind(name, ["/value", "/start", "/stop"])?;
            if start.is_some() || stop.is_some() {
                return unsupported("the bounds of the method 'index'");
            }
            let item = needed(item, name, "value")?;
            match items.iter().position(|found| equal(found, &item)) {
                Some(at) => Ok(Value::count(at)),
                None => failed("a value is not in the list"),
            }
        }
        "copy" => {
            args.none(name)?;
            Ok(Value::List(Rc::clone(items)))
        }
        _ => unsupported(&format!("the method '{name}' of a list")),
    }
}
