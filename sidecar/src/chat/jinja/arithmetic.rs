//! `+ - * / // % **` and signs, on the kinds that Python has them for.

use super::error::{Stop, failed, unsupported};
use super::format::percent;
use super::syntax::Operator;
use super::value::Value;

/// Bytes or items that `*` may make at once; the process around bounds what is made in all.
const REPEATED_MAX: usize = 64 << 20;

pub(super) fn operate(a: &Value, operator: Operator, b: &Value) -> Result<Value, Stop> {
    if matches!((a, b), (Value::Markup(_), _) | (_, Value::Markup(_))) {
        return unsupported("an operator on text that `safe` or `escape` marked");
    }
    if matches!(a, Value::Undefined) || (matches!(b, Value::Undefined) && a.as_str().is_none()) {
        return failed("a value is undefined");
    }
    match (operator, a, b) {
        (Operator::Add, Value::Str(a), Value::Str(b)) => Ok(Value::str(&[&**a, &**b].concat())),
        (Operator::Add, Value::List(a), Value::List(b)) => {
            Ok(Value::list(a.iter().chain(b.iter()).cloned().collect()))
        }
        (Operator::Add, Value::Tuple(a), Value::Tuple(b)) => {
            Ok(Value::tuple(a.iter().chain(b.iter()).cloned().collect()))
        }
        (Operator::Multiply, Value::Str(_) | Value::List(_) | Value::Tuple(_), _)
            if b.as_int().is_some() =>
        {
            repeated(a, b.as_int().unwrap_or(0))
        }
        (Operator::Multiply, _, Value::Str(_) | Value::List(_) | Value::Tuple(_))
            if a.as_int().is_some() =>
        {
            repeated(b, a.as_int().unwrap_or(0))
        }
        (Operator::Modulo, Value::Str(format), _) => Ok(Value::str(&percent(format, b)?)),
        _ => numbers(a, operator, b),
    }
}

fn repeated(value: &Value, times: i128) -> Result<Value, Stop> {
    let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
    let check = |length: usize| match length.checked_mul(times) {
        Some(total) if total <= REPEATED_MAX => Ok(()),
        _ => failed(format!("'*' makes more than {REPEATED_MAX} bytes or items")),
    };
    Ok(match value {
        Value::Str(text) => {
            check(text.len())?;
            Value::str(&text.repeat(times))
        }
        Value::List(items) => {
            check(items.len())?;
            Value::list(copies(items, times))
        }
        Value::Tuple(items) => {
            check(items.len())?;
            Value::tuple(copies(items, times))
        }
        other => other.clone(),
    })
}

fn copies(items: &[Value], times: usize) -> Vec<Value> {
    std::iter::repeat_n(items, times)
        .flatten()
        .cloned()
        .collect()
}

fn numbers(a: &Value, operator: Operator, b: &Value) -> Result<Value, Stop> {
    let sign = match operator {
        Operator::Add => "+",
        Operator::Subtract => "-",
        Operator::Multiply => "*",
        Operator::Divide => "/",
        Operator::FloorDivide => "//",
        Operator::Modulo => "%",
        Operator::Power => "**",
    };
    let (Some(x), Some(y)) = (a.as_float(), b.as_float()) else {
        return failed(format!(
            "unsupported operand type(s) for {sign}: '{}' and '{}'",
            a.type_name(),
            b.type_name()
        ));
    };
    let divides = matches!(
        operator,
        Operator::Divide | Operator::FloorDivide | Operator::Modulo
    );
    if divides && y == 0.0 {
        return failed("division by zero");
    }
    if let (Operator::Divide, Some(a), Some(b)) = (operator, a.as_int(), b.as_int()) {
        return Ok(Value::Float(divided(a, b)));
    }
    if let (Some(a), Some(b)) = (a.as_int(), b.as_int())
        && let Some(result) = whole(a, operator, b)
    {
        return match result {
            Some(number) => Ok(Value::Int(number)),
            None => unsupported("a whole number beyond 128 bits"),
        };
    }
    Ok(Value::Float(match operator {
        Operator::Add => x + y,
        Operator::Subtract => x - y,
        Operator::Multiply => x * y,
        Operator::Divide => x / y,
        Operator::FloorDivide => floor_divided(x, y).0,
        Operator::Modulo => floor_divided(x, y).1,
        Operator::Power if x == 0.0 && y < 0.0 => {
            return failed("0.0 cannot be raised to a negative power");
        }
        Operator::Power if x < 0.0 && y.fract() != 0.0 => return unsupported("a complex number"),
        Operator::Power => x.powf(y),
    }))
}

/// The float that is nearest to the exact quotient, as Python has it; `b` is not 0.
#[expect(clippy::cast_precision_loss, reason = "rounded once, at the end")]
fn divided(a: i128, b: i128) -> f64 {
    /// More than a float holds, so that what is cut off decides about ties alone.
    const BITS: u32 = 55;
    let (numerator, divisor) = (a.unsigned_abs(), b.unsigned_abs());
    let mut quotient = numerator / divisor;
    let mut rest = numerator % divisor;
    let mut exponent = 0;
    while rest != 0 && u128::BITS - quotient.leading_zeros() < BITS {
        // The divisor is at most 2^127, so twice the rest fits.
        rest <<= 1;
        quotient <<= 1;
        if rest >= divisor {
            rest -= divisor;
            quotient |= 1;
        }
        exponent -= 1;
    }
    quotient |= u128::from(rest != 0);
    let magnitude = quotient as f64 * 2f64.powi(exponent);
    if (a < 0) == (b < 0) {
        magnitude
    } else {
        -magnitude
    }
}

/// None: the result is no whole number. Some(None): it is too large.
fn whole(a: i128, operator: Operator, b: i128) -> Option<Option<i128>> {
    Some(match operator {
        Operator::Add => a.checked_add(b),
        Operator::Subtract => a.checked_sub(b),
        Operator::Multiply => a.checked_mul(b),
        Operator::FloorDivide => a.checked_div(b).map(|quotient| {
            let inexact = a.checked_rem(b).unwrap_or(0) != 0;
            quotient - i128::from(inexact && (a < 0) != (b < 0))
        }),
        Operator::Modulo => a.checked_rem(b).map(|rest| {
            if rest != 0 && (rest < 0) != (b < 0) {
                rest + b
            } else {
                rest
            }
        }),
        Operator::Power if b >= 0 => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
        Operator::Power | Operator::Divide => return None,
    })
}

/// Python's `divmod` of floats.
fn floor_divided(x: f64, y: f64) -> (f64, f64) {
    let mut rest = x % y;
    let mut quotient = (x - rest) / y;
    if rest == 0.0 {
        rest = 0f64.copysign(y);
    } else if (y < 0.0) != (rest < 0.0) {
        rest += y;
        quotient -= 1.0;
    }
    if quotient == 0.0 {
        return (0f64.copysign(x / y), rest);
    }
    let floor = quotient.floor();
    let quotient = if quotient - floor > 0.5 {
        floor + 1.0
    } else {
        floor
    };
    (quotient, rest)
}

pub(super) fn negative(value: &Value) -> Result<Value, Stop> {
    match (value, value.as_int()) {
        (Value::Float(number), _) => Ok(Value::Float(-number)),
        (_, Some(number)) => match number.checked_neg() {
            Some(number) => Ok(Value::Int(number)),
            None => unsupported("a whole number beyond 128 bits"),
        },
        _ => bad_sign('-', value),
    }
}

pub(super) fn positive(value: &Value) -> Result<Value, Stop> {
    match (value, value.as_int()) {
        (Value::Float(number), _) => Ok(Value::Float(*number)),
        (_, Some(number)) => Ok(Value::Int(number)),
        _ => bad_sign('+', value),
    }
}

fn bad_sign(sign: char, value: &Value) -> Result<Value, Stop> {
    failed(format!(
        "bad operand type for unary {sign}: '{}'",
        value.type_name()
    ))
}
