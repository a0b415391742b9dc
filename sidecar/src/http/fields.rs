//! Reads a JSON object field by field, so that every refusal names field, value and range.
//!
//! Knows JSON and ranges, not what the fields mean. A field that nobody took is an error in
//! [`Fields::finish`]: a parameter is honoured or refused, never silently ignored.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::bodies::Held;
use super::error::{ApiError, shown};

/// The fields of a request that were not taken yet, and the bytes that they were granted. `null`
/// counts as absent everywhere.
#[derive(Debug)]
pub struct Fields(Map<String, Value>, Held);

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
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Fields(fields, Held::default())),
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

    /// Keeps `held` as long as the fields.
    #[must_use]
    pub fn holding(self, held: Held) -> Fields {
        Fields(self.0, held)
    }

    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    /// A whole number within `range`.
    pub fn integer(
        &mut self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let whole = format!("a whole number from {} to {}", range.start(), range.end());
        match value.as_i64() {
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
        match value.as_f64() {
            #[expect(clippy::cast_possible_truncation, reason = "sampling computes in f32")]
            Some(number) if range.contains(&number) => Ok(Some(number as f32)),
            Some(number) => Err(ApiError::invalid(
                Some(name),
                format!("{name}: {number} is not {expected}"),
            )),
            None => Err(wrong(name, &value, &expected)),
        }
    }

    pub fn boolean(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(wrong(name, &other, "true or false")),
        }
    }

    pub fn string(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(name, &other, "a string")),
        }
    }

    /// Takes fields that change nothing in the answer (`user` and the like), whatever they hold.
    pub fn ignore(&mut self, names: &[&str]) {
        for name in names {
            self.0.remove(*name);
        }
    }

    /// Refuses `names` by name unless they are absent, null, or say "nothing": false, an empty
    /// list or object, or one of `neutral`.
    pub fn refuse(&mut self, names: &[&str], neutral: &[Value]) -> Result<(), ApiError> {
        for name in names {
            let Some(value) = self.take(name) else {
                continue;
            };
            let nothing = match &value {
                Value::Bool(flag) => !flag,
                Value::Array(items) => items.is_empty(),
                Value::Object(items) => items.is_empty(),
                _ => false,
            };
            if !nothing && !neutral.contains(&value) {
                return Err(ApiError::unsupported(
                    name,
                    "this parameter is not supported",
                ));
            }
        }
        Ok(())
    }

    /// # Errors
    /// 400 that names the first field nobody took (nulls aside).
    pub fn finish(self) -> Result<(), ApiError> {
        let Fields(left, _held) = self;
        match left.iter().find(|(_, value)| !value.is_null()) {
            None => Ok(()),
            Some((name, _)) => Err(ApiError::invalid(
                Some(&name.chars().take(64).collect::<String>()),
                format!("{}: no such parameter", shown(name)),
            )
            .with_code("unsupported_parameter")),
        }
    }
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fields(text: &str) -> Fields {
        Fields::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn malformed_json_is_refused_with_its_position() {
        for (body, part) in [
            ("", "empty"),
            ("[1]", "must be an object, not a list"),
            ("{\"a\": }", "line 1 column 7"),
            ("{\"a\": 1,\n \"b\": tru}", "line 2 column"),
            (
                "{\"a\": 1} trailing",
                "trailing characters at line 1 column 10",
            ),
            ("{\"a\": \"\\ud800\"}", "line 1 column"),
            ("{\"a\": 1e999}", "number out of range"),
        ] {
            let error = Fields::parse(body.as_bytes()).unwrap_err();
            assert_eq!(error.status.as_u16(), 400, "{body}");
            assert!(error.message.contains(part), "{body}: {}", error.message);
        }
        let deep = "{\"a\":".repeat(1000);
        let error = Fields::parse(deep.as_bytes()).unwrap_err();
        assert!(
            error.message.contains("recursion limit"),
            "{}",
            error.message
        );
    }

    #[test]
    fn refusals_name_field_value_and_range() {
        let error = fields(r#"{"n": 0}"#).count("n", 1..=8).unwrap_err();
        assert_eq!(error.message, "n: 0 is not a whole number from 1 to 8");
        assert_eq!(error.param.as_deref(), Some("n"));
        let error = fields(r#"{"n": -3}"#).count("n", 1..=8).unwrap_err();
        assert_eq!(error.message, "n: -3 is not a whole number from 1 to 8");
        let error = fields(r#"{"n": "two"}"#).count("n", 1..=8).unwrap_err();
        assert_eq!(
            error.message,
            "n: must be a whole number from 1 to 8, not the string \"two\""
        );
        let error = fields(r#"{"n": 1.5}"#).count("n", 1..=8).unwrap_err();
        assert_eq!(
            error.message,
            "n: must be a whole number from 1 to 8, not 1.5"
        );
        let error = fields(r#"{"t": -0.5}"#).number("t", 0.0..=2.0).unwrap_err();
        assert_eq!(error.message, "t: -0.5 is not a number from 0 to 2");
        let error = fields(r#"{"s": [1]}"#).string("s").unwrap_err();
        assert_eq!(error.message, "s: must be a string, not a list");
        let error = fields(r#"{"n": 99999999999999999999999}"#)
            .count("n", 1..=8)
            .unwrap_err();
        assert!(
            error.message.starts_with("n: must be a whole number"),
            "{}",
            error.message
        );
    }

    #[test]
    fn unknown_fields_are_refused_by_name_and_nulls_are_absent() {
        let error = fields(r#"{"a": null, "frobnicate": 1}"#)
            .finish()
            .unwrap_err();
        assert_eq!(error.param.as_deref(), Some("frobnicate"));
        assert_eq!(error.code, Some("unsupported_parameter"));
        let mut absent = fields(r#"{"a": null}"#);
        assert_eq!(absent.number("a", 0.0..=1.0).unwrap(), None);
        absent.finish().unwrap();
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Err(error) = Fields::parse(&body) {
                prop_assert_eq!(error.status.as_u16(), 400);
            }
        }
    }
}
