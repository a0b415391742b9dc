//! Equality, order and membership as Python has them.

use std::cmp::Ordering;
use std::rc::Rc;

use super::error::{Stop, failed};
use super::syntax::Comparison;
use super::value::Value;

pub(super) fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Undefined, Value::Undefined) | (Value::None, Value::None) => true,
        (Value::Str(a) | Value::Markup(a), Value::Str(b) | Value::Markup(b)) => a == b,
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => same_items(a, b),
        (Value::Dict(a), Value::Dict(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(key, value)| b.get(key).is_some_and(|other| equal(value, other)))
        }
        (Value::Range(a), Value::Range(b)) => {
            let (a, b) = (*a, *b);
            a.len() == b.len() && (0..a.len()).all(|at| equal(&a.get(at), &b.get(at)))
        }
        (Value::View(kind, a), Value::View(other, b)) => {
            Rc::ptr_eq(a, b) || (kind == other && a.len() == b.len() && same_set(a, b))
        }
        (Value::Namespace(a), Value::Namespace(b)) => Rc::ptr_eq(a, b),
        (Value::Once(a), Value::Once(b)) => Rc::ptr_eq(a, b),
        (Value::Macro(a), Value::Macro(b)) => Rc::ptr_eq(a, b),
        _ => numbers(a, b).is_some_and(|order| order == Some(Ordering::Equal)),
    }
}

/// The order of two numbers by their exact values: 2^53 + 1 is not the float 2^53. None where one is
/// no number; nothing for what compares with nothing (`nan`).
fn numbers(a: &Value, b: &Value) -> Option<Option<Ordering>> {
    match (a, a.as_int(), b, b.as_int()) {
        (_, Some(a), _, Some(b)) => Some(Some(a.cmp(&b))),
        (_, Some(a), Value::Float(b), _) => Some(whole_to_float(a, *b)),
        (Value::Float(a), _, _, Some(b)) => {
            Some(whole_to_float(b, *a).map(std::cmp::Ordering::reverse))
        }
        (Value::Float(a), _, Value::Float(b), _) => Some(a.partial_cmp(b)),
        _ => None,
    }
}

fn whole_to_float(whole: i128, float: f64) -> Option<Ordering> {
    const BOUND: f64 = 170_141_183_460_469_231_731_687_303_715_884_105_728.0; // 2^127
    if float.is_nan() {
        return None;
    }
    if float >= BOUND {
        return Some(Ordering::Less);
    }
    if float < -BOUND {
        return Some(Ordering::Greater);
    }
    #[expect(clippy::cast_possible_truncation, reason = "within the bounds of i128")]
    let truncated = float.trunc() as i128;
    match whole.cmp(&truncated) {
        Ordering::Equal => 0.0.partial_cmp(&float.fract()),
        unequal => Some(unequal),
    }
}

fn same_items(a: &[Value], b: &[Value]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b))
}

fn same_set(a: &[Value], b: &[Value]) -> bool {
    a.iter()
        .all(|item| b.iter().any(|other| equal(item, other)))
}

/// The order of two values; an error for kinds that have none, nothing for what compares with
/// nothing (`nan`).
pub(super) fn order(a: &Value, b: &Value, sign: &str) -> Result<Option<Ordering>, Stop> {
    match (a, b) {
        (Value::Undefined, _) | (_, Value::Undefined) => failed("a value is undefined"),
        (Value::Str(a) | Value::Markup(a), Value::Str(b) | Value::Markup(b)) => {
            Ok(Some(a.chars().cmp(b.chars())))
        }
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            for (a, b) in a.iter().zip(b.iter()) {
                if !equal(a, b) {
                    return order(a, b, sign);
                }
            }
            Ok(Some(a.len().cmp(&b.len())))
        }
        _ => match numbers(a, b) {
            Some(order) => Ok(order),
            None => failed(format!(
                "'{sign}' not supported between instances of '{}' and '{}'",
                a.type_name(),
                b.type_name()
            )),
        },
    }
}

pub(super) fn less(a: &Value, b: &Value) -> Result<bool, Stop> {
    Ok(order(a, b, "<")? == Some(Ordering::Less))
}

pub(super) fn contains(container: &Value, item: &Value) -> Result<bool, Stop> {
    match container {
        Value::Str(text) | Value::Markup(text) => match item {
            Value::Str(part) | Value::Markup(part) => Ok(text.contains(&**part)),
            other => failed(format!(
                "'in <string>' requires string as left operand, not {}",
                other.type_name()
            )),
        },
        Value::Dict(dict) => {
            super::value::Dict::check_key(item)?;
            Ok(dict.get(item).is_some())
        }
        Value::Once(items) => {
            let mut items = items.borrow_mut();
            while let Some(found) = items.pop_front() {
                if equal(&found, item) {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Value::Undefined | Value::List(_) | Value::Tuple(_) | Value::View(..) | Value::Range(_) => {
            Ok(container.items()?.iter().any(|found| equal(found, item)))
        }
        other => failed(format!(
            "argument of type '{}' is not iterable",
            other.type_name()
        )),
    }
}

pub(super) fn compare(a: &Value, comparison: Comparison, b: &Value) -> Result<bool, Stop> {
    let ordered =
        |sign: &str, holds: fn(Ordering) -> bool| Ok(order(a, b, sign)?.is_some_and(holds));
    match comparison {
        Comparison::Equal => Ok(equal(a, b)),
        Comparison::NotEqual => Ok(!equal(a, b)),
        Comparison::Less => ordered("<", Ordering::is_lt),
        Comparison::LessEqual => ordered("<=", Ordering::is_le),
        Comparison::Greater => ordered(">", Ordering::is_gt),
        Comparison::GreaterEqual => ordered(">=", Ordering::is_ge),
        Comparison::In => contains(b, a),
        Comparison::NotIn => Ok(!contains(b, a)?),
    }
}
