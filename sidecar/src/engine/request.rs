//! What goes into the engine and what comes out: requests, token events, refusals.

use std::fmt;
use std::sync::{Arc, Weak};
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
    /// The adapter that it is answered with, by name; None: the weights alone.
    pub adapter: Option<Arc<str>>,
    /// Mixed into the prefix cache's hashes: requests share blocks only with an equal salt.
    pub cache_salt: Option<String>,
    /// Where tokens go. The engine never waits for a reader: it aborts a request whose channel is
    /// full (and drops this sender, so the reader sees the end without `Finished`). A capacity of
    /// `max_tokens + 2` can never be full; a scored prompt may take one more for each of its tokens.
    pub events: Events,
}

/// The way of a request's events to its reader.
#[derive(Clone, Debug)]
pub struct Events {
    sender: mpsc::Sender<TokenEvent>,
    /// Let go of by the reader: what it has not read is gone with it.
    room: Option<Weak<dyn Room>>,
}

/// Who counts the bytes of events that nobody has read yet.
pub trait Room: fmt::Debug + Send + Sync {
    /// False when there is no room for so many more; then none are taken.
    fn take(&self, bytes: usize) -> bool;
}

impl From<mpsc::Sender<TokenEvent>> for Events {
    /// Bounded by the channel alone.
    fn from(sender: mpsc::Sender<TokenEvent>) -> Events {
        Events { sender, room: None }
    }
}

impl Events {
    /// Bounded by `room`, too, from which the reader gives [`TokenEvent::bytes`] back.
    pub fn counted(sender: mpsc::Sender<TokenEvent>, room: &Arc<dyn Room>) -> Events {
        Events {
            sender,
            room: Some(Arc::downgrade(room)),
        }
    }

    /// Makes room for an event. False: its reader is gone, too slow for its channel, or there is no
    /// memory for what it has not read yet.
    pub fn admits(&self, event: &TokenEvent) -> bool {
        let listens = !self.sender.is_closed() && self.sender.capacity() > 0;
        let takes = |room: &Weak<dyn Room>| Some(room.upgrade()?.take(event.bytes()));
        listens
            && self
                .room
                .as_ref()
                .is_none_or(|room| takes(room) == Some(true))
    }

    /// Makes room and sends, as the engine does in two steps.
    #[cfg(test)]
    #[expect(clippy::result_large_err, reason = "as the channel's own")]
    pub(crate) fn try_send(&self, event: TokenEvent) -> Result<(), TokenEvent> {
        let ends = matches!(event, TokenEvent::Finished(_));
        if !ends && !self.admits(&event) {
            return Err(event);
        }
        self.send(event).map_err(|error| error.into_inner())
    }

    /// Sends an event for which there is room. (The end of a request needs none: it is the last.)
    ///
    /// # Errors
    /// The reader is gone, or its channel is full.
    #[expect(clippy::result_large_err, reason = "the channel's own error")]
    pub fn send(&self, event: TokenEvent) -> Result<(), mpsc::error::TrySendError<TokenEvent>> {
        self.sender.try_send(event)
    }
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

/// What an allocator adds to a small piece of memory.
pub const ALLOCATION_BYTES: usize = 16;
/// A place in a queue: the event, and its share of what links the queue's pieces (measured, see
/// `sidecar/tests/host_costs.rs`).
const PLACE_BYTES: usize = size_of::<TokenEvent>() + 8;

impl TokenEvent {
    /// Bytes that an event takes until it is read.
    pub fn bytes(&self) -> usize {
        match self {
            TokenEvent::Prompt(scores) => {
                let each = |score: &TokenLogprobs| size_of::<TokenLogprobs>() + score.top_bytes();
                let scores: usize = scores.iter().map(each).sum();
                PLACE_BYTES + ALLOCATION_BYTES + scores
            }
            TokenEvent::Token { logprob, .. } => TokenEvent::token_bytes(logprob.as_ref()),
            TokenEvent::Finished(_) => TokenEvent::token_bytes(None),
        }
    }

    /// Of a token with these log-probabilities.
    pub fn token_bytes(logprob: Option<&TokenLogprobs>) -> usize {
        PLACE_BYTES + logprob.map_or(0, TokenLogprobs::top_bytes)
    }
}

/// Natural logarithms of the model's probabilities, before penalties and temperature.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    pub logprob: f32,
    /// Most likely first; as many as were asked for.
    pub top: Vec<(u32, f32)>,
}

impl TokenLogprobs {
    /// Bytes of the list behind it.
    pub fn top_bytes(&self) -> usize {
        match self.top.capacity() {
            0 => 0,
            entries => entries * size_of::<(u32, f32)>() + ALLOCATION_BYTES,
        }
    }
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
    /// It came to an engine that sleeps and could not be woken; see `Finished::message`.
    NotWoken,
    /// Its adapter is gone; see `Finished::message`.
    NoAdapter,
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
    /// Why, for `FinishReason::Error`, `NotWoken` and `NoAdapter`.
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
    #[error("there is no adapter `{name}`, or not any more")]
    NoAdapter { name: String },
    #[error("request id {id} is in use")]
    DuplicateId { id: u64 },
    #[error("the engine is still loading")]
    Loading,
    #[error("the engine is asleep: its memory is given back; wake it, or retry on another")]
    Asleep,
    #[error("the engine is asleep and did not wake: {message}; it is tried again within {} s", again_after.as_secs())]
    NotWoken {
        message: String,
        again_after: Duration,
    },
    #[error("the engine is shutting down and takes no new requests")]
    Draining,
    #[error("the engine has failed: {message}")]
    Failed { message: String },
}
