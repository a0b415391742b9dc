//! Weights as safetensors in bytes, and sending them to an engine as the HTTP layer does.

use std::sync::Arc;

use plimsoll_sidecar::engine::control::{Commands, ControlError};
use plimsoll_sidecar::engine::handle::EngineHandle;
use plimsoll_sidecar::weights::TensorSource;
use plimsoll_sidecar::weights::stream::{SafetensorsStream, Step};
use serde_json::{Map, json};

use super::Dice;

/// A file of those tensors of these that are wanted, as F32.
pub fn file<'a>(source: &dyn TensorSource, names: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for name in names {
        let info = source.info(name).unwrap();
        let (rows, cols) = info.rows_cols();
        let mut numbers = vec![0.0; rows * cols];
        source.read_rows(name, 0..rows, &mut numbers).unwrap();
        let start = data.len();
        data.extend(numbers.iter().flat_map(|number: &f32| number.to_le_bytes()));
        let entry = json!({
            "dtype": "F32", "shape": info.shape, "data_offsets": [start, data.len()],
        });
        header.insert(name.to_owned(), entry);
    }
    let header = serde_json::to_vec(&header).unwrap();
    let size = (header.len() as u64).to_le_bytes();
    [&size[..], &header, &data].concat()
}

/// Sends a file, in chunks of odd lengths.
pub fn send(handle: &EngineHandle, file: &[u8], dice: &mut Dice) -> Result<(), ControlError> {
    let mut stream = SafetensorsStream::new(Some(file.len() as u64));
    let mut left = file;
    while !left.is_empty() {
        let (mut chunk, later) = left.split_at((1 + dice.roll(70_000)).min(left.len()));
        left = later;
        loop {
            match stream.feed(&mut chunk).unwrap() {
                Step::Taken => break,
                Step::HeaderBegins(_) => {}
                Step::Tensors(infos) => {
                    for info in infos {
                        handle.pushable().check(&info).unwrap();
                    }
                }
                Step::Piece(piece) => handle.write_push(Arc::new(piece)).wait()?,
            }
        }
    }
    stream.end().unwrap();
    Ok(())
}
