//! The functions of the environment: Jinja2's and the two that transformers adds.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::Interpreter;
use super::arguments::{Args, needed, text_of, whole_of};
use super::clock;
use super::error::{Cause, Stop, failed, unsupported};
use super::text::text;
use super::value::{Cycler, Dict, Joiner, Range, Value};

const NAMES: [&str; 8] = [
    "range",
    "dict",
    "namespace",
    "joiner",
    "cycler",
    "lipsum",
    "raise_exception",
    "strftime_now",
];

/// Jinja2's sandbox makes no longer ranges.
const RANGE_MAX: usize = 100_000;

pub(super) fn named(name: &str) -> Option<&'static str> {
    NAMES.into_iter().find(|known| *known == name)
}

pub(super) fn call(interpreter: &Interpreter, name: &str, args: Args) -> Result<Value, Stop> {
    match name {
        "range" => range(args),
        "dict" => Ok(Value::Dict(Rc::new(dict(args)?))),
        "namespace" => {
            let fields = dict(args)?;
            for key in fields.keys() {
                if key.as_str().is_some_and(|key| key.starts_with('_')) {
                    return failed("a namespace stores no attribute that begins with '_'");
                }
            }
            Ok(Value::Namespace(Rc::new(RefCell::new(fields))))
        }
        "joiner" => {
            let [separator] = args.bind("joiner", ["sep"])?;
            let separator = match separator {
                Some(separator) => text_of(&separator, "joiner")?,
                None => Arc::from(", "),
            };
            let used = RefCell::new(false);
            Ok(Value::Joiner(Rc::new(Joiner { separator, used })))
        }
        "cycler" => {
            let Args {
                positional: items,
                named,
            } = args;
            if items.is_empty() || !named.is_empty() {
                return failed("cycler needs at least one item, and no names");
            }
            let at = RefCell::new(0);
            Ok(Value::Cycler(Rc::new(Cycler { items, at })))
        }
        "raise_exception" => {
            let [message] = args.bind("raise_exception", ["message"])?;
            let message = needed(message, "raise_exception", "message")?;
            Err(Stop::new(Cause::Raised, text(&message)?))
        }
        "strftime_now" => {
            let [format] = args.bind("strftime_now", ["format"])?;
            let format = needed(format, "strftime_now", "format")?;
            let date = clock::strftime(&text_of(&format, "strftime_now")?, interpreter.now)?;
            Ok(Value::str(&date))
        }
        other => unsupported(&format!("the function '{other}'")),
    }
}

fn range(args: Args) -> Result<Value, Stop> {
    let [a, b, c] = args.bind("range", ["/start", "/stop", "/step"])?;
    let a = whole_of(&needed(a, "range", "stop")?, "range")?;
    let (start, stop) = match b {
        Some(b) => (a, whole_of(&b, "range")?),
        None => (0, a),
    };
    let step = match c {
        Some(c) => whole_of(&c, "range")?,
        None => 1,
    };
    const LARGEST: i128 = i64::MAX as i128;
    if step == 0 || [start, stop, step].iter().any(|n| n.abs() > LARGEST) {
        return failed("range: a step of zero, or a number that is too large");
    }
    let range = Range { start, stop, step };
    if range.len() > RANGE_MAX {
        return failed(format!("range: more than {RANGE_MAX} numbers"));
    }
    Ok(Value::Range(range))
}

fn dict(args: Args) -> Result<Dict, Stop> {
    let Args { positional, named } = args;
    let mut dict = Dict::default();
    match positional.as_slice() {
        [] => {}
        [Value::Dict(from)] => dict = (**from).clone(),
        [pairs] => {
            for pair in pairs.items()? {
                match <[Value; 2]>::try_from(pair.items()?) {
                    Ok([key, value]) => {
                        Dict::check_key(&key)?;
                        dict.insert(key, value);
                    }
                    Err(_) => return failed("dict: an item that is no pair"),
                }
            }
        }
        _ => return failed("dict takes at most one mapping"),
    }
    for (name, value) in named {
        dict.insert(Value::Str(name), value);
    }
    Ok(dict)
}
