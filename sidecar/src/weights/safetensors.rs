//! The header of a safetensors file, checked against the file before anything is believed.
//!
//! Layout: 8 bytes header length (little endian), that many bytes of JSON, then the data. Tensors
//! lie one after the other without holes, as the format demands.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};

use safetensors::Dtype;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use super::TensorInfo;
use super::encoding::Encoding;
use super::file::WeightFile;
use super::header::{self, Bounds, Dimensions, Label, Tensor};
use super::stored::{RowOrder, Stored};
use crate::model_error::{ModelError, shorten};

pub(crate) const LENGTH_BYTES: u64 = 8;

/// A file with its tensors, in the order of their data.
#[derive(Debug)]
pub(crate) struct SafetensorsFile {
    pub(crate) file: WeightFile,
    pub(crate) tensors: Vec<Entry>,
}

/// One tensor of a file. `stored` is absent where its type is not read.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) info: TensorInfo,
    /// Of its first byte in the file.
    pub(crate) offset: u64,
    pub(crate) stored: Option<Stored>,
}

/// A JSON object that refuses a key given twice, in the order of the file.
#[derive(Debug)]
pub(crate) struct UniqueMap<V>(pub(crate) Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for UniqueMap<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Keys<V> {
            type Value = UniqueMap<V>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UniqueMap<V>, A::Error> {
                let mut seen = HashSet::new();
                let mut entries = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, V>()? {
                    if !seen.insert(key.clone()) {
                        let key = shorten(&key);
                        return Err(A::Error::custom(format!("`{key}` is given twice")));
                    }
                    entries.push((key, value));
                }
                Ok(UniqueMap(entries))
            }
        }
        deserializer.deserialize_map(Keys(PhantomData))
    }
}

/// Reads and checks the header of one file. `digest` gets it as it stands there, with its length.
pub(crate) fn open(
    file: WeightFile,
    bounds: Bounds,
    digest: &mut dyn FnMut(&[u8]),
) -> Result<SafetensorsFile, ModelError> {
    /// Who parses: one at a time, which waits for no file.
    static PARSES: Mutex<()> = Mutex::new(());
    let header = read_header(&file, bounds)?;
    digest(&header);
    let (data, start) = (file.bytes() - header.len() as u64, header.len() as u64);
    let turn = PARSES.lock().unwrap_or_else(PoisonError::into_inner);
    let known = (start, Some(data), bounds.tensors);
    let (tensors, _) = entries(file.name(), &header[8..], known)?;
    drop(turn);
    Ok(SafetensorsFile { file, tensors })
}

/// The tensors of a header's JSON, in the order of their data, and the bytes that these take.
/// Known are where the data begins, what there is of it, where that is known, and the most tensors.
pub(crate) fn entries(
    name: &str,
    json: &[u8],
    (data_start, data_bytes, tensors_max): (u64, Option<u64>, usize),
) -> Result<(Vec<Entry>, u64), ModelError> {
    let fields = header::parse(json, tensors_max)
        .map_err(|e| ModelError::weights(name, format!("the header is not valid: {e}")))?;
    let ends = fields.iter().map(|(_, tensor)| tensor.data_offsets.1);
    let data_bytes = data_bytes.unwrap_or_else(|| ends.max().unwrap_or_default());
    let mut entries = Vec::with_capacity(fields.len());
    for (tensor, description) in fields {
        entries.push(entry(name, tensor, description, data_start, data_bytes)?);
    }
    let tensors = without_holes(name, entries, data_bytes)?;
    Ok((tensors, data_bytes))
}

fn read_header(file: &WeightFile, bounds: Bounds) -> Result<Vec<u8>, ModelError> {
    let too_short = |bytes: u64| {
        let have = file.bytes();
        let message = format!(
            "{have} bytes, the header alone needs {bytes}; the file is cut off \
             or is not safetensors, fetch it again"
        );
        ModelError::weights(file.name(), message)
    };
    if file.bytes() < LENGTH_BYTES {
        return Err(too_short(LENGTH_BYTES));
    }
    let mut length = [0; 8];
    file.read_at(0, &mut length)?;
    let length = u64::from_le_bytes(length);
    if length > bounds.bytes {
        let (allows, most) = (bounds.allows, bounds.bytes);
        let message =
            format!("header of {length} bytes, {allows} {most}; the file is not safetensors");
        return Err(ModelError::weights(file.name(), message));
    }
    if length > file.bytes() - LENGTH_BYTES {
        return Err(too_short(length + LENGTH_BYTES));
    }
    let bytes = usize::try_from(length + LENGTH_BYTES).unwrap_or(usize::MAX);
    let mut header = vec![0; bytes];
    file.read_at(0, &mut header)?;
    Ok(header)
}

/// A tensor with its start and end in the data section.
type Placed = (u64, u64, Entry);

fn entry(
    file: &str,
    name: String,
    tensor: Tensor,
    data_start: u64,
    data_bytes: u64,
) -> Result<Placed, ModelError> {
    let refuse = |message: String| {
        Err(ModelError::weights(
            file,
            format!("tensor `{}`: {message}", shorten(&name)),
        ))
    };
    let Tensor {
        dtype: Label(dtype),
        shape: Dimensions(shape),
        data_offsets: (start, end),
    } = tensor;
    let Ok(known) = serde_json::from_value::<Dtype>(dtype.as_str().into()) else {
        return refuse(format!("unknown dtype `{}`", shorten(&dtype)));
    };
    if start > end || end > data_bytes {
        return refuse(format!(
            "data_offsets [{start}, {end}] are outside of the {data_bytes} bytes of data; the file \
             is cut off or damaged, fetch it again"
        ));
    }
    let numbers = shape
        .iter()
        .try_fold(1u64, |product, dim| product.checked_mul(*dim));
    let bytes = numbers
        .and_then(|n| n.checked_mul(known.bitsize() as u64))
        .filter(|bits| bits % 8 == 0)
        .map(|bits| bits / 8);
    if bytes != Some(end - start) {
        return refuse(format!(
            "shape {shape:?} of {dtype} does not take the {} bytes of its data_offsets",
            end - start
        ));
    }
    // Cannot fail on 64 bits: each dimension is at most the file's length, or the tensor is empty.
    let shape: Vec<usize> = shape
        .into_iter()
        .map(|dim| usize::try_from(dim).unwrap_or(usize::MAX))
        .collect();
    let encoding = match known {
        Dtype::F32 => Some(Encoding::F32),
        Dtype::F16 => Some(Encoding::F16),
        Dtype::BF16 => Some(Encoding::Bf16),
        _ => None,
    };
    let info = TensorInfo {
        name,
        shape,
        dtype,
        bytes: end - start,
    };
    let stored = encoding.map(|encoding| {
        let cols = info.rows_cols().1;
        Stored {
            offset: data_start + start,
            cols,
            encoding,
            order: RowOrder::Plain,
        }
    });
    let entry = Entry {
        info,
        offset: data_start + start,
        stored,
    };
    Ok((start, end, entry))
}

fn without_holes(
    file: &str,
    mut placed: Vec<Placed>,
    data_bytes: u64,
) -> Result<Vec<Entry>, ModelError> {
    placed.sort_by_key(|(start, end, _)| (*start, *end));
    let mut covered = 0;
    for (start, end, entry) in &placed {
        if *start != covered {
            let what = if *start < covered {
                "overlaps the tensor before it"
            } else {
                "leaves a hole before it"
            };
            let name = shorten(&entry.info.name);
            let message = format!(
                "tensor `{name}`: data_offsets [{start}, {end}] begin at {start}, \
                 expected {covered}: {what}"
            );
            return Err(ModelError::weights(file, message));
        }
        covered = *end;
    }
    if covered != data_bytes {
        let message = format!(
            "the tensors take {covered} bytes, the file has {data_bytes} bytes of data; \
             fetch it again"
        );
        return Err(ModelError::weights(file, message));
    }
    Ok(placed.into_iter().map(|(_, _, entry)| entry).collect())
}
