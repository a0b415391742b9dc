//! Pieces of text to OpenAI's objects: the chunks of chats and completions, and how tokens are told
//! of (`whole` has the answers that are not streamed).

use super::choice::{Piece, Scored};
use super::types::{
    ChatChunkChoice, ChatLogprob, ChatLogprobs, CompletionChoice, CompletionLogprobs, Delta,
    Envelope, TokenLogprob, TopLogprobs, Usage,
};
use crate::tokenizer::Tokenizer;

/// What all chunks and answers of one request share.
#[derive(Clone, Debug)]
pub struct Head {
    pub id: String,
    pub created: u64,
    pub model: String,
    /// The request asked for log-probabilities.
    pub logprobs: bool,
    /// Tokens are named by their ids there.
    pub tokens_as_ids: bool,
    /// Chunks carry `usage` (null but in the last one).
    pub include_usage: bool,
}

/// How log-probabilities name tokens.
#[derive(Clone, Copy, Debug)]
pub struct Naming<'a> {
    tokenizer: &'a Tokenizer,
    as_ids: bool,
}

impl Naming<'_> {
    /// Every token its own: one that is a part of a character has no text, so it is named by its
    /// bytes, as OpenAI's completions do. (In a chat `bytes` says it, and `token` is for people.)
    pub(super) fn key(&self, id: u32) -> String {
        if self.as_ids {
            return self.text(id);
        }
        let hex = |byte: &u8| format!("\\x{byte:02x}");
        String::from_utf8(self.tokenizer.token_bytes(id)).unwrap_or_else(|error| {
            let bytes: String = error.as_bytes().iter().map(hex).collect();
            format!("bytes:{bytes}")
        })
    }

    fn text(&self, id: u32) -> String {
        if self.as_ids {
            return format!("token_id:{id}");
        }
        self.tokenizer.token_text(id)
    }

    /// None of a token that has no log-probability. (Prompts of chats are not echoed, so each has.)
    pub(super) fn chat(&self, scored: &Scored) -> Option<ChatLogprob> {
        let entry = |id: u32, logprob: f32| TokenLogprob {
            token: self.text(id),
            logprob: finite(logprob),
            bytes: self.tokenizer.token_bytes(id),
        };
        let logprobs = scored.logprobs.as_ref()?;
        Some(ChatLogprob {
            token: entry(scored.id, logprobs.logprob),
            top_logprobs: logprobs.top.iter().map(|(id, p)| entry(*id, *p)).collect(),
        })
    }

    pub(super) fn logprob(&self, scored: &Scored) -> Option<f32> {
        let logprobs = scored.logprobs.as_ref()?;
        Some(finite(logprobs.logprob))
    }

    /// The chosen token is always among them, as in OpenAI's answers. Of two tokens with one text
    /// the likelier stays.
    pub(super) fn top(&self, scored: &Scored) -> Option<TopLogprobs> {
        let logprobs = scored.logprobs.as_ref()?;
        let mut top = TopLogprobs::default();
        let chosen = [(scored.id, logprobs.logprob)];
        for (id, logprob) in logprobs.top.iter().chain(&chosen) {
            let key = self.key(*id);
            if top.0.iter().all(|(other, _)| *other != key) {
                top.0.push((key, finite(*logprob)));
            }
        }
        Some(top)
    }
}

impl Head {
    /// None where log-probabilities are not asked for.
    pub fn naming<'a>(&self, tokenizer: &'a Tokenizer) -> Option<Naming<'a>> {
        self.logprobs.then_some(Naming {
            tokenizer,
            as_ids: self.tokens_as_ids,
        })
    }

    pub fn chat_chunk(
        &self,
        choices: Vec<ChatChunkChoice>,
        usage: Option<Usage>,
    ) -> Envelope<ChatChunkChoice> {
        self.envelope(
            "chat.completion.chunk",
            choices,
            self.include_usage.then_some(usage),
        )
    }

    pub fn completion_chunk(
        &self,
        choices: Vec<CompletionChoice>,
        usage: Option<Usage>,
    ) -> Envelope<CompletionChoice> {
        self.envelope(
            "text_completion",
            choices,
            self.include_usage.then_some(usage),
        )
    }

    fn envelope<C>(
        &self,
        object: &'static str,
        choices: Vec<C>,
        usage: Option<Option<Usage>>,
    ) -> Envelope<C> {
        Envelope {
            id: self.id.clone(),
            object,
            created: self.created,
            model: self.model.clone(),
            choices,
            usage,
        }
    }
}

/// The first chunk of a chat choice: who speaks.
pub fn role_chunk(index: u32) -> ChatChunkChoice {
    let delta = Delta {
        role: Some("assistant"),
        content: Some(String::new()),
    };
    ChatChunkChoice {
        index,
        delta,
        logprobs: None,
        finish_reason: None,
    }
}

/// The chunks that one piece makes: its text, then its end.
pub fn chat_chunks(index: u32, piece: Piece, naming: Option<Naming<'_>>) -> Vec<ChatChunkChoice> {
    let mut chunks = Vec::with_capacity(2);
    if !piece.text.is_empty() || !piece.scored.is_empty() {
        chunks.push(ChatChunkChoice {
            index,
            delta: Delta {
                role: None,
                content: Some(piece.text),
            },
            logprobs: chat_logprobs(&piece.scored, naming),
            finish_reason: None,
        });
    }
    if piece.end.is_some() {
        let delta = Delta::default();
        chunks.push(ChatChunkChoice {
            index,
            delta,
            logprobs: None,
            finish_reason: piece.end,
        });
    }
    chunks
}

pub fn completion_chunks(
    index: u32,
    piece: Piece,
    naming: Option<Naming<'_>>,
) -> Vec<CompletionChoice> {
    if piece == Piece::default() {
        return Vec::new();
    }
    vec![CompletionChoice {
        index,
        text: piece.text,
        logprobs: completion_logprobs(&piece.scored, naming),
        finish_reason: piece.end,
    }]
}

/// None where nobody asks, and in a chunk that tells of no token.
fn chat_logprobs(scored: &[Scored], naming: Option<Naming<'_>>) -> Option<ChatLogprobs> {
    let naming = naming.filter(|_| !scored.is_empty())?;
    Some(ChatLogprobs {
        content: scored.iter().filter_map(|one| naming.chat(one)).collect(),
        refusal: None,
    })
}

/// As [`chat_logprobs`].
fn completion_logprobs(
    scored: &[Scored],
    naming: Option<Naming<'_>>,
) -> Option<CompletionLogprobs> {
    let naming = naming.filter(|_| !scored.is_empty())?;
    Some(CompletionLogprobs {
        tokens: scored.iter().map(|one| naming.key(one.id)).collect(),
        token_logprobs: scored.iter().map(|one| naming.logprob(one)).collect(),
        top_logprobs: scored.iter().map(|one| naming.top(one)).collect(),
        text_offset: scored.iter().map(|one| one.offset).collect(),
    })
}

/// JSON has no infinity; clients expect a number.
fn finite(logprob: f32) -> f32 {
    logprob.max(-9999.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::request::TokenLogprobs;
    use crate::http::testing::tokenizer;

    #[test]
    fn one_value_has_the_same_digits_wherever_it_is_told() {
        let tokenizer = tokenizer();
        let naming = Naming {
            tokenizer: &tokenizer,
            as_ids: true,
        };
        let logprob = -7.069_283_f32;
        let scored = [Scored {
            id: 7,
            logprobs: Some(TokenLogprobs {
                logprob,
                top: vec![(3, -0.1), (7, logprob)],
            }),
            offset: 0,
        }];
        let chat = chat_logprobs(&scored, Some(naming)).unwrap();
        let completion = completion_logprobs(&scored, Some(naming)).unwrap();
        let chat = serde_json::to_string(&chat).unwrap();
        let completion = serde_json::to_string(&completion).unwrap();
        for text in [&chat, &completion] {
            assert_eq!(text.matches("-7.069283").count(), 2, "{text}");
            assert!(!text.contains("-7.0692830"), "{text}");
            assert!(text.contains("-0.1,") && !text.contains("-0.10"), "{text}");
        }
        let first = r#"[{"token_id:3":-0.1,"token_id:7":-7.069283}]"#;
        assert!(
            completion.contains(first),
            "the likeliest first: {completion}"
        );
    }
}
