//! How the engine's process and the one that renders talk over a pipe: lists of texts, some absent.
//!
//! A frame: bytes that follow (u64), then each text's length (u32, all ones: absent) and its bytes.

use std::io::{self, Read, Write};

const ABSENT: u32 = u32::MAX;
const LENGTH_BYTES: usize = size_of::<u32>();

pub(super) fn write(output: &mut impl Write, texts: &[Option<&str>]) -> io::Result<()> {
    output.write_all(&bytes_of(texts).to_le_bytes())?;
    for text in texts {
        let length = match text {
            None => ABSENT,
            Some(text) => u32::try_from(text.len())
                .ok()
                .filter(|length| *length != ABSENT)
                .ok_or_else(|| invalid("a text of 4 GiB"))?,
        };
        output.write_all(&length.to_le_bytes())?;
        output.write_all(text.unwrap_or_default().as_bytes())?;
    }
    output.flush()
}

/// Bytes of a frame's body.
fn bytes_of(texts: &[Option<&str>]) -> u64 {
    let bytes = |text: &Option<&str>| LENGTH_BYTES + text.map_or(0, str::len);
    texts.iter().map(bytes).sum::<usize>() as u64
}

/// Reads a frame. `accept` hears its size before any of it is held, and may refuse it.
pub(super) fn read(
    input: &mut impl Read,
    accept: impl FnOnce(u64) -> io::Result<()>,
) -> io::Result<Vec<Option<String>>> {
    let mut left = [0; size_of::<u64>()];
    input.read_exact(&mut left)?;
    let mut left = u64::from_le_bytes(left);
    accept(left)?;
    let mut texts = Vec::new();
    while left > 0 {
        let mut length = [0; LENGTH_BYTES];
        input.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length);
        let bytes = if length == ABSENT { 0 } else { length };
        left = left
            .checked_sub(LENGTH_BYTES as u64 + u64::from(bytes))
            .ok_or_else(|| invalid("a text reaches past its frame"))?;
        if length == ABSENT {
            texts.push(None);
            continue;
        }
        let mut text = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
        input.read_exact(&mut text)?;
        let text = String::from_utf8(text).map_err(|_| invalid("a text is not UTF-8"))?;
        texts.push(Some(text));
    }
    Ok(texts)
}

pub(super) fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(texts: &[Option<&str>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, texts).unwrap();
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        for texts in [
            &[][..],
            &[None],
            &[Some(""), None, Some("äöü\0"), Some("<|im_end|>")],
        ] {
            let bytes = written(texts);
            let mut size = 0;
            let read = read(&mut &bytes[..], |bytes| {
                size = bytes;
                Ok(())
            });
            let expected: Vec<_> = texts.iter().map(|text| text.map(str::to_owned)).collect();
            assert_eq!(read.unwrap(), expected);
            assert_eq!(size, bytes.len() as u64 - 8);
        }
    }

    #[test]
    fn what_is_cut_or_lies_is_refused() {
        let whole = written(&[Some("abc"), None]);
        for end in 0..whole.len() {
            let error = read(&mut &whole[..end], |_| Ok(())).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{end}");
        }
        let mut long = whole.clone();
        long[8] = 200;
        assert!(read(&mut &long[..], |_| Ok(())).is_err());
        let mut binary = whole.clone();
        binary[12] = 0xff;
        assert!(read(&mut &binary[..], |_| Ok(())).is_err());
        let refused = read(&mut &whole[..], |_| Err(invalid("too long")));
        assert_eq!(refused.unwrap_err().to_string(), "too long");
    }
}
