//! How one value is laid out: Python's format specifications.

use super::error::{Stop, failed, unsupported};
use super::text::{float, text};
use super::value::Value;

const WIDTH_MAX: usize = 1 << 20;

#[derive(Clone, Debug)]
pub(super) struct Spec {
    pub(super) fill: char,
    pub(super) align: Option<char>,
    /// `+` and ` ` are written where there is no minus; `-`: nothing.
    pub(super) sign: char,
    pub(super) alternate: bool,
    pub(super) zero: bool,
    pub(super) width: usize,
    pub(super) grouping: Option<char>,
    pub(super) precision: Option<usize>,
}

impl Default for Spec {
    fn default() -> Spec {
        Spec {
            fill: ' ',
            align: None,
            sign: '-',
            alternate: false,
            zero: false,
            width: 0,
            grouping: None,
            precision: None,
        }
    }
}

/// Python's `format(value, spec)`.
pub(super) fn formatted(value: &Value, format: &str) -> Result<String, Stop> {
    if format.is_empty() {
        return text(value);
    }
    let (spec, kind) = read(format)?;
    match (value, kind) {
        (Value::Str(text), None | Some('s')) => {
            if spec.zero || spec.sign != '-' || spec.grouping.is_some() || spec.alternate {
                return unsupported(&format!("the format '{format}' of a text"));
            }
            Ok(spec.text(text))
        }
        (Value::Int(_) | Value::Bool(_), None)
            if matches!(value, Value::Bool(_)) && format.contains('s') =>
        {
            failed("Unknown format code 's' for object of type 'bool'")
        }
        (Value::Int(_) | Value::Bool(_), None | Some('d' | 'x' | 'X' | 'o' | 'b' | 'n')) => {
            if spec.precision.is_some() {
                return failed("Precision not allowed in integer format specifier");
            }
            let number = value.as_int().unwrap_or(0);
            let magnitude = number.unsigned_abs();
            let (prefix, digits) = match kind {
                Some('x') => ("0x", format!("{magnitude:x}")),
                Some('X') => ("0X", format!("{magnitude:X}")),
                Some('o') => ("0o", format!("{magnitude:o}")),
                Some('b') => ("0b", format!("{magnitude:b}")),
                _ => ("", magnitude.to_string()),
            };
            let prefix = if spec.alternate { prefix } else { "" };
            Ok(spec.number(number < 0, prefix, &digits))
        }
        (
            Value::Int(_) | Value::Bool(_) | Value::Float(_),
            Some(kind @ ('f' | 'F' | 'e' | 'E' | 'g' | 'G' | '%')),
        ) => spec.float(value.as_float().unwrap_or(0.0), kind),
        (Value::Float(number), None) => match spec.precision {
            None => {
                let shown = float(number.abs());
                Ok(spec.number(number.is_sign_negative(), "", &shown))
            }
            Some(_) => unsupported("a precision without a type in a format"),
        },
        (Value::Int(_) | Value::Bool(_) | Value::Float(_) | Value::Str(_), Some(kind)) => {
            failed(format!(
                "unknown format code '{kind}' for object of type '{}'",
                value.type_name()
            ))
        }
        (other, _) => failed(format!(
            "unsupported format string passed to {}.__format__",
            other.type_name()
        )),
    }
}

fn read(format: &str) -> Result<(Spec, Option<char>), Stop> {
    let chars: Vec<char> = format.chars().collect();
    let mut spec = Spec::default();
    let mut at = 0;
    let is_align = |c: Option<&char>| matches!(c, Some('<' | '>' | '^' | '='));
    if is_align(chars.get(1)) {
        spec.fill = chars[0];
        spec.align = Some(chars[1]);
        at = 2;
    } else if is_align(chars.first()) {
        spec.align = Some(chars[0]);
        at = 1;
    }
    if let Some(sign @ ('+' | '-' | ' ')) = chars.get(at) {
        spec.sign = *sign;
        at += 1;
    }
    if chars.get(at) == Some(&'#') {
        spec.alternate = true;
        at += 1;
    }
    if chars.get(at) == Some(&'0') {
        spec.zero = spec.align.is_none();
        if spec.align.is_some() && spec.fill == ' ' {
            spec.fill = '0';
        }
        at += 1;
    }
    let number = |at: &mut usize| -> Result<Option<usize>, Stop> {
        let mut found = None;
        while let Some(digit) = chars.get(*at).and_then(|c| c.to_digit(10)) {
            let value = found.unwrap_or(0usize).saturating_mul(10) + digit as usize;
            if value > WIDTH_MAX {
                return failed(format!("a format with a size above {WIDTH_MAX}"));
            }
            found = Some(value);
            *at += 1;
        }
        Ok(found)
    };
    spec.width = number(&mut at)?.unwrap_or(0);
    if let Some(grouping @ (',' | '_')) = chars.get(at) {
        spec.grouping = Some(*grouping);
        at += 1;
    }
    if chars.get(at) == Some(&'.') {
        at += 1;
        spec.precision = number(&mut at)?;
        if spec.precision.is_none() {
            return failed("Format specifier missing precision");
        }
    }
    let kind = chars.get(at).copied();
    if chars.len() > at + 1 {
        return failed(format!("invalid format specifier '{format}'"));
    }
    Ok((spec, kind))
}

impl Spec {
    pub(super) fn text(&self, text: &str) -> String {
        let cut: String = match self.precision {
            Some(length) => text.chars().take(length).collect(),
            None => text.to_owned(),
        };
        self.filled(&cut, '<')
    }

    fn filled(&self, text: &str, default: char) -> String {
        let blanks = self.width.saturating_sub(text.chars().count());
        let (left, right) = match self.align.unwrap_or(default) {
            '<' => (0, blanks),
            '^' => (blanks / 2, blanks - blanks / 2),
            _ => (blanks, 0),
        };
        let pad = |count: usize| std::iter::repeat_n(self.fill, count);
        pad(left).chain(text.chars()).chain(pad(right)).collect()
    }

    /// A number of this magnitude: sign, prefix, zeros, groups.
    pub(super) fn number(&self, negative: bool, prefix: &str, magnitude: &str) -> String {
        let sign = match (negative, self.sign) {
            (true, _) => "-",
            (false, '+') => "+",
            (false, ' ') => " ",
            _ => "",
        };
        let head = format!("{sign}{prefix}");
        let (whole, rest) = match magnitude.find(|c: char| !c.is_ascii_hexdigit()) {
            Some(at) => magnitude.split_at(at),
            None => (magnitude, ""),
        };
        let size = if prefix.is_empty() { 3 } else { 4 };
        let zeros = (self.zero && self.align.is_none()) || self.align == Some('=');
        let mut whole = grouped(whole, self.grouping, size);
        if zeros {
            let fill = if self.zero { '0' } else { self.fill };
            let room = self.width.saturating_sub(head.len() + rest.len());
            if self.grouping.is_some() && fill == '0' {
                let mut digits: String = whole.chars().filter(char::is_ascii_hexdigit).collect();
                while whole.len() < room {
                    digits.insert(0, '0');
                    whole = grouped(&digits, self.grouping, size);
                }
            } else {
                let blanks = room.saturating_sub(whole.len());
                whole = std::iter::repeat_n(fill, blanks)
                    .chain(whole.chars())
                    .collect();
            }
            return format!("{head}{whole}{rest}");
        }
        self.filled(&format!("{head}{whole}{rest}"), '>')
    }

    pub(super) fn float(&self, number: f64, kind: char) -> Result<String, Stop> {
        let magnitude = number.abs();
        let upper = kind.is_ascii_uppercase();
        let precision = self.precision.unwrap_or(6);
        if precision > 1000 {
            return unsupported("a precision above 1000 in a format");
        }
        let negative = number.is_sign_negative() && !number.is_nan();
        if !magnitude.is_finite() {
            let word = if magnitude.is_nan() { "nan" } else { "inf" };
            let word = if upper {
                word.to_uppercase()
            } else {
                word.to_owned()
            };
            return Ok(self.number(negative, "", &word));
        }
        if self.alternate {
            return unsupported("'#' in the format of a float");
        }
        let shown = match kind.to_ascii_lowercase() {
            'f' => format!("{magnitude:.precision$}"),
            '%' => format!("{:.precision$}%", magnitude * 100.0),
            'e' => scientific(magnitude, precision),
            _ => general(magnitude, precision.max(1)),
        };
        let shown = if upper { shown.to_uppercase() } else { shown };
        Ok(self.number(negative, "", &shown))
    }
}

fn grouped(digits: &str, by: Option<char>, size: usize) -> String {
    let Some(by) = by else {
        return digits.to_owned();
    };
    let mut out = String::new();
    for (at, c) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(size) {
            out.push(by);
        }
        out.push(c);
    }
    out
}

fn scientific(magnitude: f64, precision: usize) -> String {
    let shown = format!("{magnitude:.precision$e}");
    let (digits, exponent) = shown.split_once('e').unwrap_or((&shown, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// C's `%g`.
fn general(magnitude: f64, precision: usize) -> String {
    let shown = scientific(magnitude, precision - 1);
    let (digits, exponent) = shown.split_once('e').unwrap_or((&shown, "0"));
    let number: i32 = exponent.parse().unwrap_or(0);
    let trimmed = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    let significant = i32::try_from(precision).unwrap_or(i32::MAX);
    if number < -4 || number >= significant {
        return format!("{}e{exponent}", trimmed(digits));
    }
    let places = usize::try_from(significant - 1 - number).unwrap_or(0);
    trimmed(&format!("{magnitude:.places$}"))
}
