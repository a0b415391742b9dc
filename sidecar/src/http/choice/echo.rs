//! A prompt that comes back in front of its answer, with its log-probabilities where they are asked
//! for.

use super::Scored;
use crate::engine::request::TokenLogprobs;
use crate::tokenizer::Tokenizer;

/// A prompt that is a part of its answer.
#[derive(Clone, Debug)]
pub struct Echo {
    ids: Vec<u32>,
    text: String,
    /// Of the tokens after the first; None where nobody asks.
    scores: Option<Vec<TokenLogprobs>>,
}

impl Echo {
    pub fn new(tokenizer: &Tokenizer, ids: Vec<u32>, scored: bool) -> Echo {
        Echo {
            text: tokenizer.decode(&ids, false),
            scores: scored.then(Vec::new),
            ids,
        }
    }

    /// The prompt's tokens with what was reported of them; nothing is said of the first, since it
    /// follows nothing.
    pub(super) fn scored(&mut self, tokenizer: &Tokenizer) -> Vec<Scored> {
        let Some(scores) = self.scores.take() else {
            return Vec::new();
        };
        let logprobs = std::iter::once(None).chain(scores.into_iter().map(Some));
        let mut decoder = tokenizer.decode_stream(false);
        let mut offsets = Vec::with_capacity(self.ids.len());
        let mut chars = 0;
        for id in &self.ids {
            offsets.push(chars + usize::from(decoder.is_broken_by(*id)));
            chars += decoder.push(*id).chars().count();
        }
        chars += decoder.finish().chars().count();
        // A decoding of the whole may strip a blank at its beginning.
        let stripped = chars.saturating_sub(self.text.chars().count());
        let tokens = self.ids.iter().zip(logprobs).zip(offsets);
        tokens
            .map(|((id, logprobs), offset)| Scored {
                id: *id,
                logprobs,
                offset: offset.saturating_sub(stripped),
            })
            .collect()
    }

    /// Log-probabilities of the next tokens.
    pub(super) fn push(&mut self, scores: Vec<TokenLogprobs>) {
        if let Some(all) = &mut self.scores {
            all.extend(scores);
        }
    }

    pub(super) fn is_scored(&self) -> bool {
        self.scores.is_some()
    }

    /// The prompt as the answer shows it.
    pub fn text(&self) -> &str {
        &self.text
    }
}
