//! Reads a GGUF header front to back: every length is checked against what is left of the file
//! before anything of that length is allocated.

use crate::model_error::ModelError;
use crate::weights::file::WeightFile;

/// Headers hold the tokenizer: a vocabulary of 256k tokens takes about 15 MB.
pub(crate) const HEADER_BYTES_MAX: u64 = 256 << 20;
/// The longest string: a chat template, with room.
const STRING_BYTES_MAX: u64 = 16 << 20;
/// Elements of all lists together: the vocabularies of the largest tokenizers, ten times.
const ELEMENTS_MAX: u64 = 1 << 24;
const BUFFER_BYTES: usize = 256 << 10;

pub(crate) struct HeaderReader<'a> {
    file: &'a WeightFile,
    /// Of the next byte, in the file.
    position: u64,
    /// The header cannot reach further.
    end: u64,
    buffer: Vec<u8>,
    /// Of the next byte, in `buffer`.
    used: usize,
    elements_left: u64,
    digest: &'a mut dyn FnMut(&[u8]),
}

impl<'a> HeaderReader<'a> {
    pub(crate) fn new(file: &'a WeightFile, digest: &'a mut dyn FnMut(&[u8])) -> HeaderReader<'a> {
        let end = file.bytes().min(HEADER_BYTES_MAX);
        HeaderReader {
            file,
            position: 0,
            end,
            buffer: Vec::new(),
            used: 0,
            elements_left: ELEMENTS_MAX,
            digest,
        }
    }

    pub(crate) fn file_name(&self) -> &str {
        self.file.name()
    }

    pub(crate) fn file_bytes(&self) -> u64 {
        self.file.bytes()
    }

    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Bytes the header may still have.
    pub(crate) fn left(&self) -> u64 {
        self.end - self.position
    }

    pub(crate) fn refuse<T>(&self, message: impl Into<String>) -> Result<T, ModelError> {
        Err(ModelError::weights(self.file.name(), message))
    }

    /// `count` things of at least `bytes_each` fit in what is left; else `what` is a lie.
    pub(crate) fn expect(&self, what: &str, count: u64, bytes_each: u64) -> Result<(), ModelError> {
        if count
            .checked_mul(bytes_each)
            .is_some_and(|bytes| bytes <= self.left())
        {
            return Ok(());
        }
        self.refuse(format!(
            "{what}: {count} at offset {} need at least {bytes_each} bytes each, {} bytes of \
             header are left; the file is cut off or damaged, fetch it again",
            self.position,
            self.left()
        ))
    }

    /// As [`HeaderReader::expect`], for a list that will be held in memory.
    pub(crate) fn expect_list(
        &mut self,
        what: &str,
        count: u64,
        bytes_each: u64,
    ) -> Result<usize, ModelError> {
        self.expect(what, count, bytes_each)?;
        match (
            self.elements_left.checked_sub(count),
            usize::try_from(count),
        ) {
            (Some(left), Ok(count)) => {
                self.elements_left = left;
                Ok(count)
            }
            _ => self.refuse(format!(
                "{what}: a list of {count}; lists may have {ELEMENTS_MAX} elements together"
            )),
        }
    }

    pub(crate) fn fill(&mut self, out: &mut [u8]) -> Result<(), ModelError> {
        self.expect("bytes", out.len() as u64, 1)?;
        let mut done = 0;
        while done < out.len() {
            if self.used == self.buffer.len() {
                let bytes = usize::try_from(self.left())
                    .unwrap_or(usize::MAX)
                    .min(BUFFER_BYTES);
                self.buffer.resize(bytes, 0);
                self.file.read_at(self.position, &mut self.buffer)?;
                self.used = 0;
            }
            let count = (out.len() - done).min(self.buffer.len() - self.used);
            let from = &self.buffer[self.used..self.used + count];
            out[done..done + count].copy_from_slice(from);
            (self.digest)(from);
            done += count;
            self.used += count;
            self.position += count as u64;
        }
        Ok(())
    }

    pub(crate) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], ModelError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, ModelError> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, ModelError> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    pub(crate) fn string(&mut self, what: &str) -> Result<String, ModelError> {
        let length = self.u64()?;
        self.expect(what, length, 1)?;
        if length > STRING_BYTES_MAX {
            return self.refuse(format!(
                "{what}: {length} bytes, at most {STRING_BYTES_MAX}"
            ));
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        self.fill(&mut bytes)?;
        match String::from_utf8(bytes) {
            Ok(text) => Ok(text),
            Err(_) => self.refuse(format!("{what}: not UTF-8, at offset {}", self.position)),
        }
    }
}
