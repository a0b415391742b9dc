//! A safetensors file that arrives: its header, then its tensors in pieces of whole rows. Never more
//! of it is held than the header and one piece.

use std::sync::Arc;

use super::TensorInfo;
use super::piece::Piece;
use super::safetensors::{self, Entry, LENGTH_BYTES};
use crate::model_error::{ModelError, shorten};

/// Bytes of a piece, where its rows are not longer.
pub const PIECE_BYTES: usize = 2 << 20;
/// Room for some thousand tensors.
pub const HEADER_BYTES_MAX: u64 = 512 << 10;
/// More than the shortest descriptions, of fifty bytes, that such a header has room for.
const TENSORS_MAX: usize = 1 << 14;
/// What a byte of a header takes at most while it is parsed: of the shortest descriptions, each of which
/// becomes some hundred bytes, in lists that double.
pub const HEADER_COST: usize = 40;
/// Rows that ranks write fastest: a panel's.
const ROWS_TOGETHER: usize = 16;
/// Bytes of the header's length.
const PREFIX: usize = 8;
/// What errors call it.
const BODY: &str = "the body";

/// What bytes came to.
#[derive(Debug)]
pub enum Step {
    /// A header of so many bytes begins; it is held until it is whole.
    HeaderBegins(usize),
    /// These tensors follow, in this order: look at them before more is fed.
    Tensors(Vec<Arc<TensorInfo>>),
    Piece(Piece),
    /// All that was fed is taken, and more is needed, or nothing.
    Taken,
}

/// Reads one file. After an error it is of no use.
#[derive(Debug)]
pub struct SafetensorsStream {
    /// Of the whole file, where whoever sends it has said so.
    announced: Option<u64>,
    at: At,
}

#[derive(Debug)]
enum At {
    Length { bytes: [u8; PREFIX], have: usize },
    Header { length: usize, bytes: Vec<u8> },
    Data(Data),
}

#[derive(Debug)]
struct Data {
    /// Of those that hold numbers, in order.
    tensors: Vec<(Arc<TensorInfo>, Entry)>,
    /// The one that comes now, and its next row.
    tensor: usize,
    row: usize,
    /// Of the piece that comes now.
    bytes: Vec<u8>,
}

impl SafetensorsStream {
    pub fn new(announced: Option<u64>) -> SafetensorsStream {
        let at = At::Length {
            bytes: [0; PREFIX],
            have: 0,
        };
        SafetensorsStream { announced, at }
    }

    /// Takes bytes off the front of `from` until there is something to tell.
    ///
    /// # Errors
    /// [`ModelError::InvalidWeights`] where they are no safetensors, with the tensor, or more than
    /// there should be.
    pub fn feed(&mut self, from: &mut &[u8]) -> Result<Step, ModelError> {
        match &mut self.at {
            At::Length { bytes, have } => {
                *have += take(from, &mut bytes[*have..]);
                if *have < bytes.len() {
                    return Ok(Step::Taken);
                }
                let length = header_length(*bytes, self.announced)?;
                let bytes = Vec::new();
                self.at = At::Header { length, bytes };
                Ok(Step::HeaderBegins(length))
            }
            At::Header { length, bytes } => {
                let (now, later) = from.split_at(from.len().min(*length - bytes.len()));
                bytes.extend_from_slice(now);
                *from = later;
                if bytes.len() < *length {
                    return Ok(Step::Taken);
                }
                let start = *length as u64 + LENGTH_BYTES;
                let data = self.announced.map(|all| all.saturating_sub(start));
                let (tensors, _) = safetensors::entries(BODY, bytes, (start, data, TENSORS_MAX))?;
                let tensors = tensors.into_iter();
                let tensors = tensors.map(|entry| (Arc::new(entry.info.clone()), entry));
                let tensors: Vec<_> = tensors.collect();
                let infos = tensors.iter().map(|(info, _)| Arc::clone(info));
                let infos = infos.collect();
                self.at = At::Data(Data::of(tensors));
                Ok(Step::Tensors(infos))
            }
            At::Data(data) => data.feed(from),
        }
    }

    /// Bytes of the longest piece to come; zero before the header is read.
    pub fn piece_bytes(&self) -> usize {
        match &self.at {
            At::Length { .. } | At::Header { .. } => 0,
            At::Data(data) => {
                let bytes = |(info, entry): &(Arc<TensorInfo>, Entry)| {
                    let (rows, _) = info.rows_cols();
                    Some(rows_together(entry)?.min(rows) * row_bytes(entry)?)
                };
                data.tensors.iter().filter_map(bytes).max().unwrap_or(0)
            }
        }
    }

    /// The tensor that is not whole yet, if one was begun.
    pub fn unfinished(&self) -> Option<&TensorInfo> {
        match &self.at {
            At::Length { .. } | At::Header { .. } => None,
            At::Data(data) => data.tensors.get(data.tensor).map(|(info, _)| &**info),
        }
    }

    /// Nothing more comes.
    ///
    /// # Errors
    /// Where it should: names the tensor and the bytes that it has.
    pub fn end(&self) -> Result<(), ModelError> {
        let message = match &self.at {
            At::Length { have, .. } => format!("ends after {have} of 8 bytes of its length"),
            At::Header { length, bytes } => {
                format!("ends after {} of {length} bytes of its header", bytes.len())
            }
            At::Data(data) => match data.tensors.get(data.tensor) {
                None => return Ok(()),
                Some((info, entry)) => {
                    let rows = data.row as u64 * row_bytes(entry).unwrap_or_default() as u64;
                    let (name, have) = (shorten(&info.name), rows + data.bytes.len() as u64);
                    let all = info.bytes;
                    format!("ends after {have} of {all} bytes of the tensor `{name}`")
                }
            },
        };
        Err(ModelError::weights(BODY, message))
    }
}

impl Data {
    fn of(tensors: Vec<(Arc<TensorInfo>, Entry)>) -> Data {
        let holds = |(info, _): &(Arc<TensorInfo>, Entry)| info.bytes > 0;
        Data {
            tensors: tensors.into_iter().filter(holds).collect(),
            tensor: 0,
            row: 0,
            bytes: Vec::new(),
        }
    }

    fn feed(&mut self, from: &mut &[u8]) -> Result<Step, ModelError> {
        if from.is_empty() {
            return Ok(Step::Taken);
        }
        let Some((info, entry)) = self.tensors.get(self.tensor) else {
            let message = format!("goes on for {} bytes behind its last tensor", from.len());
            return Err(ModelError::weights(BODY, message));
        };
        let (Some(row_bytes), Some(together)) = (row_bytes(entry), rows_together(entry)) else {
            let (name, dtype) = (shorten(&info.name), shorten(&info.dtype));
            let message = format!("tensor `{name}` is {dtype}; read are F32, F16, BF16");
            return Err(ModelError::quantization(BODY, message));
        };
        let (rows, _) = info.rows_cols();
        let count = together.min(rows - self.row);
        let wanted = count * row_bytes;
        self.bytes.reserve_exact(wanted - self.bytes.len());
        let (now, later) = from.split_at(from.len().min(wanted - self.bytes.len()));
        self.bytes.extend_from_slice(now);
        *from = later;
        if self.bytes.len() < wanted {
            return Ok(Step::Taken);
        }
        let Some(encoding) = entry.stored.as_ref().map(|stored| stored.encoding) else {
            unreachable!("{} has bytes in a row and no type", info.name)
        };
        let piece = Piece {
            info: Arc::clone(info),
            rows: self.row..self.row + count,
            encoding,
            bytes: std::mem::take(&mut self.bytes),
        };
        self.row += count;
        if self.row == rows {
            self.tensor += 1;
            self.row = 0;
        }
        Ok(Step::Piece(piece))
    }
}

/// None of a type that is not read.
fn row_bytes(entry: &Entry) -> Option<usize> {
    let stored = entry.stored.as_ref()?;
    Some((stored.cols * stored.encoding.block_bytes()).max(1))
}

fn rows_together(entry: &Entry) -> Option<usize> {
    let rows = PIECE_BYTES / row_bytes(entry)?;
    let whole = rows / ROWS_TOGETHER * ROWS_TOGETHER;
    Some(if whole > 0 { whole } else { rows.max(1) })
}

fn take(from: &mut &[u8], to: &mut [u8]) -> usize {
    let (now, later) = from.split_at(from.len().min(to.len()));
    to[..now.len()].copy_from_slice(now);
    *from = later;
    now.len()
}

fn header_length(bytes: [u8; PREFIX], all: Option<u64>) -> Result<usize, ModelError> {
    let length = u64::from_le_bytes(bytes);
    let refuse = |why: String| {
        let message = format!("begins with a header of {length} bytes, {why}");
        Err(ModelError::weights(BODY, message))
    };
    if length > HEADER_BYTES_MAX {
        return refuse(format!(
            "at most {HEADER_BYTES_MAX} are read: it is not safetensors, or send fewer tensors at once"
        ));
    }
    match all {
        Some(all) if length > all.saturating_sub(LENGTH_BYTES) => {
            refuse(format!("and was announced with {all} in all"))
        }
        _ => Ok(usize::try_from(length).unwrap_or(usize::MAX)),
    }
}
