//! Reads a JSON object field by field, so that every refusal names field, value and range.
//!
//! Knows JSON and ranges, not what the fields mean. One rule holds for every object of a request,
//! nested ones included: a table says of each field that it may have what becomes of it
//! ([`Decision`]), and what no table knows is refused by name. So a field is honoured or refused,
//! never silently ignored; [`Fields::finish`] finds what a table calls honoured and nobody took.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::bodies::Held;
use super::error::{ApiError, shown};
use super::json;

/// What becomes of a field. `null` counts as absent, whatever the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Read, checked and obeyed by whoever takes it.
    Honoured,
    /// Accepted with these values (JSON texts), with which the answer is what it is anyway; refused
    /// by name with all others.
    Only(&'static [&'static str]),
    /// A label or hint of clients: whatever it holds, no answer depends on it.
    Harmless,
}

/// Fields of one level of a request and what becomes of them.
pub type Table = &'static [(&'static str, Decision)];

/// The fields of an object that were not taken yet, and the bytes that they were granted.
#[derive(Debug)]
pub struct Fields {
    /// In front of a field's name in messages: empty, or `messages[3].`.
    path: String,
    left: Map<String, Value>,
    held: Held,
}

impl Fields {
    /// # Errors
    /// 400 with line and column when `body` is not JSON, or is not an object.
    pub fn parse(body: &[u8]) -> Result<Fields, ApiError> {
        if body.is_empty() {
            return Err(ApiError::invalid(
                None,
                "the request body is empty, JSON is expected",
            ));
        }
        match json::parse(body) {
            Ok(Value::Object(left)) => Ok(Fields {
                path: String::new(),
                left,
                held: Held::default(),
            }),
            Ok(other) => {
                let message = format!("the request body must be an object, not {}", kind(&other));
                Err(ApiError::invalid(None, message))
            }
            Err(error) => {
                let message = format!("the request body is not valid JSON: {error}");
                Err(ApiError::invalid(None, message).with_code("invalid_json"))
            }
        }
    }

    /// The fields of the object `value` that stands at `path` (`messages[3]`).
    ///
    /// # Errors
    /// 400 when it is not an object.
    pub fn of(path: &str, value: Value) -> Result<Fields, ApiError> {
        match value {
            Value::Object(left) => Ok(Fields {
                path: format!("{path}."),
                left,
                held: Held::default(),
            }),
            other => Err(wrong(path, &other, "an object")),
        }
    }

    /// Keeps `held` as long as the fields.
    #[must_use]
    pub fn holding(self, held: Held) -> Fields {
        Fields { held, ..self }
    }

    /// A field's full name, as messages show it.
    pub fn name(&self, field: &str) -> String {
        format!("{}{field}", self.path)
    }

    /// Applies the rule: refuses what no table knows and what is not neutral, drops what is neutral
    /// or harmless, and leaves what is honoured to its takers.
    ///
    /// # Errors
    /// 400 that names the field.
    pub fn settle(&mut self, tables: &[Table]) -> Result<(), ApiError> {
        self.left.retain(|_, value| !value.is_null());
        for (field, value) in &self.left {
            match decision(tables, field) {
                Some(Decision::Honoured | Decision::Harmless) => {}
                Some(Decision::Only(neutral)) if is_one_of(value, neutral) => {}
                Some(Decision::Only(neutral)) => {
                    let why = match neutral {
                        [] => "this parameter is not supported".to_owned(),
                        values => format!("only {} is supported", values.join(" or ")),
                    };
                    return Err(ApiError::unsupported(&self.name(field), &why));
                }
                None => return Err(self.unknown(field)),
            }
        }
        self.left
            .retain(|field, _| decision(tables, field) == Some(Decision::Honoured));
        Ok(())
    }

    fn unknown(&self, field: &str) -> ApiError {
        let name = self.name(&field.chars().take(64).collect::<String>());
        ApiError::invalid(Some(&name), format!("{}: no such parameter", shown(&name)))
            .with_code("unsupported_parameter")
    }

    /// Whether the field is there.
    pub fn has(&self, name: &str) -> bool {
        self.left.get(name).is_some_and(|value| !value.is_null())
    }

    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.left.remove(name).filter(|value| !value.is_null())
    }

    /// The fields of a nested object.
    pub fn object(&mut self, name: &str) -> Result<Option<Fields>, ApiError> {
        let path = self.name(name);
        self.take(name)
            .map(|value| Fields::of(&path, value))
            .transpose()
    }

    /// A whole number within `range`; `2.0` is one, as in JSON schemas. Numbers in strings are
    /// refused, as OpenAI refuses them: `"0.5"` is a mistake of the client that hides others.
    pub fn integer(
        &mut self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let whole = format!("a whole number from {} to {}", range.start(), range.end());
        let name = &self.name(name);
        match whole_number(&value) {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            Some(number) => Err(ApiError::invalid(
                Some(name),
                format!("{name}: {number} is not {whole}"),
            )),
            None => Err(wrong(name, &value, &whole)),
        }
    }

    /// [`Fields::integer`] for counts.
    pub fn count(
        &mut self,
        name: &str,
        range: RangeInclusive<u32>,
    ) -> Result<Option<u32>, ApiError> {
        let signed = i64::from(*range.start())..=i64::from(*range.end());
        Ok(self
            .integer(name, signed)?
            .and_then(|number| u32::try_from(number).ok()))
    }

    /// A finite number within `range`.
    pub fn number(
        &mut self,
        name: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let expected = format!("a number from {} to {}", range.start(), range.end());
        real(&self.name(name), &value, &expected, |number| {
            range.contains(&number)
        })
        .map(Some)
    }

    /// A number above 0, at most `most`. One that is 0 where sampling computes is 0.
    pub fn positive(&mut self, name: &str, most: f64) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let expected = format!("a number above 0, at most {most}");
        let name = &self.name(name);
        let read = real(name, &value, &expected, |number| {
            number > 0.0 && number <= most
        })?;
        if read > 0.0 {
            return Ok(Some(read));
        }
        let message = format!("{name}: {value} is rounded to 0, which is not {expected}");
        Err(ApiError::invalid(Some(name), message))
    }

    pub fn boolean(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(wrong(&self.name(name), &other, "true or false")),
        }
    }

    pub fn string(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(&self.name(name), &other, "a string")),
        }
    }

    /// # Errors
    /// 400 that names the first field nobody took (nulls aside).
    pub fn finish(self) -> Result<(), ApiError> {
        let Fields {
            left, held: _held, ..
        } = &self;
        match left.iter().find(|(_, value)| !value.is_null()) {
            None => Ok(()),
            Some((field, _)) => Err(self.unknown(field)),
        }
    }
}

fn decision(tables: &[Table], field: &str) -> Option<Decision> {
    let mut all = tables.iter().flat_map(|table| table.iter());
    all.find(|(name, _)| *name == field)
        .map(|(_, decision)| *decision)
}

/// Whether the value is one of these JSON texts; numbers compare as numbers.
fn is_one_of(value: &Value, texts: &[&str]) -> bool {
    texts.iter().any(|text| {
        serde_json::from_str::<Value>(text).is_ok_and(|neutral| {
            neutral == *value || neutral.is_number() && neutral.as_f64() == value.as_f64()
        })
    })
}

/// A number that is `allowed`, which `expected` says in words.
fn real(
    name: &str,
    value: &Value,
    expected: &str,
    allowed: impl Fn(f64) -> bool,
) -> Result<f32, ApiError> {
    match value.as_f64() {
        #[expect(clippy::cast_possible_truncation, reason = "sampling computes in f32")]
        Some(number) if allowed(number) => Ok(number as f32),
        Some(number) => Err(ApiError::invalid(
            Some(name),
            format!("{name}: {number} is not {expected}"),
        )),
        None => Err(wrong(name, value, expected)),
    }
}

fn whole_number(value: &Value) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53: beyond it, floats skip numbers
    let float = || {
        let number = value.as_f64()?;
        #[expect(clippy::cast_possible_truncation, reason = "whole, and below 2^53")]
        (number.fract() == 0.0 && number.abs() < EXACT).then_some(number as i64)
    };
    value.as_i64().or_else(float)
}

/// A field of the wrong type; shows scalars, names containers.
pub fn wrong(name: &str, value: &Value, expected: &str) -> ApiError {
    let got = match value {
        Value::String(text) => format!("the string {}", shown(text)),
        Value::Number(number) => number.to_string(),
        other => kind(other).to_owned(),
    };
    ApiError::invalid(Some(name), format!("{name}: must be {expected}, not {got}"))
}

/// What JSON calls the value, for messages.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests;
