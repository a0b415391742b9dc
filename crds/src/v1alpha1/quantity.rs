//! Kubernetes quantities as exact counts of bytes.

use plimsoll_planner::Bytes;

/// Why a quantity is no count of bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("{0:?} is not a quantity; write digits and a unit, e.g. 700Mi or 10G")]
    Malformed(String),
    #[error("{0} is not more than zero; write e.g. 700Mi")]
    NotPositive(String),
    #[error("{0} is more than 8Ei, which no memory holds; check its unit")]
    TooLarge(String),
}

/// Bytes of a quantity. A fraction of a byte is dropped, so that a bound is never exceeded.
///
/// # Errors
/// What is no quantity, not positive (also less than one byte), or beyond 2^63 - 1.
pub fn bytes(text: &str) -> Result<Bytes, QuantityError> {
    match u64::try_from(scaled(text, 0)?) {
        Ok(0) => Err(QuantityError::NotPositive(text.to_owned())),
        Ok(value) if i64::try_from(value).is_ok() => Ok(Bytes::measured(value)),
        _ => Err(QuantityError::TooLarge(text.to_owned())),
    }
}

/// A quantity of anything (bytes, cores, devices) in billionths, the finest there are, so that two
/// of the same thing can be compared. Zero is one too.
///
/// # Errors
/// What is no quantity, negative, or more than 2^128 billionths.
pub fn billionths(text: &str) -> Result<u128, QuantityError> {
    scaled(text, 9)
}

/// The quantity times ten to the power of `up`, rounded down.
fn scaled(text: &str, up: i32) -> Result<u128, QuantityError> {
    let malformed = || QuantityError::Malformed(text.chars().take(40).collect());
    if text.len() > 64 {
        return Err(malformed());
    }
    let (negative, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let number_len = unsigned
        .bytes()
        .take_while(|b| b.is_ascii_digit() || *b == b'.')
        .count();
    let (number, suffix) = unsigned.split_at(number_len);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() + fraction.len() == 0 || fraction.contains('.') {
        return Err(malformed());
    }
    let scale = scale(suffix).ok_or_else(malformed)?;
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Ok(0);
    }
    if negative {
        return Err(QuantityError::NotPositive(text.to_owned()));
    }
    let places = i32::try_from(fraction.len()).map_err(|_| malformed())?;
    let too_large = || QuantityError::TooLarge(text.to_owned());
    // digits x 10^(exponent - places) x binary, all in u128: 64 characters of input bound it.
    let mantissa: u128 = digits.parse().map_err(|_| too_large())?;
    let power = scale.exponent - places + up;
    let scaled = mantissa.checked_mul(scale.binary).ok_or_else(too_large)?;
    let value = match u32::try_from(power) {
        Ok(up) => 10u128.checked_pow(up).and_then(|by| scaled.checked_mul(by)),
        // Dividing by more than u128 holds leaves nothing.
        Err(_) => Some(
            10u128
                .checked_pow(power.unsigned_abs())
                .map_or(0, |by| scaled / by),
        ),
    };
    value.ok_or_else(too_large)
}

/// What a suffix multiplies by: a power of ten and a power of 1,024.
struct Scale {
    exponent: i32,
    binary: u128,
}

fn scale(suffix: &str) -> Option<Scale> {
    let decimal = |exponent| {
        Some(Scale {
            exponent,
            binary: 1,
        })
    };
    let binary = |power| {
        Some(Scale {
            exponent: 0,
            binary: 1u128 << (10 * power),
        })
    };
    match suffix {
        "" => decimal(0),
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let exponent: i32 = exponent.parse().ok()?;
            (-30..=30).contains(&exponent).then_some(Scale {
                exponent,
                binary: 1,
            })
        }
    }
}
