//! What goes into the engine and what comes out: requests, token events, refusals.

use std::time::Duration;

use plimsoll_kernels::sampling;
use tokio::sync::mpsc;

/// See [`sampling::Params`]; the HTTP layer has checked the ranges.
pub type SamplingParams = sampling::Params;

/// One sequence to generate. A request with `n` choices is `n` of these, with the same prompt and
/// a different `sampling.stream`: the prefix cache shares their blocks.
#[derive(Debug)]
pub struct GenerateRequest {
    /// Unique among the requests alive.
    pub id: u64,
    pub prompt: Vec<u32>,
    pub sampling: SamplingParams,
    /// Ids that end the sequence (reported as a token, then `Finished{Stop}`); empty to ignore.
    pub eos: Vec<u32>,
    /// Tokens to generate at most; the engine lowers it to what the context leaves. 0: the prompt is
    /// computed, nothing is generated.
    pub max_tokens: u32,
    /// Before so many tokens no id of `eos` is drawn.
    pub min_tokens: u32,
    /// Added to the logits of these tokens: ids ascend, each is there once.
    pub bias: Vec<(u32, f32)>,
    /// Some(n): report the log-probability of every prompt token but the first, with the `n` most
    /// likely ones in its place.
    pub prompt_logprobs: Option<u8>,
    /// Mixed into the prefix cache's hashes: requests share blocks only with an equal salt.
    pub cache_salt: Option<String>,
    /// Where tokens go. The engine never waits for a reader: it aborts a request whose channel is
    /// full (and drops this sender, so the reader sees the end without `Finished`). A capacity of
    /// `max_tokens + 2` can never be full; a scored prompt may take one more for each of its tokens.
    pub events: mpsc::Sender<TokenEvent>,
}

/// What the engine says about one request, in order: the scores of its prompt in parts, if they were
/// asked for; any number of tokens; then `Finished`.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenEvent {
    /// Of the next prompt tokens, from the second one on.
    Prompt(Vec<TokenLogprobs>),
    Token {
        /// 0 for the first generated token.
        index: u32,
        id: u32,
        logprob: Option<TokenLogprobs>,
    },
    Finished(Finished),
}

/// Natural logarithms of the model's probabilities, before penalties and temperature.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    pub logprob: f32,
    /// Most likely first; as many as were asked for.
    pub top: Vec<(u32, f32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// An end-of-sequence id was generated.
    Stop,
    /// `max_tokens` or the context is used up.
    Length,
    /// Cancelled, or its reader went away.
    Abort,
    /// The engine failed; see `Finished::message`.
    Error,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    pub reason: FinishReason,
    pub prompt_tokens: u32,
    /// Prompt tokens found in the prefix cache when the request was first admitted.
    pub cached_tokens: u32,
    pub completion_tokens: u32,
    pub preemptions: u32,
    pub timings: Timings,
    /// Why, for `FinishReason::Error`.
    pub message: Option<String>,
}

/// Where a request's time went. `queue + prefill + decode == total` once a token came.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timings {
    /// From submit to the first step that computes any of it.
    pub queue: Duration,
    /// From there to the first token.
    pub prefill: Duration,
    /// From the first token to the last.
    pub decode: Duration,
    /// From submit to the first token.
    pub first_token: Option<Duration>,
    pub total: Duration,
}

/// Why a request was not taken. Nothing was queued.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refused {
    #[error("{waiting} requests are waiting already, the limit is {limit}; retry in {} s", retry_after.as_secs())]
    QueueFull {
        waiting: usize,
        limit: usize,
        retry_after: Duration,
    },
    #[error(
        "the prompt has {prompt} tokens; the context of {limit} tokens leaves no room to answer"
    )]
    TooLong { prompt: usize, limit: u32 },
    #[error("the prompt is empty; it needs at least one token")]
    EmptyPrompt,
    #[error("prompt token {index} is {id}, the vocabulary ends at {vocabulary}")]
    TokenOutOfRange {
        index: usize,
        id: u32,
        vocabulary: u32,
    },
    #[error("request id {id} is in use")]
    DuplicateId { id: u64 },
    #[error("the engine is still loading")]
    Loading,
    #[error("the engine is shutting down and takes no new requests")]
    Draining,
    #[error("the engine has failed: {message}")]
    Failed { message: String },
}
