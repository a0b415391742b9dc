//! The bytes that one token stands for.
//!
//! Byte-level tokenizers write every byte as a printable character (GPT-2's table); SentencePiece
//! ones write a blank as U+2581 and a lone byte as `<0x0A>`.

use serde_json::Value;

/// How pieces are written, found from the tokenizer's decoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pieces {
    /// Byte of each character, by code point.
    ByteLevel(Vec<Option<u8>>),
    SentencePiece,
}

impl Pieces {
    /// `decoder`: the decoder's part of a `tokenizer.json`. None for a kind that is not read.
    pub(super) fn of(decoder: &Value) -> Option<Pieces> {
        match decoder.get("type")?.as_str()? {
            "ByteLevel" => Some(Pieces::ByteLevel(byte_of_character())),
            "Metaspace" | "ByteFallback" => Some(Pieces::SentencePiece),
            "Sequence" => decoder
                .get("decoders")?
                .as_array()?
                .iter()
                .find_map(Pieces::of),
            _ => None,
        }
    }

    pub(super) fn bytes(&self, piece: &str) -> Vec<u8> {
        match self {
            Pieces::ByteLevel(table) => {
                let byte = |c: char| table.get(c as usize).copied().flatten();
                // A token of other characters stands for itself, as in the decoder.
                let bytes: Option<Vec<u8>> = piece.chars().map(byte).collect();
                bytes.unwrap_or_else(|| piece.as_bytes().to_vec())
            }
            Pieces::SentencePiece => match lone_byte(piece) {
                Some(byte) => vec![byte],
                None => piece.replace('\u{2581}', " ").into_bytes(),
            },
        }
    }
}

fn lone_byte(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 {
        u8::from_str_radix(digits, 16).ok()
    } else {
        None
    }
}

/// GPT-2's table: printable Latin-1 stands for itself, the 68 others for U+0100 and on.
fn byte_of_character() -> Vec<Option<u8>> {
    let mut table = vec![None; 256 + 68];
    let mut next = 256;
    for byte in 0..=255u8 {
        let place = match byte {
            33..=126 | 161..=172 | 174..=255 => usize::from(byte),
            _ => {
                next += 1;
                next - 1
            }
        };
        table[place] = Some(byte);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn byte_level_pieces_are_bytes() {
        let pieces = Pieces::of(&json!({"type": "ByteLevel"})).unwrap();
        assert_eq!(pieces.bytes("Ġthe"), b" the");
        assert_eq!(pieces.bytes("Ċ"), b"\n");
        assert_eq!(pieces.bytes("ðŁ"), [0xf0, 0x9f]);
        assert_eq!(pieces.bytes("two words"), b"two words");
    }

    #[test]
    fn sentencepiece_pieces_are_text_or_a_byte() {
        let decoder = json!({"type": "Sequence", "decoders": [{"type": "Replace"}, {"type": "ByteFallback"}]});
        let pieces = Pieces::of(&decoder).unwrap();
        assert_eq!(pieces.bytes("▁the"), b" the");
        assert_eq!(pieces.bytes("<0x0A>"), b"\n");
        assert_eq!(pieces.bytes("<0x0>"), b"<0x0>");
    }

    #[test]
    fn other_decoders_are_not_read() {
        assert_eq!(Pieces::of(&json!({"type": "WordPiece"})), None);
        assert_eq!(Pieces::of(&json!(null)), None);
    }
}
