//! Weights that a trainer has changed: half of the numbers of each matrix have another sign. The trainer's
//! program and the test that compares its engine with another one share it.

use std::io;

/// The file's header with its length, and its data with the changes. F32 alone.
///
/// # Errors
/// Where it is no safetensors file of ours.
pub(crate) fn weights(file: &[u8]) -> io::Result<Vec<u8>> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "no safetensors file");
    let length = file
        .first_chunk::<8>()
        .map(|bytes| u64::from_le_bytes(*bytes));
    let length = length
        .and_then(|length| usize::try_from(length).ok())
        .ok_or_else(wrong)?;
    let data = length
        .checked_add(8)
        .filter(|start| *start <= file.len())
        .ok_or_else(wrong)?;
    let header: serde_json::Value =
        serde_json::from_slice(&file[8..data]).map_err(io::Error::other)?;
    let mut changed = file.to_vec();
    for (name, tensor) in header.as_object().ok_or_else(wrong)? {
        if name == "__metadata__" || name.contains("norm") {
            continue;
        }
        let offset = |at: usize| {
            let offset = tensor["data_offsets"][at].as_u64();
            offset
                .and_then(|offset| usize::try_from(offset).ok())
                .ok_or_else(wrong)
        };
        let numbers = changed
            .get_mut(data + offset(0)?..data + offset(1)?)
            .ok_or_else(wrong)?;
        if tensor["dtype"] != "F32" {
            return Err(wrong());
        }
        // The sign is the highest bit of the last byte.
        for number in numbers.chunks_exact_mut(8) {
            number[3] ^= 0x80;
        }
    }
    Ok(changed)
}
