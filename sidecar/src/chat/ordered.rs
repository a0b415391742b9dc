//! JSON whose objects keep the order of their fields: templates write them in it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

#[derive(Clone, Debug, PartialEq)]
pub enum Ordered {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Ordered>),
    Object(Vec<(String, Ordered)>),
}

impl Ordered {
    pub fn text(text: impl Into<String>) -> Ordered {
        Ordered::Text(text.into())
    }

    /// A field of an object.
    pub fn get(&self, name: &str) -> Option<&Ordered> {
        match self {
            Ordered::Object(fields) => fields.iter().find(|(key, _)| key == name).map(|(_, v)| v),
            _ => None,
        }
    }

    /// Bytes of it, about as JSON has them.
    pub(super) fn size(&self) -> usize {
        match self {
            Ordered::Text(text) => text.len() + 2,
            Ordered::List(items) => items.iter().map(|item| item.size() + 1).sum::<usize>() + 2,
            Ordered::Object(fields) => {
                let sizes = fields
                    .iter()
                    .map(|(name, value)| name.len() + value.size() + 4);
                sizes.sum::<usize>() + 2
            }
            Ordered::Null | Ordered::Bool(_) | Ordered::Int(_) | Ordered::Float(_) => 4,
        }
    }

    /// Every text in it: values and names of fields.
    pub(super) fn visit<'a>(&'a self, see: &mut dyn FnMut(&'a str)) {
        match self {
            Ordered::Text(text) => see(text),
            Ordered::List(items) => items.iter().for_each(|item| item.visit(see)),
            Ordered::Object(fields) => {
                for (name, value) in fields {
                    see(name);
                    value.visit(see);
                }
            }
            _ => {}
        }
    }

    /// The same with every text changed.
    pub(super) fn map(&self, change: &mut dyn FnMut(&str) -> String) -> Ordered {
        match self {
            Ordered::Text(text) => Ordered::Text(change(text)),
            Ordered::List(items) => {
                Ordered::List(items.iter().map(|item| item.map(change)).collect())
            }
            Ordered::Object(fields) => Ordered::Object(
                fields
                    .iter()
                    .map(|(name, value)| (change(name), value.map(change)))
                    .collect(),
            ),
            other => other.clone(),
        }
    }
}

/// Whether a number may have been a whole one that JSON's reader has rounded: Python keeps all of its
/// digits, so a template would write another number.
pub fn is_beyond(number: f64) -> bool {
    const BITS_64: f64 = 18_446_744_073_709_551_616.0;
    number.abs() >= BITS_64
}

impl From<&serde_json::Value> for Ordered {
    fn from(value: &serde_json::Value) -> Ordered {
        use serde_json::Value;
        match value {
            Value::Null => Ordered::Null,
            Value::Bool(flag) => Ordered::Bool(*flag),
            Value::Number(number) => match (number.as_i128(), number.as_f64()) {
                (Some(number), _) => Ordered::Int(number),
                (None, number) => Ordered::Float(number.unwrap_or(f64::NAN)),
            },
            Value::String(text) => Ordered::text(text),
            Value::Array(items) => Ordered::List(items.iter().map(Ordered::from).collect()),
            Value::Object(fields) => {
                let pair = |(name, value): (&String, &Value)| (name.clone(), value.into());
                Ordered::Object(fields.iter().map(pair).collect())
            }
        }
    }
}

impl Serialize for Ordered {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Ordered::Null => serializer.serialize_unit(),
            Ordered::Bool(flag) => serializer.serialize_bool(*flag),
            Ordered::Int(number) => match i64::try_from(*number) {
                Ok(number) => serializer.serialize_i64(number),
                Err(_) => serializer.serialize_i128(*number),
            },
            Ordered::Float(number) => serializer.serialize_f64(*number),
            Ordered::Text(text) => serializer.serialize_str(text),
            Ordered::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    list.serialize_element(item)?;
                }
                list.end()
            }
            Ordered::Object(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (name, value) in fields {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Ordered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Ordered, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Ordered;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Ordered, E> {
        Ok(Ordered::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Ordered, E> {
        Ok(Ordered::Bool(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Ordered, E> {
        Ok(Ordered::Int(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Ordered, E> {
        Ok(Ordered::Int(number.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Ordered, E> {
        if is_beyond(number) {
            return Err(E::custom(format!("the number {number} is beyond 64 bits")));
        }
        Ok(Ordered::Float(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Ordered, E> {
        Ok(Ordered::text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Ordered, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Ordered::List(list))
    }

    /// Of fields with one name the last one counts, at the place of the first, as in Python.
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Ordered, A::Error> {
        let mut fields: Vec<(String, Ordered)> = Vec::new();
        let mut places = std::collections::HashMap::new();
        while let Some((name, value)) = entries.next_entry::<String, Ordered>()? {
            match places.get(&name) {
                Some(at) => {
                    let at: usize = *at;
                    fields[at].1 = value;
                }
                None => {
                    places.insert(name.clone(), fields.len());
                    fields.push((name, value));
                }
            }
        }
        Ok(Ordered::Object(fields))
    }
}
