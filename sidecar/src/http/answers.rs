//! Pieces of text to OpenAI's objects: whole answers and chunks, for chat and completions.

use serde_json::{Map, Value};

use super::choice::{Piece, Scored};
use super::types::{
    ChatChoice, ChatChunkChoice, ChatLogprob, ChatLogprobs, ChatMessage, CompletionChoice,
    CompletionLogprobs, Delta, EndReason, Envelope, TokenLogprob, Usage,
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
    fn key(&self, id: u32) -> String {
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
}

impl Head {
    /// None where log-probabilities are not asked for.
    pub fn naming<'a>(&self, tokenizer: &'a Tokenizer) -> Option<Naming<'a>> {
        self.logprobs.then_some(Naming {
            tokenizer,
            as_ids: self.tokens_as_ids,
        })
    }

    pub fn chat(&self, choices: Vec<ChatChoice>, usage: Usage) -> Envelope<ChatChoice> {
        self.envelope("chat.completion", choices, Some(Some(usage)))
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

    pub fn completion(
        &self,
        choices: Vec<CompletionChoice>,
        usage: Usage,
    ) -> Envelope<CompletionChoice> {
        self.envelope("text_completion", choices, Some(Some(usage)))
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

/// A choice of an answer that is not streamed: all its pieces joined.
#[derive(Clone, Debug, Default)]
pub struct Whole {
    text: String,
    scored: Vec<Scored>,
    end: Option<EndReason>,
}

impl Whole {
    pub fn add(&mut self, piece: Piece) {
        self.text.push_str(&piece.text);
        self.scored.extend(piece.scored);
        self.end = self.end.or(piece.end);
    }

    pub fn into_chat(self, index: u32, naming: Option<Naming<'_>>) -> ChatChoice {
        ChatChoice {
            index,
            logprobs: chat_logprobs(&self.scored, naming),
            message: ChatMessage {
                role: "assistant",
                content: self.text,
                refusal: None,
            },
            finish_reason: self.end.unwrap_or(EndReason::Stop),
        }
    }

    pub fn into_completion(self, index: u32, naming: Option<Naming<'_>>) -> CompletionChoice {
        CompletionChoice {
            index,
            logprobs: completion_logprobs(&self.scored, naming),
            text: self.text,
            finish_reason: self.end,
        }
    }
}

/// None where nobody asks, and in a chunk that tells of no token.
fn chat_logprobs(scored: &[Scored], naming: Option<Naming<'_>>) -> Option<ChatLogprobs> {
    let naming = naming.filter(|_| !scored.is_empty())?;
    let entry = |id: u32, logprob: f32| TokenLogprob {
        token: naming.text(id),
        logprob: finite(logprob),
        bytes: naming.tokenizer.token_bytes(id),
    };
    // Prompts of chats are not echoed, so every token has its own.
    let content = scored.iter().filter_map(|scored| {
        let logprobs = scored.logprobs.as_ref()?;
        Some(ChatLogprob {
            token: entry(scored.id, logprobs.logprob),
            top_logprobs: logprobs.top.iter().map(|(id, p)| entry(*id, *p)).collect(),
        })
    });
    Some(ChatLogprobs {
        content: content.collect(),
        refusal: None,
    })
}

/// As [`chat_logprobs`].
fn completion_logprobs(
    scored: &[Scored],
    naming: Option<Naming<'_>>,
) -> Option<CompletionLogprobs> {
    let naming = naming.filter(|_| !scored.is_empty())?;
    let mut lists = CompletionLogprobs::default();
    for Scored {
        id,
        logprobs,
        offset,
    } in scored
    {
        lists.tokens.push(naming.key(*id));
        let own = logprobs.as_ref().map(|logprobs| finite(logprobs.logprob));
        lists.token_logprobs.push(own);
        let top = logprobs.as_ref().map(|logprobs| {
            let mut top = Map::new();
            // The chosen token is always among them, as in OpenAI's answers. Of two tokens with one
            // text the likelier stays.
            let chosen = [(*id, logprobs.logprob)];
            for (id, logprob) in logprobs.top.iter().chain(&chosen) {
                top.entry(naming.key(*id))
                    .or_insert_with(|| Value::from(finite(*logprob)));
            }
            top
        });
        lists.top_logprobs.push(top);
        lists.text_offset.push(*offset);
    }
    Some(lists)
}

/// JSON has no infinity; clients expect a number.
fn finite(logprob: f32) -> f32 {
    logprob.max(-9999.0)
}
