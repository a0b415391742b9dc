//! Filters that make numbers.

use super::super::arguments::{Args, whole_of};
use super::super::arithmetic::operate;
use super::super::compare::less;
use super::super::error::{Stop, failed, unsupported};
use super::super::syntax::Operator;
use super::super::text::is_space;
use super::super::value::Value;
use super::attribute_of;

pub(super) fn apply(name: &str, value: &Value, args: Args) -> Result<Value, Stop> {
    match name {
        "abs" => {
            args.none(name)?;
            match (value, value.as_int()) {
                (Value::Float(number), _) => Ok(Value::Float(number.abs())),
                (_, Some(number)) => match number.checked_abs() {
                    Some(number) => Ok(Value::Int(number)),
                    None => unsupported("a whole number beyond 128 bits"),
                },
                _ => failed(format!(
                    "bad operand type for abs(): '{}'",
                    value.type_name()
                )),
            }
        }
        "int" => {
            let [default, base] = args.bind(name, ["default", "base"])?;
            let base = base.map_or(Ok(10), |base| whole_of(&base, name))?;
            refuse_foreign_digits(value, name)?;
            Ok(match int(value, base)? {
                Some(number) => Value::Int(number),
                None => default.unwrap_or(Value::Int(0)),
            })
        }
        "float" => {
            let [default] = args.bind(name, ["default"])?;
            refuse_undefined(value, name)?;
            refuse_foreign_digits(value, name)?;
            Ok(match number(value) {
                Some(number) => Value::Float(number),
                None => default.unwrap_or(Value::Float(0.0)),
            })
        }
        "sum" => {
            let [attribute, start] = args.bind(name, ["attribute", "start"])?;
            let mut sum = start.unwrap_or(Value::Int(0));
            if sum.as_str().is_some() {
                return failed("sum() can't sum strings");
            }
            for item in value.items()? {
                let item = attribute_of(&item, attribute.as_ref(), None)?;
                sum = operate(&sum, Operator::Add, &item)?;
            }
            Ok(sum)
        }
        _ => round(value, args),
    }
}

fn refuse_undefined(value: &Value, name: &str) -> Result<(), Stop> {
    match value {
        Value::Undefined => failed(format!("the filter '{name}': the value is undefined")),
        _ => Ok(()),
    }
}

/// Python reads the digits of every script.
fn refuse_foreign_digits(value: &Value, name: &str) -> Result<(), Stop> {
    let foreign = |c: char| !c.is_ascii() && c.is_numeric();
    match value.as_str() {
        Some(text) if text.contains(foreign) => {
            unsupported(&format!("'{name}' of digits that are not ASCII's"))
        }
        _ => Ok(()),
    }
}

/// None: Python's `int` and `float` both refuse it.
fn int(value: &Value, base: i128) -> Result<Option<i128>, Stop> {
    refuse_undefined(value, "int")?;
    if let Some(number) = value.as_int() {
        return Ok(Some(number));
    }
    if let Some(text) = value.as_str()
        && let Some(number) = whole(text, base)?
    {
        return Ok(Some(number));
    }
    match number(value) {
        Some(number) if number.is_finite() => {
            if number.abs() >= 1e38 {
                return unsupported("a whole number beyond 128 bits");
            }
            #[expect(clippy::cast_possible_truncation, reason = "as Python's int(float)")]
            let whole = number.trunc() as i128;
            Ok(Some(whole))
        }
        _ => Ok(None),
    }
}

/// Python's `int(text, base)`.
fn whole(text: &str, base: i128) -> Result<Option<i128>, Stop> {
    let text = text.trim_matches(is_space);
    let (minus, mut digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut base = base;
    for (prefix, of) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        let has = digits
            .get(..2)
            .is_some_and(|head| head.eq_ignore_ascii_case(prefix));
        if has && (base == of || base == 0) {
            digits = &digits[2..];
            digits = digits.strip_prefix('_').unwrap_or(digits);
            base = of;
        }
    }
    if base == 0 {
        base = 10;
    }
    let Ok(radix @ 2..=36) = u32::try_from(base) else {
        return failed("int() base must be >= 2 and <= 36, or 0");
    };
    let well = !digits.is_empty()
        && !digits.starts_with('_')
        && !digits.ends_with('_')
        && !digits.contains("__");
    let plain = digits.replace('_', "");
    if !well || !plain.chars().all(|c| c.is_digit(radix)) {
        return Ok(None);
    }
    match i128::from_str_radix(&plain, radix) {
        Ok(number) => Ok(Some(if minus { -number } else { number })),
        Err(_) => unsupported("a whole number beyond 128 bits"),
    }
}

/// Python's `float(value)`; None where it refuses.
fn number(value: &Value) -> Option<f64> {
    let Some(text) = value.as_str() else {
        return value.as_float();
    };
    let text = text.trim_matches(is_space);
    if text.starts_with('_') || text.ends_with('_') || text.contains("__") {
        return None;
    }
    text.replace('_', "").parse().ok()
}

fn round(value: &Value, args: Args) -> Result<Value, Stop> {
    let [precision, method] = args.bind("round", ["precision", "method"])?;
    let precision = precision.map_or(Ok(0), |p| whole_of(&p, "round"))?;
    let method = method.as_ref().map_or(Some("common"), Value::as_str);
    if !matches!(method, Some("common" | "ceil" | "floor")) {
        return failed("method must be common, ceil or floor");
    }
    if !(-30..=300).contains(&precision) {
        return unsupported(&format!("rounding to {precision} places"));
    }
    let Some(number) = value.as_float() else {
        return failed(format!(
            "type {} doesn't define __round__ method",
            value.type_name()
        ));
    };
    if method == Some("common") {
        if let Some(whole) = value.as_int() {
            return if precision >= 0 {
                Ok(Value::Int(whole))
            } else {
                rounded(whole, precision)
            };
        }
        if !number.is_finite() {
            return Ok(Value::Float(number));
        }
        return match usize::try_from(precision) {
            Ok(places) => Ok(Value::Float(
                format!("{number:.places$}").parse().unwrap_or(number),
            )),
            Err(_) => unsupported("rounding a float to tens"),
        };
    }
    // Python: ceil(value * 10**precision) / 10**precision.
    let places = i32::try_from(precision).unwrap_or(0);
    let scale = 10f64.powi(places);
    let scaled = number * scale;
    let up = if method == Some("ceil") {
        scaled.ceil()
    } else {
        scaled.floor()
    };
    Ok(Value::Float(up / scale))
}

/// A whole number to tens, hundreds and so on; half goes to the even one.
fn rounded(number: i128, precision: i128) -> Result<Value, Stop> {
    let unit = 10i128.pow(u32::try_from(-precision).unwrap_or(0));
    let (quotient, rest) = (number.div_euclid(unit), number.rem_euclid(unit));
    let up = rest * 2 > unit || (rest * 2 == unit && quotient.rem_euclid(2) == 1);
    Ok(Value::Int((quotient + i128::from(up)) * unit))
}

/// The smallest or largest of the items by their keys; the first of equals.
pub(super) fn extreme(keyed: Vec<(Value, Value)>, largest: bool) -> Result<Value, Stop> {
    let mut items = keyed.into_iter();
    let Some(mut best) = items.next() else {
        return Ok(Value::Undefined);
    };
    for item in items {
        let better = if largest {
            less(&best.0, &item.0)?
        } else {
            less(&item.0, &best.0)?
        };
        if better {
            best = item;
        }
    }
    Ok(best.1)
}
