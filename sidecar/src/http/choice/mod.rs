//! One choice while it grows: token events in, text out.
//!
//! Owns the order of things: ids are decoded (whole characters only), stop strings are matched on
//! the text with its special tokens, which are dropped only then (so that a stop string may be one),
//! and a token's log-probability leaves together with the token's text. An echoed prompt, with its
//! log-probabilities where they are asked for, leaves with the first piece.

mod echo;

use std::collections::VecDeque;
use std::ops::Range;

pub use echo::Echo;

use super::stop::{Emitted, StopMatcher};
use super::types::EndReason;
use crate::engine::request::TokenLogprobs;
use crate::tokenizer::{DecodeStream, Tokenizer};

/// What ends a choice, and what of its end and of special tokens is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// Stop strings.
    pub stops: Vec<String>,
    /// Ids that end the sequence.
    pub ids: Vec<u32>,
    /// The stop string or the token that ended the text is part of it.
    pub include_stop: bool,
    /// Special tokens are no text.
    pub skip_special: bool,
    /// No stop string counts within so many tokens (and no id of `ids` is drawn there).
    pub min_tokens: u32,
}

/// A token whose text was released, with what was asked to be reported about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    pub id: u32,
    /// None of a prompt's first token.
    pub logprobs: Option<TokenLogprobs>,
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
    tokenizer: Tokenizer,
    decoder: DecodeStream,
    matcher: StopMatcher,
    ending: Ending,
    echo: Option<Echo>,
    /// The token that ends the sequence is reported, too: who scores a prompt and one token more
    /// counts them.
    reports_end: bool,
    waiting: VecDeque<Waiting>,
    /// Where the text, as stop strings see it, holds special tokens that are not shown.
    hidden: VecDeque<Range<usize>>,
    /// Bytes of the text as stop strings see it, decoded and let go.
    decoded_bytes: usize,
    released_bytes: usize,
    /// Characters of the text that is shown.
    decoded_chars: usize,
    tokens: u32,
    stopped: bool,
}

impl Choice {
    pub fn new(tokenizer: &Tokenizer, ending: Ending, echo: Option<Echo>) -> Choice {
        let echoed = echo.as_ref().map_or(0, |echo| echo.text().chars().count());
        let reports_end = echo.as_ref().is_some_and(Echo::is_scored);
        Choice {
            echo,
            reports_end,
            tokenizer: tokenizer.clone(),
            decoder: tokenizer.decode_stream(false),
            matcher: StopMatcher::new(ending.stops.clone()),
            ending,
            waiting: VecDeque::new(),
            hidden: VecDeque::new(),
            decoded_bytes: 0,
            released_bytes: 0,
            decoded_chars: echoed,
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

    /// Log-probabilities of the next prompt tokens.
    pub fn push_prompt(&mut self, scores: Vec<TokenLogprobs>) {
        if let Some(echo) = &mut self.echo {
            echo.push(scores);
        }
    }

    pub fn push(&mut self, id: u32, logprobs: Option<TokenLogprobs>) -> Piece {
        let piece = self.push_token(id, logprobs);
        self.begun(piece)
    }

    /// The engine has finished the sequence.
    pub fn finish(&mut self, end: EndReason) -> Piece {
        let piece = self.end(end);
        self.begun(piece)
    }

    /// The first piece brings the prompt along.
    fn begun(&mut self, mut piece: Piece) -> Piece {
        if piece == Piece::default() {
            return piece;
        }
        if let Some(mut echo) = self.echo.take() {
            let mut scored = echo.scored(&self.tokenizer);
            scored.append(&mut piece.scored);
            piece.scored = scored;
            piece.text.insert_str(0, echo.text());
        }
        piece
    }

    fn push_token(&mut self, id: u32, logprobs: Option<TokenLogprobs>) -> Piece {
        if self.stopped {
            return Piece::default();
        }
        self.tokens += 1;
        let ends = self.ending.ids.contains(&id);
        let shown = !ends || self.ending.include_stop;
        let hidden = shown && self.ending.skip_special && !ends && self.tokenizer.is_special(id);
        if logprobs.is_some() && (shown || self.reports_end) {
            // A character that this token leaves unfinished comes before it, as U+FFFD.
            let after_broken = match (shown, hidden) {
                (true, true) => false,
                (true, false) => self.decoder.is_broken_by(id),
                (false, _) => self.decoder.is_within(),
            };
            let (chars, bytes) = match after_broken {
                true => (1, char::REPLACEMENT_CHARACTER.len_utf8()),
                false => (0, 0),
            };
            let token = Scored {
                id,
                logprobs,
                offset: self.decoded_chars + chars,
            };
            self.waiting.push_back(Waiting {
                token,
                start: self.decoded_bytes + bytes,
            });
        }
        // The token that ends the sequence is no text, whatever the tokenizer thinks of it.
        if !shown {
            return Piece::default();
        }
        if hidden {
            let text = self.tokenizer.token_text(id);
            let start = self.decoded_bytes;
            self.hidden.push_back(start..start + text.len());
            return self.add(&text);
        }
        let text = self.decoder.push(id);
        self.decoded_chars += text.chars().count();
        self.add(&text)
    }

    fn end(&mut self, end: EndReason) -> Piece {
        if self.stopped {
            return Piece {
                end: Some(EndReason::Stop),
                ..Piece::default()
            };
        }
        let rest = self.decoder.finish();
        self.decoded_chars += rest.chars().count();
        let mut piece = self.add(&rest);
        if self.stopped {
            piece.end = Some(EndReason::Stop);
            return piece;
        }
        let held = self.matcher.finish();
        piece.text.push_str(&self.release(held));
        piece
            .scored
            .extend(self.waiting.drain(..).map(|waiting| waiting.token));
        piece.end = Some(end);
        piece
    }

    fn add(&mut self, text: &str) -> Piece {
        self.decoded_bytes += text.len();
        let Emitted { text, stop } = match self.tokens <= self.ending.min_tokens {
            true => Emitted {
                text: text.to_owned(),
                stop: None,
            },
            false => self.matcher.push(text),
        };
        let mut text = self.release(text);
        if let Some(stop) = stop {
            self.stopped = true;
            if self.ending.include_stop {
                self.released_bytes += stop.len();
                text.push_str(&stop);
            }
        }
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
            text,
            scored,
            end: None,
        }
    }

    /// What is shown of the next bytes that the matcher let go.
    fn release(&mut self, text: String) -> String {
        let start = self.released_bytes;
        self.released_bytes += text.len();
        if self.hidden.is_empty() {
            return text;
        }
        let (mut shown, mut from) = (String::with_capacity(text.len()), 0);
        while let Some(range) = self.hidden.front() {
            // The matcher may have let go of a part of it already, or only of a part now.
            let begin = range.start.saturating_sub(start).min(text.len());
            let end = range.end.saturating_sub(start).min(text.len());
            shown.push_str(&text[from..begin]);
            from = end;
            if range.end > self.released_bytes {
                break;
            }
            self.hidden.pop_front();
        }
        shown.push_str(&text[from..]);
        shown
    }
}

#[cfg(test)]
mod tests;
