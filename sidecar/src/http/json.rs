//! JSON of requests. A field that an object has twice is refused: which of the two was meant nobody can
//! know, and others may read the other one.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::error::shown;

/// The one value in a text.
///
/// # Errors
/// With line and column: it is not JSON, is followed by something, or has a field twice.
pub fn parse(text: &[u8]) -> serde_json::Result<Value> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = Once.deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// A value whose objects have each field once.
struct Once;

impl<'de> DeserializeSeed<'de> for Once {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Once {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Once)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            if object.contains_key(&name) {
                let why = format!("the field {} is there twice", shown(&name));
                return Err(A::Error::custom(why));
            }
            object.insert(name, fields.next_value_seed(Once)?);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_as_ever_and_a_field_that_is_there_twice_is_named() {
        let deep = "[".repeat(127) + &"]".repeat(127);
        let too_deep = "[".repeat(129) + &"]".repeat(129);
        for text in [
            r#"{"a": [1, -2, 2.5, 1e300, true, null, "\u00e9\n", {}], "b": {"a": 18446744073709551615}}"#,
            " [ ] ",
            "-0.0",
            deep.as_str(),
            too_deep.as_str(),
            "{\"a\": 1} x",
            "[1,]",
            "1e999",
            "",
        ] {
            let (ours, theirs) = (parse(text.as_bytes()), serde_json::from_str::<Value>(text));
            let words = |error: serde_json::Error| error.to_string();
            assert_eq!(ours.map_err(words), theirs.map_err(words), "{text}");
        }
        for text in [
            r#"{"x": 1, "y": 2, "x": 1}"#,
            r#"{"y": [{"z": {"x": null, "\u0078": 3}}]}"#,
        ] {
            let told = parse(text.as_bytes()).unwrap_err().to_string();
            assert!(
                told.starts_with("the field \"x\" is there twice at line 1"),
                "{told}"
            );
        }
    }
}
