//! The JSON of a safetensors header, read into descriptions of tensors and nothing else: what a stranger
//! writes there takes no more memory than it has bytes for, times a small number.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::model_error::shorten;

/// The format's own bound.
const FORMAT_BYTES_MAX: u64 = 100_000_000;
/// More than any axis that a model has: convolutions over time have five.
const DIMENSIONS_MAX: usize = 8;
/// Longer than every name of a type.
const LABEL_BYTES_MAX: usize = 32;

/// What a header may have at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) bytes: u64,
    /// Whose bound that is, as a message has it.
    pub(crate) allows: &'static str,
    pub(crate) tensors: usize,
}

impl Bounds {
    /// One file of a model: the largest have some ten thousand tensors.
    pub(crate) const MODEL: Bounds = Bounds {
        bytes: FORMAT_BYTES_MAX,
        allows: "the format allows",
        tensors: 1 << 16,
    };
    /// An adapter's: those of models with a hundred layers have two thousand tensors, in 300 KB.
    pub(crate) const ADAPTER: Bounds = Bounds {
        bytes: 4 << 20,
        allows: "an adapter may have",
        tensors: 1 << 15,
    };
}

/// A tensor as the header describes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tensor {
    pub(super) dtype: Label,
    pub(super) shape: Dimensions,
    pub(super) data_offsets: (u64, u64),
}

/// The tensors of a header by name, in its order.
///
/// # Errors
/// Where it is no header, has a name twice, or more than `tensors_max` tensors.
pub(super) fn parse(json: &[u8], tensors_max: usize) -> Result<Vec<(String, Tensor)>, String> {
    // An error would have all of what is there instead.
    let first = json.iter().find(|byte| !byte.is_ascii_whitespace());
    if first.is_some_and(|byte| *byte != b'{') {
        return Err("expected an object".to_owned());
    }
    let mut json = serde_json::Deserializer::from_slice(json);
    let all = Tensors(tensors_max).deserialize(&mut json);
    let all = all.and_then(|all| json.end().map(|()| all));
    all.map_err(|error| error.to_string())
}

/// At most so many.
struct Tensors(usize);

impl<'de> DeserializeSeed<'de> for Tensors {
    type Value = Vec<(String, Tensor)>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Tensors {
    type Value = Vec<(String, Tensor)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut seen, mut tensors) = (HashSet::new(), Vec::new());
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(Error::custom(format!(
                    "`{}` is given twice",
                    shorten(&name)
                )));
            }
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if tensors.len() == self.0 {
                let message = format!("it has more than {} tensors, which are the most", self.0);
                return Err(Error::custom(message));
            }
            let tensor = map.next_value().map_err(|error| {
                Error::custom(format!(
                    "tensor `{}`: expected dtype, shape and data_offsets (two numbers): {}",
                    shorten(&name),
                    shorten(&error.to_string())
                ))
            })?;
            tensors.push((name, tensor));
        }
        Ok(tensors)
    }
}

/// The name of a type.
#[derive(Debug)]
pub(super) struct Label(pub(super) String);

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Label, D::Error> {
        let label = String::deserialize(json)?;
        match label.len() <= LABEL_BYTES_MAX {
            true => Ok(Label(label)),
            false => Err(D::Error::custom(format!(
                "unknown dtype `{}`",
                shorten(&label)
            ))),
        }
    }
}

/// A list that ends where no tensor's would go on.
#[derive(Debug)]
pub(super) struct Dimensions(pub(super) Vec<u64>);

impl<'de> Deserialize<'de> for Dimensions {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Dimensions, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Dimensions;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {DIMENSIONS_MAX} dimensions")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Dimensions, A::Error> {
                let mut dimensions = Vec::new();
                while let Some(dimension) = list.next_element()? {
                    if dimensions.len() == DIMENSIONS_MAX {
                        return Err(Error::invalid_length(DIMENSIONS_MAX + 1, &self));
                    }
                    dimensions.push(dimension);
                }
                Ok(Dimensions(dimensions))
            }
        }
        json.deserialize_seq(List)
    }
}
