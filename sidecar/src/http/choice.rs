//! One choice while it grows: token events in, text out.
//!
//! Owns the order of things: ids are decoded (whole characters only), stop strings are matched on
//! the text, and a token's log-probability leaves together with the token's text.

use std::collections::VecDeque;

use super::stop::StopMatcher;
use super::types::EndReason;
use crate::engine::request::TokenLogprobs;
use crate::tokenizer::{DecodeStream, Tokenizer};

/// A token whose text was released, with what was asked to be reported about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    pub id: u32,
    pub logprobs: TokenLogprobs,
    /// Characters before it in the choice's text.
    pub offset: usize,
}

/// What one event added to the choice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Piece {
    pub text: String,
    pub scored: Vec<Scored>,
    /// The choice is complete.
    pub end: Option<EndReason>,
}

#[derive(Debug)]
struct Waiting {
    token: Scored,
    /// Where its text starts, in bytes of the choice's text.
    start: usize,
}

#[derive(Debug)]
pub struct Choice {
    decoder: DecodeStream,
    matcher: StopMatcher,
    eos: Vec<u32>,
    waiting: VecDeque<Waiting>,
    decoded_bytes: usize,
    decoded_chars: usize,
    released_bytes: usize,
    tokens: u32,
    stopped: bool,
}

impl Choice {
    pub fn new(tokenizer: &Tokenizer, stop: Vec<String>, eos: Vec<u32>) -> Choice {
        Choice {
            decoder: tokenizer.decode_stream(true),
            matcher: StopMatcher::new(stop),
            eos,
            waiting: VecDeque::new(),
            decoded_bytes: 0,
            decoded_chars: 0,
            released_bytes: 0,
            tokens: 0,
            stopped: false,
        }
    }

    /// Tokens generated, the one that ends the sequence included.
    pub fn tokens(&self) -> u32 {
        self.tokens
    }

    /// A stop string was found; whatever comes is ignored, only the end is awaited.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    pub fn push(&mut self, id: u32, logprobs: Option<TokenLogprobs>) -> Piece {
        if self.stopped {
            return Piece::default();
        }
        self.tokens += 1;
        // The end-of-sequence token is no text, whatever the tokenizer thinks of it.
        if self.eos.contains(&id) {
            return Piece::default();
        }
        if let Some(logprobs) = logprobs {
            let token = Scored {
                id,
                logprobs,
                offset: self.decoded_chars,
            };
            self.waiting.push_back(Waiting {
                token,
                start: self.decoded_bytes,
            });
        }
        let text = self.decoder.push(id);
        self.add(&text)
    }

    /// The engine has finished the sequence.
    pub fn finish(&mut self, end: EndReason) -> Piece {
        if self.stopped {
            return Piece {
                end: Some(EndReason::Stop),
                ..Piece::default()
            };
        }
        let rest = self.decoder.finish();
        let mut piece = self.add(&rest);
        if self.stopped {
            piece.end = Some(EndReason::Stop);
            return piece;
        }
        piece.text.push_str(&self.matcher.finish());
        piece
            .scored
            .extend(self.waiting.drain(..).map(|waiting| waiting.token));
        piece.end = Some(end);
        piece
    }

    fn add(&mut self, text: &str) -> Piece {
        self.decoded_bytes += text.len();
        self.decoded_chars += text.chars().count();
        let emitted = self.matcher.push(text);
        self.released_bytes += emitted.text.len();
        self.stopped = emitted.stopped;
        // A token is out once its first byte is: its text may be cut by a stop string.
        let out = self
            .waiting
            .iter()
            .take_while(|waiting| waiting.start < self.released_bytes);
        let out = out.count();
        let scored = self
            .waiting
            .drain(..out)
            .map(|waiting| waiting.token)
            .collect();
        Piece {
            text: emitted.text,
            scored,
            end: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::tokenizer;

    fn logprobs() -> Option<TokenLogprobs> {
        Some(TokenLogprobs {
            logprob: -0.5,
            top: vec![],
        })
    }

    fn run(text: &str, stop: &[&str], end: EndReason) -> (String, Vec<usize>, Option<EndReason>) {
        let tokenizer = tokenizer();
        let stop = stop.iter().map(|s| (*s).to_owned()).collect();
        let mut choice = Choice::new(&tokenizer, stop, vec![2]);
        let (mut out, mut offsets, mut last) = (String::new(), vec![], None);
        let mut take = |piece: Piece| {
            out.push_str(&piece.text);
            offsets.extend(piece.scored.iter().map(|scored| scored.offset));
            last = last.or(piece.end);
        };
        for id in tokenizer.encode(text, false).unwrap() {
            take(choice.push(id, logprobs()));
        }
        take(choice.push(2, logprobs()));
        take(choice.finish(end));
        (out, offsets, last)
    }

    #[test]
    fn text_survives_whatever_the_tokens_cut() {
        let text = "naïve 日本語 🦀 done";
        let (out, offsets, end) = run(text, &[], EndReason::Stop);
        assert_eq!(out, text);
        assert_eq!(end, Some(EndReason::Stop));
        let tokens = tokenizer().encode(text, false).unwrap().len();
        assert_eq!(offsets.len(), tokens, "the end token is not reported");
        assert!(offsets.is_sorted());
    }

    #[test]
    fn a_stop_string_takes_its_tokens_along() {
        let (out, offsets, end) = run("one two three", &["two"], EndReason::Length);
        assert_eq!((out.as_str(), end), ("one ", Some(EndReason::Stop)));
        assert!(
            offsets.iter().all(|offset| *offset < "one ".len()),
            "{offsets:?}"
        );
        let (out, _, end) = run("one two three", &["tree"], EndReason::Length);
        assert_eq!(
            (out.as_str(), end),
            ("one two three", Some(EndReason::Length))
        );
    }
}
