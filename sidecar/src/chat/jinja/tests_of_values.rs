//! `value is test`: Jinja2's tests.

use super::arguments::{Args, needed};
use super::compare::{compare, equal};
use super::error::{Stop, failed};
use super::strings;
use super::syntax::{Comparison, Operator};
use super::text::text;
use super::value::Value;
use super::{arithmetic, filter_exists};

pub(super) fn holds(name: &str, value: &Value, args: Args) -> Result<bool, Stop> {
    let comparison = match name {
        "eq" | "==" | "equalto" => Some(Comparison::Equal),
        "ne" | "!=" => Some(Comparison::NotEqual),
        "lt" | "<" | "lessthan" => Some(Comparison::Less),
        "le" | "<=" => Some(Comparison::LessEqual),
        "gt" | ">" | "greaterthan" => Some(Comparison::Greater),
        "ge" | ">=" => Some(Comparison::GreaterEqual),
        "in" => Some(Comparison::In),
        _ => None,
    };
    if let Some(comparison) = comparison {
        let [other] = args.bind(name, ["/other"])?;
        return compare(value, comparison, &needed(other, name, "other")?);
    }
    match name {
        "divisibleby" => {
            let [by] = args.bind(name, ["num"])?;
            let rest = arithmetic::operate(value, Operator::Modulo, &needed(by, name, "num")?)?;
            return Ok(equal(&rest, &Value::Int(0)));
        }
        "sameas" => {
            let [other] = args.bind(name, ["other"])?;
            return same(value, &needed(other, name, "other")?);
        }
        _ => args.none(name)?,
    }
    Ok(match name {
        "defined" => !matches!(value, Value::Undefined),
        "undefined" => matches!(value, Value::Undefined),
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => value.as_float().is_some(),
        "string" => value.as_str().is_some(),
        "mapping" => matches!(value, Value::Dict(_)),
        "callable" => value.is_callable(),
        "escaped" => matches!(value, Value::Markup(_)),
        "iterable" => matches!(
            value,
            Value::Undefined
                | Value::Str(_)
                | Value::Markup(_)
                | Value::List(_)
                | Value::Tuple(_)
                | Value::Dict(_)
                | Value::View(..)
                | Value::Range(_)
                | Value::Once(_)
                | Value::Loop(_)
        ),
        // What has a length and items by key.
        "sequence" => matches!(
            value,
            Value::Undefined
                | Value::Str(_)
                | Value::Markup(_)
                | Value::List(_)
                | Value::Tuple(_)
                | Value::Dict(_)
                | Value::Range(_)
        ),
        "odd" | "even" => {
            let rest = arithmetic::operate(value, Operator::Modulo, &Value::Int(2))?;
            equal(&rest, &Value::Int(i128::from(name == "odd")))
        }
        "lower" => strings::is_lower(&text(value)?),
        "upper" => strings::is_upper(&text(value)?),
        "filter" => value.as_str().is_some_and(filter_exists),
        "test" => value.as_str().is_some_and(exists),
        _ => return failed(format!("no test named '{name}'")),
    })
}

/// Python's `is`, for the values that are always one object; of others it does not tell.
fn same(a: &Value, b: &Value) -> Result<bool, Stop> {
    match (a, b) {
        (Value::None, _) | (_, Value::None) | (Value::Bool(_), _) | (_, Value::Bool(_)) => {
            Ok(a.type_name() == b.type_name() && equal(a, b))
        }
        _ if a.type_name() != b.type_name() => Ok(false),
        _ => super::error::unsupported("the test 'sameas' on other values than none and booleans"),
    }
}

pub(super) fn exists(name: &str) -> bool {
    const NAMES: [&str; 38] = [
        "odd",
        "even",
        "divisibleby",
        "defined",
        "undefined",
        "filter",
        "test",
        "none",
        "boolean",
        "false",
        "true",
        "integer",
        "float",
        "lower",
        "upper",
        "string",
        "mapping",
        "number",
        "sequence",
        "iterable",
        "callable",
        "sameas",
        "escaped",
        "in",
        "==",
        "eq",
        "equalto",
        "!=",
        "ne",
        ">",
        "gt",
        "greaterthan",
        ">=",
        "ge",
        "<",
        "lt",
        "lessthan",
        "<=",
    ];
    NAMES.contains(&name) || name == "le"
}
