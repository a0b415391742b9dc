//! The key-value part of a GGUF header.

use std::collections::BTreeMap;

use super::reader::HeaderReader;
use crate::model_error::{ModelError, shorten};

/// Pairs a header may have; real files have about 40.
const PAIRS_MAX: u64 = 1 << 16;
const KEY_BYTES_MAX: usize = 65_535;

/// A value, widened: the exact integer and float types do not matter to any reader.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    String(String),
    Strings(Vec<String>),
    Integers(Vec<i64>),
    Floats(Vec<f32>),
    Bools(Vec<bool>),
}

impl Value {
    const fn kind(&self) -> &'static str {
        match self {
            Value::Unsigned(_) | Value::Signed(_) => "an integer",
            Value::Float(_) => "a float",
            Value::Bool(_) => "a bool",
            Value::String(_) => "a string",
            Value::Strings(_) => "a list of strings",
            Value::Integers(_) => "a list of integers",
            Value::Floats(_) => "a list of floats",
            Value::Bools(_) => "a list of bools",
        }
    }
}

/// A value as a file has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Found {
    Number(f64),
    /// Something else, as text.
    Other(String),
}

/// All pairs of a file. The getters name the file and the key when a type is not as expected.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metadata {
    pub(crate) file: String,
    pairs: BTreeMap<String, Value>,
}

impl Metadata {
    pub(crate) fn read(
        reader: &mut HeaderReader<'_>,
        file: &str,
        count: u64,
    ) -> Result<Metadata, ModelError> {
        if count > PAIRS_MAX {
            return reader.refuse(format!("{count} metadata pairs, at most {PAIRS_MAX}"));
        }
        // A pair: length of the key, type of the value, one byte.
        reader.expect("metadata pairs", count, 8 + 4 + 1)?;
        let mut pairs = BTreeMap::new();
        for _ in 0..count {
            let key = reader.string("a metadata key")?;
            if key.len() > KEY_BYTES_MAX {
                return reader.refuse(format!("a metadata key of {} bytes", key.len()));
            }
            let value = read_value(reader, &shorten(&key))?;
            if pairs.contains_key(&key) {
                return reader.refuse(format!("metadata `{}` is given twice", shorten(&key)));
            }
            pairs.insert(key, value);
        }
        Ok(Metadata {
            file: file.to_owned(),
            pairs,
        })
    }

    fn mismatch<T>(&self, key: &str, value: &Value, expected: &str) -> Result<T, ModelError> {
        let message = format!("metadata `{key}` is {}, expected {expected}", value.kind());
        Err(ModelError::config(&self.file, message))
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.pairs.keys().map(String::as_str)
    }

    pub(crate) fn missing(&self, key: &str) -> ModelError {
        ModelError::config(&self.file, format!("metadata `{key}` is missing"))
    }

    pub(crate) fn integer(&self, key: &str) -> Result<Option<u64>, ModelError> {
        match self.pairs.get(key) {
            None => Ok(None),
            Some(Value::Unsigned(n)) => Ok(Some(*n)),
            Some(Value::Signed(n)) => match u64::try_from(*n) {
                Ok(n) => Ok(Some(n)),
                Err(_) => {
                    let message = format!("metadata `{key}` is {n}, expected 0 or more");
                    Err(ModelError::config(&self.file, message))
                }
            },
            // Some writers put a per-layer list where one number would do.
            Some(Value::Integers(list)) => match list.split_first() {
                Some((first, rest)) if rest.iter().all(|n| n == first) && *first >= 0 => {
                    Ok(Some(first.unsigned_abs()))
                }
                _ => {
                    let message = format!(
                        "metadata `{key}` differs from layer to layer; only models with equal \
                         layers are supported"
                    );
                    Err(ModelError::architecture(&self.file, message))
                }
            },
            Some(value) => self.mismatch(key, value, "an integer"),
        }
    }

    pub(crate) fn float(&self, key: &str) -> Result<Option<f64>, ModelError> {
        match self.pairs.get(key) {
            None => Ok(None),
            Some(Value::Float(x)) => Ok(Some(*x)),
            #[expect(
                clippy::cast_precision_loss,
                reason = "small integers written for floats"
            )]
            Some(Value::Unsigned(n)) => Ok(Some(*n as f64)),
            Some(value) => self.mismatch(key, value, "a float"),
        }
    }

    /// A number of any type, or what there is instead.
    pub(crate) fn found(&self, key: &str) -> Option<Found> {
        #[expect(clippy::cast_precision_loss, reason = "ranges are small")]
        Some(match self.pairs.get(key)? {
            Value::Unsigned(n) => Found::Number(*n as f64),
            Value::Signed(n) => Found::Number(*n as f64),
            Value::Float(x) => Found::Number(*x),
            Value::Bool(flag) => Found::Other(flag.to_string()),
            Value::String(text) => Found::Other(format!("{text:?}")),
            list => Found::Other(list.kind().to_owned()),
        })
    }

    pub(crate) fn bool(&self, key: &str) -> Result<Option<bool>, ModelError> {
        match self.pairs.get(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(value) => self.mismatch(key, value, "a bool"),
        }
    }

    pub(crate) fn string(&self, key: &str) -> Result<Option<&str>, ModelError> {
        match self.pairs.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(value) => self.mismatch(key, value, "a string"),
        }
    }

    pub(crate) fn strings(&mut self, key: &str) -> Result<Option<Vec<String>>, ModelError> {
        match self.pairs.remove(key) {
            None => Ok(None),
            Some(Value::Strings(list)) => Ok(Some(list)),
            Some(value) => self.mismatch(key, &value, "a list of strings"),
        }
    }

    pub(crate) fn floats(&mut self, key: &str) -> Result<Option<Vec<f32>>, ModelError> {
        match self.pairs.remove(key) {
            None => Ok(None),
            Some(Value::Floats(list)) => Ok(Some(list)),
            Some(value) => self.mismatch(key, &value, "a list of floats"),
        }
    }

    pub(crate) fn integers(&mut self, key: &str) -> Result<Option<Vec<i64>>, ModelError> {
        match self.pairs.remove(key) {
            None => Ok(None),
            Some(Value::Integers(list)) => Ok(Some(list)),
            Some(value) => self.mismatch(key, &value, "a list of integers"),
        }
    }
}

fn read_value(reader: &mut HeaderReader<'_>, key: &str) -> Result<Value, ModelError> {
    let kind = reader.u32()?;
    Ok(match kind {
        0 => Value::Unsigned(u64::from(u8::from_le_bytes(reader.bytes()?))),
        1 => Value::Signed(i64::from(i8::from_le_bytes(reader.bytes()?))),
        2 => Value::Unsigned(u64::from(u16::from_le_bytes(reader.bytes()?))),
        3 => Value::Signed(i64::from(i16::from_le_bytes(reader.bytes()?))),
        4 => Value::Unsigned(u64::from(reader.u32()?)),
        5 => Value::Signed(i64::from(i32::from_le_bytes(reader.bytes()?))),
        6 => Value::Float(f64::from(f32::from_le_bytes(reader.bytes()?))),
        7 => Value::Bool(read_bool(reader, key)?),
        8 => Value::String(reader.string(key)?),
        9 => return read_list(reader, key),
        10 => Value::Unsigned(reader.u64()?),
        11 => Value::Signed(i64::from_le_bytes(reader.bytes()?)),
        12 => Value::Float(f64::from_le_bytes(reader.bytes()?)),
        _ => return reader.refuse(format!("metadata `{key}` has the unknown type {kind}")),
    })
}

fn read_bool(reader: &mut HeaderReader<'_>, key: &str) -> Result<bool, ModelError> {
    match reader.bytes::<1>()? {
        [0] => Ok(false),
        [1] => Ok(true),
        [other] => reader.refuse(format!("metadata `{key}`: a bool of {other}")),
    }
}

fn read_list(reader: &mut HeaderReader<'_>, key: &str) -> Result<Value, ModelError> {
    let kind = reader.u32()?;
    let count = reader.u64()?;
    let bytes_each = match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        8 | 10..=12 => 8,
        9 => return reader.refuse(format!("metadata `{key}`: lists of lists are not read")),
        _ => {
            return reader.refuse(format!(
                "metadata `{key}`: a list of the unknown type {kind}"
            ));
        }
    };
    let count = reader.expect_list(key, count, bytes_each)?;
    fn list<T>(
        count: usize,
        mut next: impl FnMut() -> Result<T, ModelError>,
    ) -> Result<Vec<T>, ModelError> {
        let mut list = Vec::with_capacity(count);
        for _ in 0..count {
            list.push(next()?);
        }
        Ok(list)
    }
    let at = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "no list of f64 needs the last bits"
    )]
    Ok(match kind {
        0 => Value::Integers(list(count, || Ok(i64::from(reader.bytes::<1>()?[0])))?),
        1 => Value::Integers(list(count, || {
            Ok(i64::from(i8::from_le_bytes(reader.bytes()?)))
        })?),
        2 => Value::Integers(list(count, || {
            Ok(i64::from(u16::from_le_bytes(reader.bytes()?)))
        })?),
        3 => Value::Integers(list(count, || {
            Ok(i64::from(i16::from_le_bytes(reader.bytes()?)))
        })?),
        4 => Value::Integers(list(count, || Ok(i64::from(reader.u32()?)))?),
        5 => Value::Integers(list(count, || {
            Ok(i64::from(i32::from_le_bytes(reader.bytes()?)))
        })?),
        6 => Value::Floats(list(count, || Ok(f32::from_le_bytes(reader.bytes()?)))?),
        7 => Value::Bools(list(count, || read_bool(reader, key))?),
        8 => Value::Strings(list(count, || reader.string(key))?),
        10 => Value::Integers(list(count, || Ok(at(reader.u64()?)))?),
        11 => Value::Integers(list(count, || Ok(i64::from_le_bytes(reader.bytes()?)))?),
        _ => Value::Floats(list(count, || {
            Ok(f64::from_le_bytes(reader.bytes()?) as f32)
        })?),
    })
}
