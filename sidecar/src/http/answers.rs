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
    /// Chunks carry `usage` (null but in the last one).
    pub include_usage: bool,
}

impl Head {
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
pub fn chat_chunks(
    index: u32,
    piece: Piece,
    logprobs: bool,
    tokenizer: &Tokenizer,
) -> Vec<ChatChunkChoice> {
    let mut chunks = Vec::with_capacity(2);
    if !piece.text.is_empty() || !piece.scored.is_empty() {
        chunks.push(ChatChunkChoice {
            index,
            delta: Delta {
                role: None,
                content: Some(piece.text),
            },
            logprobs: logprobs.then(|| chat_logprobs(&piece.scored, tokenizer)),
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
    logprobs: bool,
    tokenizer: &Tokenizer,
) -> Vec<CompletionChoice> {
    if piece == Piece::default() {
        return Vec::new();
    }
    vec![CompletionChoice {
        index,
        text: piece.text,
        logprobs: logprobs.then(|| completion_logprobs(&piece.scored, tokenizer)),
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

    pub fn into_chat(self, index: u32, logprobs: bool, tokenizer: &Tokenizer) -> ChatChoice {
        ChatChoice {
            index,
            logprobs: logprobs.then(|| chat_logprobs(&self.scored, tokenizer)),
            message: ChatMessage {
                role: "assistant",
                content: self.text,
                refusal: None,
            },
            finish_reason: self.end.unwrap_or(EndReason::Stop),
        }
    }

    pub fn into_completion(
        self,
        index: u32,
        logprobs: bool,
        tokenizer: &Tokenizer,
        echo: Option<&str>,
    ) -> CompletionChoice {
        CompletionChoice {
            index,
            logprobs: logprobs.then(|| completion_logprobs(&self.scored, tokenizer)),
            text: format!("{}{}", echo.unwrap_or_default(), self.text),
            finish_reason: self.end,
        }
    }
}

fn chat_logprobs(scored: &[Scored], tokenizer: &Tokenizer) -> ChatLogprobs {
    let entry = |id: u32, logprob: f32| TokenLogprob {
        token: tokenizer.token_text(id),
        logprob: finite(logprob),
        bytes: tokenizer.token_bytes(id),
    };
    let content = scored.iter().map(|scored| ChatLogprob {
        token: entry(scored.id, scored.logprobs.logprob),
        top_logprobs: scored
            .logprobs
            .top
            .iter()
            .map(|(id, p)| entry(*id, *p))
            .collect(),
    });
    ChatLogprobs {
        content: content.collect(),
        refusal: None,
    }
}

fn completion_logprobs(scored: &[Scored], tokenizer: &Tokenizer) -> CompletionLogprobs {
    let mut lists = CompletionLogprobs::default();
    for Scored {
        id,
        logprobs,
        offset,
    } in scored
    {
        let text = tokenizer.token_text(*id);
        let mut top: Map<String, Value> = logprobs
            .top
            .iter()
            .map(|(id, p)| (tokenizer.token_text(*id), Value::from(finite(*p))))
            .collect();
        // The chosen token is always among them, as in OpenAI's answers.
        top.insert(text.clone(), Value::from(finite(logprobs.logprob)));
        lists.tokens.push(text);
        lists.token_logprobs.push(finite(logprobs.logprob));
        lists.top_logprobs.push(top);
        lists.text_offset.push(*offset);
    }
    lists
}

/// JSON has no infinity; clients expect a number.
fn finite(logprob: f32) -> f32 {
    logprob.max(-9999.0)
}
