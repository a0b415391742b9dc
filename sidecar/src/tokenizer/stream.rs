//! Incremental decoding: bytes in, whole characters out.

use super::Tokenizer;

/// Turns ids into text as they come: a character cut between two tokens is held back until it is
/// whole. `push`es and the `finish` together are the decoding of all ids (without the leading
/// blank that SentencePiece decoders strip: this is a continuation).
#[derive(Clone, Debug)]
pub struct DecodeStream {
    tokenizer: Tokenizer,
    skip_special: bool,
    /// The beginning of a character; at most three bytes.
    held: Vec<u8>,
}

impl DecodeStream {
    pub(super) fn new(tokenizer: Tokenizer, skip_special: bool) -> DecodeStream {
        DecodeStream {
            tokenizer,
            skip_special,
            held: Vec::new(),
        }
    }

    /// The text that became certain with this token; often empty.
    pub fn push(&mut self, id: u32) -> String {
        if self.skip_special && self.tokenizer.is_special(id) {
            return String::new();
        }
        self.held.extend(self.tokenizer.token_bytes(id));
        take_whole(&mut self.held)
    }

    /// Whether a character is held back that is not whole yet.
    pub fn is_within(&self) -> bool {
        !self.held.is_empty()
    }

    /// Whether the token begins no part of the character that is held back: U+FFFD stands for that
    /// one then, before the token's own text.
    pub fn is_broken_by(&self, id: u32) -> bool {
        let Some(first) = self.tokenizer.token_bytes(id).first().copied() else {
            return false;
        };
        self.is_within() && !continues(&self.held, first)
    }

    /// What is still held back: U+FFFD for a character that never ended.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.held).into_owned();
        self.held.clear();
        text
    }
}

/// Whether the beginning of a character may go on with this byte.
fn continues(held: &[u8], next: u8) -> bool {
    let longer = [held, &[next]].concat();
    std::str::from_utf8(&longer).map_or_else(|error| error.error_len().is_none(), |_| true)
}

/// Takes all but the beginning of an unfinished character; bytes that can be no part of one
/// become U+FFFD, as in a lossy decoding of the whole.
fn take_whole(held: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut start = 0;
    loop {
        let rest = &held[start..];
        match std::str::from_utf8(rest) {
            Ok(whole) => {
                text.push_str(whole);
                start = held.len();
                break;
            }
            Err(e) => {
                let (whole, after) = rest.split_at(e.valid_up_to());
                text.push_str(&String::from_utf8_lossy(whole));
                start += whole.len();
                match e.error_len() {
                    None => break,
                    Some(bytes) => {
                        text.push('\u{fffd}');
                        start += bytes.min(after.len());
                    }
                }
            }
        }
    }
    held.drain(..start);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn in_pieces(pieces: &[Vec<u8>]) -> String {
        let mut held = Vec::new();
        let mut text = String::new();
        for piece in pieces {
            held.extend(piece);
            text += &take_whole(&mut held);
            assert!(held.len() <= 3, "{held:?}");
        }
        text + &String::from_utf8_lossy(&held)
    }

    #[test]
    fn a_cut_character_waits_for_its_end() {
        let mut held = vec![b'a', 0xf0, 0x9f];
        assert_eq!(take_whole(&mut held), "a");
        held.push(0xa6);
        assert_eq!(take_whole(&mut held), "");
        held.push(0x80);
        assert_eq!(take_whole(&mut held), "🦀");
        assert!(held.is_empty());
    }

    #[test]
    fn a_byte_goes_on_with_a_character_or_breaks_it() {
        let cases: [(&[u8], u8, bool); 6] = [
            (&[0xc3], 0xa9, true),
            (&[0xc9], b' ', false),
            (&[0xc9], 0xc3, false),
            (&[0xf0, 0x9f], 0xa6, true),
            (&[0xf0], 0x80, false), // longer than it must be
            (&[0xed], 0xa0, false), // a surrogate
        ];
        for (held, next, expected) in cases {
            assert_eq!(continues(held, next), expected, "{held:?} {next}");
        }
    }

    proptest! {
        #[test]
        fn any_pieces_decode_as_the_whole(pieces: Vec<Vec<u8>>) {
            let whole = pieces.concat();
            prop_assert_eq!(in_pieces(&pieces), String::from_utf8_lossy(&whole));
        }

        #[test]
        fn any_text_cut_anywhere_survives(text: String, cuts: Vec<prop::sample::Index>) {
            let bytes = text.as_bytes();
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            at.extend([0, bytes.len()]);
            at.sort_unstable();
            let pieces: Vec<Vec<u8>> = at.windows(2).map(|w| bytes[w[0]..w[1]].to_vec()).collect();
            prop_assert_eq!(in_pieces(&pieces), text);
        }
    }
}
