//! The tensor descriptions of a GGUF header, checked against the file's length.

use std::collections::HashSet;

use super::metadata::Metadata;
use super::names::{TensorType, hugging_face, tensor_type};
use super::reader::HeaderReader;
use crate::model_error::{ModelError, shorten};
use crate::weights::TensorInfo;
use crate::weights::encoding::Encoding;
use crate::weights::stored::{RowOrder, Stored};

/// Tensors a header may have; the largest models have a few thousand.
const TENSORS_MAX: u64 = 1 << 16;
const DIMENSIONS_MAX: u32 = 4;
const ALIGNMENT_DEFAULT: u64 = 32;
const ALIGNMENT_MAX: u64 = 1 << 16;

/// One description as the header has it.
struct Described {
    name: String,
    /// Row-major: the header's order reversed.
    shape: Vec<usize>,
    numbers: u64,
    encoding: Encoding,
    /// In the data section.
    offset: u64,
}

/// Reads the descriptions that follow the metadata, in the order of their data.
pub(crate) fn read(
    reader: &mut HeaderReader<'_>,
    metadata: &Metadata,
    count: u64,
) -> Result<Vec<(TensorInfo, Stored)>, ModelError> {
    if count > TENSORS_MAX {
        return reader.refuse(format!("{count} tensors, at most {TENSORS_MAX}"));
    }
    let alignment = metadata
        .integer("general.alignment")?
        .unwrap_or(ALIGNMENT_DEFAULT);
    if !alignment.is_power_of_two() || alignment > ALIGNMENT_MAX {
        return reader.refuse(format!(
            "metadata `general.alignment` is {alignment}, expected a power of two up to \
             {ALIGNMENT_MAX}"
        ));
    }
    // A description: length of the name, dimension count, one dimension, type, offset.
    reader.expect("tensors", count, 8 + 4 + 8 + 4 + 8)?;
    let mut described = Vec::new();
    let mut seen = HashSet::new();
    for _ in 0..count {
        let tensor = read_one(reader, alignment)?;
        if !seen.insert(tensor.name.clone()) {
            return reader.refuse(format!("tensor `{}` is given twice", shorten(&tensor.name)));
        }
        described.push(tensor);
    }
    let data_start = reader.position().next_multiple_of(alignment);
    place(reader, described, data_start)
}

fn read_one(reader: &mut HeaderReader<'_>, alignment: u64) -> Result<Described, ModelError> {
    let name = reader.string("a tensor's name")?;
    let shown = shorten(&name);
    let dimensions = reader.u32()?;
    if dimensions == 0 || dimensions > DIMENSIONS_MAX {
        return reader.refuse(format!(
            "tensor `{shown}`: {dimensions} dimensions, expected 1 to 4"
        ));
    }
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        shape.push(reader.u64()?);
    }
    let number = reader.u32()?;
    let offset = reader.u64()?;
    let encoding = match tensor_type(number) {
        TensorType::Read(encoding) => encoding,
        TensorType::Known(kind) => return Err(unsupported(reader.file_name(), &shown, kind)),
        TensorType::Unknown => {
            return reader.refuse(format!("tensor `{shown}`: unknown tensor type {number}"));
        }
    };
    let numbers = shape
        .iter()
        .try_fold(1u64, |product, dim| product.checked_mul(*dim));
    let Some(numbers) = numbers.filter(|n| *n > 0 && *n <= 1 << 48) else {
        return reader.refuse(format!(
            "tensor `{shown}`: dimensions {shape:?} are not possible"
        ));
    };
    let block = encoding.block_numbers() as u64;
    if shape[0] % block != 0 {
        return reader.refuse(format!(
            "tensor `{shown}`: rows of {} numbers are no multiple of the {block} in a block of {}",
            shape[0],
            encoding.label()
        ));
    }
    if encoding.is_quantized() && dimensions == 1 {
        return reader.refuse(format!(
            "tensor `{shown}`: a vector stored as {}",
            encoding.label()
        ));
    }
    if offset % alignment != 0 {
        return reader.refuse(format!(
            "tensor `{shown}`: offset {offset} is no multiple of the alignment {alignment}"
        ));
    }
    // Each dimension is at most `numbers`, which is at most 2^48.
    let shape = shape
        .iter()
        .rev()
        .map(|dim| usize::try_from(*dim).unwrap_or(usize::MAX))
        .collect();
    Ok(Described {
        name,
        shape,
        numbers,
        encoding,
        offset,
    })
}

fn unsupported(file: &str, tensor: &str, kind: &str) -> ModelError {
    let read = Encoding::read();
    ModelError::quantization(
        file,
        format!("tensor `{tensor}` is {kind}; read are {read}: use a file of one of these types"),
    )
}

/// Checks that the tensors lie inside the file and apart from each other.
fn place(
    reader: &HeaderReader<'_>,
    mut described: Vec<Described>,
    data_start: u64,
) -> Result<Vec<(TensorInfo, Stored)>, ModelError> {
    let file_bytes = reader.file_bytes();
    described.sort_by_key(|tensor| tensor.offset);
    let mut covered = 0;
    let mut placed = Vec::with_capacity(described.len());
    for Described {
        name,
        shape,
        numbers,
        encoding,
        offset,
    } in described
    {
        let shown = shorten(&name);
        // At most 2^48 numbers of at most 4 bytes.
        let bytes = numbers / encoding.block_numbers() as u64 * encoding.block_bytes() as u64;
        if offset < covered {
            return reader.refuse(format!(
                "tensor `{shown}`: offset {offset} overlaps the tensor before it, which ends at \
                 {covered}"
            ));
        }
        let end = offset
            .checked_add(bytes)
            .and_then(|end| end.checked_add(data_start));
        if end.is_none_or(|end| end > file_bytes) {
            return reader.refuse(format!(
                "tensor `{shown}`: {bytes} bytes at offset {offset} of the data reach beyond the \
                 {file_bytes} bytes of the file; it is cut off or damaged, fetch it again"
            ));
        }
        covered = offset + bytes;
        let name = hugging_face(&name).unwrap_or(name);
        let info = TensorInfo {
            name,
            shape,
            dtype: encoding.label().into(),
            bytes,
        };
        let cols = info.rows_cols().1;
        let offset = data_start + offset;
        let stored = Stored {
            offset,
            cols,
            encoding,
            order: RowOrder::Plain,
        };
        placed.push((info, stored));
    }
    Ok(placed)
}
