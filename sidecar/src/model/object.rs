//! A JSON object of a model folder, and what a reader may ask of it: errors name file and field.

use serde_json::{Map, Value};

use super::bounds::Named;
use crate::model_error::{ModelError, shorten};

const EOS_IDS_MAX: usize = plimsoll_planner::limits::EOS_IDS;

/// A JSON object of a model folder, with getters that name file and field.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Object<'a> {
    pub(crate) file: &'a str,
    pub(crate) fields: &'a Map<String, Value>,
}

impl<'a> Object<'a> {
    /// The field, unless it is absent or null.
    pub(crate) fn get(self, field: &str) -> Option<&'a Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    fn mismatch<T>(self, field: &str, value: &Value, expected: &str) -> Result<T, ModelError> {
        let value = shorten(&value.to_string());
        Err(ModelError::config(
            self.file,
            format!("{field} is {value}, expected {expected}"),
        ))
    }

    pub(crate) fn number(self, field: &str) -> Result<Option<Named>, ModelError> {
        match self.get(field) {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                Some(number) => Ok(Some(Named {
                    field: field.to_owned(),
                    number,
                })),
                None => self.mismatch(field, value, "a whole number"),
            },
        }
    }

    /// The number, or what it is where the file does not say. Null is refused.
    pub(crate) fn number_or(self, field: &str, default: u64) -> Result<Named, ModelError> {
        self.refuse_null(field, "a whole number")?;
        Ok(self.number(field)?.unwrap_or_else(|| Named {
            field: field.to_owned(),
            number: default,
        }))
    }

    /// Where the classes of transformers take no null.
    pub(crate) fn refuse_null(self, field: &str, expected: &str) -> Result<(), ModelError> {
        match self.fields.get(field) {
            Some(value @ Value::Null) => self.mismatch(field, value, expected),
            _ => Ok(()),
        }
    }

    pub(crate) fn is_null(self, field: &str) -> bool {
        self.fields.get(field).is_some_and(Value::is_null)
    }

    pub(crate) fn float(self, field: &str) -> Result<Option<f64>, ModelError> {
        match self.get(field) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) => Ok(Some(number)),
                None => self.mismatch(field, value, "a number"),
            },
        }
    }

    pub(crate) fn flag(self, field: &str) -> Result<bool, ModelError> {
        match self.get(field) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => self.mismatch(field, value, "true or false"),
        }
    }

    /// A flag that the classes of transformers refuse as null.
    pub(crate) fn flag_of_its_own(self, field: &str) -> Result<bool, ModelError> {
        self.refuse_null(field, "true or false")?;
        self.flag(field)
    }

    pub(crate) fn text(self, field: &str) -> Result<Option<&'a str>, ModelError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(value) => self.mismatch(field, value, "a string"),
        }
    }

    pub(crate) fn object(self, field: &str) -> Result<Option<Object<'a>>, ModelError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Object {
                file: self.file,
                fields,
            })),
            Some(value) => self.mismatch(field, value, "an object"),
        }
    }

    /// One token id or a list of them.
    pub(crate) fn ids(self, field: &str) -> Result<Vec<u32>, ModelError> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match self.get(field) {
            None => Some(Vec::new()),
            Some(Value::Array(list)) if list.len() <= EOS_IDS_MAX => list.iter().map(id).collect(),
            Some(value) => id(value).map(|id| vec![id]),
        };
        match ids {
            Some(ids) => Ok(ids),
            None => self.mismatch(
                field,
                &self.fields[field],
                &format!("a token id or a list of up to {EOS_IDS_MAX}"),
            ),
        }
    }
}

/// Parses a JSON file whose top is an object.
pub(crate) fn parse_object(file: &str, bytes: &[u8]) -> Result<Map<String, Value>, ModelError> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(ModelError::config(file, "is not a JSON object")),
        Err(e) => Err(ModelError::config(file, format!("is not valid JSON: {e}"))),
    }
}
