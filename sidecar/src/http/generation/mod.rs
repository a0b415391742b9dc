//! One HTTP request as the sequences it becomes: submitted together, read together, and
//! cancelled together as soon as nobody listens.
//!
//! Dropping a [`Generation`] is how a disconnect reaches the engine: hyper drops the handler or
//! the body, the drop cancels every sequence that has not finished, and its blocks are free
//! before the next step.

mod awake;
mod length;

use std::sync::Arc;
use std::time::Instant;

use plimsoll_planner::host::SEQUENCE_ANSWER_BYTES;
use tokio::sync::mpsc;

use crate::engine::request::{Events, FinishReason, Finished, GenerateRequest, Room, TokenEvent};
use crate::http::app::{App, Loaded};
use crate::http::choice::{Choice, Echo, Piece};
use crate::http::error::ApiError;
use crate::http::generator::{aborted, not_woken, refusal};
use crate::http::named::{Name, Named};
use crate::http::params::Params;
use crate::http::types::{EndReason, PromptTokensDetails, Usage};
use crate::http::unsent::{Share, echo_bytes, scored_bytes, text_bytes};
use crate::metrics::{Metrics, Sequence};

/// Sequences that one request may become (prompts x n).
const MOST_SEQUENCES: usize = 256;

/// A piece of the choice `index`.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    pub index: u32,
    pub piece: Piece,
}

#[derive(Debug)]
struct Running {
    id: u64,
    events: mpsc::Receiver<TokenEvent>,
    choice: Choice,
    done: bool,
    /// Cancelled by us because a stop string was found.
    cancelled: bool,
    last_token: Option<Instant>,
}

#[derive(Debug)]
pub struct Generation {
    loaded: Arc<Loaded>,
    metrics: Arc<Metrics>,
    /// Bytes of tokens from the engine's hands to the client's.
    share: Arc<Share>,
    /// The answer is kept until it is whole.
    whole: bool,
    /// What it can be aborted by.
    name: Option<Name>,
    sequences: Vec<Running>,
    /// What was heard while the engine woke up.
    early: Option<(usize, Option<TokenEvent>)>,
    /// The sequence that is asked first next time, so that none starves.
    turn: usize,
    choices_per_prompt: usize,
    prompt_tokens: u32,
    cached_tokens: u32,
    max_tokens: u32,
    /// What it is answered with.
    adapter: Option<Arc<str>>,
}

impl Generation {
    /// Checks the lengths and submits `prompts` x `params.n` sequences to be answered with `adapter`.
    /// `field` is what the prompt is called in errors; `default_max_tokens` None means all that the context leaves.
    ///
    /// # Errors
    /// 400 for lengths, 429 for a full queue, 503 when the engine takes no requests or answers that
    /// are not sent leave no room.
    pub fn start(
        app: &App,
        loaded: Arc<Loaded>,
        prompts: Vec<Vec<u32>>,
        params: &Params,
        default_max_tokens: Option<u32>,
        (field, adapter): (&str, Option<Arc<str>>),
    ) -> Result<Generation, ApiError> {
        let limit = loaded.engine.facts().max_model_len;
        let count = prompts.len().saturating_mul(params.n as usize);
        if count > MOST_SEQUENCES {
            let message = format!(
                "{field}: {} prompts x n {} are {count} sequences, at most {MOST_SEQUENCES} are \
                 allowed",
                prompts.len(),
                params.n
            );
            return Err(ApiError::invalid(Some(field), message));
        }
        for prompt in &prompts {
            let least = params.max_tokens.unwrap_or(1).min(1);
            length::check(prompt.len(), least, limit, field)?;
        }
        let share = loaded.unsent.share();
        if !share.take(count * SEQUENCE_ANSWER_BYTES as usize) {
            return Err(share.no_room());
        }
        let mut generation = Generation {
            loaded,
            share,
            whole: !params.stream,
            metrics: Arc::clone(&app.metrics),
            name: None,
            sequences: Vec::with_capacity(count),
            early: None,
            turn: 0,
            choices_per_prompt: params.n as usize,
            prompt_tokens: 0,
            cached_tokens: 0,
            max_tokens: 0,
            adapter,
        };
        for prompt in prompts {
            let length = u32::try_from(prompt.len()).unwrap_or(u32::MAX);
            let room = limit.saturating_sub(length);
            let max_tokens = params
                .max_tokens
                .or(default_max_tokens)
                .unwrap_or(room)
                .min(room);
            generation.prompt_tokens = generation.prompt_tokens.saturating_add(length);
            generation.max_tokens = generation.max_tokens.max(max_tokens);
            for _ in 0..params.n {
                // On an error the sequences so far are cancelled by the drop.
                generation.submit(app.next_id(), prompt.clone(), params, max_tokens, field)?;
            }
        }
        let asked = params.max_tokens.map(|most| most.min(limit));
        generation.metrics.accepted(params.n, asked);
        Ok(generation)
    }

    fn submit(
        &mut self,
        id: u64,
        prompt: Vec<u32>,
        params: &Params,
        max_tokens: u32,
        field: &str,
    ) -> Result<(), ApiError> {
        // All tokens and the end fit, so a slow reader never makes the engine wait or drop.
        // (Scores of a prompt come a part a step, a token or more each.)
        let prompt_logprobs = params.sampling.logprobs.filter(|_| params.echo);
        let parts = prompt_logprobs.map_or(0, |_| prompt.len());
        let (sender, events) = mpsc::channel(max_tokens as usize + parts + 2);
        let room = Arc::clone(&self.share) as Arc<dyn Room>;
        let mut ending = params.ending.clone();
        if !params.ignore_eos {
            ending.ids.extend(&self.loaded.eos);
        }
        let mut sampling = params.sampling;
        // Numbered across the whole request: equal prompts draw different numbers, too.
        sampling.stream = u32::try_from(self.sequences.len()).unwrap_or(u32::MAX);
        let tokenizer = &self.loaded.tokenizer;
        let scored = prompt_logprobs.is_some();
        let echo = params
            .echo
            .then(|| Echo::new(tokenizer, prompt.clone(), scored));
        if let Some(echo) = &echo
            && !self
                .share
                .take(echo_bytes(prompt.len(), echo.text().len(), scored))
        {
            return Err(self.share.no_room());
        }
        let choice = Choice::new(tokenizer, ending.clone(), echo);
        let request = GenerateRequest {
            id,
            prompt,
            sampling,
            eos: ending.ids,
            max_tokens,
            min_tokens: params.ending.min_tokens,
            bias: params.bias.clone(),
            prompt_logprobs,
            adapter: self.adapter.clone(),
            cache_salt: params.cache_salt.clone(),
            events: Events::counted(sender, &room),
        };
        self.loaded
            .engine
            .submit(request)
            .map_err(|refused| refusal(refused, field))?;
        self.sequences.push(Running {
            id,
            events,
            choice,
            done: false,
            cancelled: false,
            last_token: None,
        });
        Ok(())
    }

    /// The next piece of any choice; None once all are complete.
    ///
    /// # Errors
    /// The engine failed or aborted a sequence; the others are cancelled by the drop.
    pub async fn next(&mut self) -> Option<Result<Update, ApiError>> {
        loop {
            if self.sequences.iter().all(|sequence| sequence.done) {
                return None;
            }
            let share = Arc::clone(&self.share);
            let (at, event) = tokio::select! {
                biased;
                () = share.told() => return Some(Err(share.no_room())),
                event = self.event() => event,
            };
            let piece = self.take(at, event).and_then(|piece| self.keep(piece));
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => return Some(Err(error)),
            };
            if piece != Piece::default() {
                let index = u32::try_from(at).unwrap_or(u32::MAX);
                return Some(Ok(Update { index, piece }));
            }
        }
    }

    /// The text of an answer that is kept takes room, too.
    fn keep(&self, piece: Piece) -> Result<Piece, ApiError> {
        match self.whole && !self.share.take(text_bytes(piece.text.len())) {
            true => Err(self.share.no_room()),
            false => Ok(piece),
        }
    }

    /// A piece of a streamed answer is on its way to the client.
    pub fn sent(&self, piece: &Piece) {
        let bytes = piece
            .scored
            .iter()
            .map(|s| scored_bytes(s.logprobs.as_ref()));
        self.share.give(bytes.sum());
    }

    fn take(&mut self, at: usize, event: Option<TokenEvent>) -> Result<Piece, ApiError> {
        let sequence = &mut self.sequences[at];
        match event {
            // What was taken for these stays taken until they are sent.
            Some(TokenEvent::Prompt(scores)) => {
                sequence.choice.push_prompt(scores);
                Ok(Piece::default())
            }
            Some(TokenEvent::Token { id, logprob, .. }) => {
                let bytes = TokenEvent::token_bytes(logprob.as_ref());
                let kept = logprob.as_ref().map_or(0, |own| scored_bytes(Some(own)));
                self.share.give(bytes.saturating_sub(kept));
                if sequence.choice.stopped() {
                    return Ok(Piece::default());
                }
                let now = Instant::now();
                if let Some(last) = sequence.last_token.replace(now) {
                    self.metrics.inter_token(now - last);
                }
                let piece = sequence.choice.push(id, logprob);
                if sequence.choice.stopped() {
                    sequence.cancelled = true;
                    self.loaded.engine.cancel(sequence.id);
                }
                Ok(piece)
            }
            Some(TokenEvent::Finished(finished)) => {
                sequence.done = true;
                let end = match (finished.reason, sequence.cancelled) {
                    (FinishReason::Stop, _) | (_, true) => Ok(EndReason::Stop),
                    (FinishReason::Length, false) => Ok(EndReason::Length),
                    (FinishReason::Abort, false) if self.share.is_told() => {
                        Err(("abort", self.share.no_room()))
                    }
                    (FinishReason::Abort, false) if self.loaded.engine.lives_on() => {
                        Ok(EndReason::Abort)
                    }
                    (FinishReason::Abort, false) => Err(("abort", aborted())),
                    (FinishReason::NotWoken, false) => {
                        let why = finished.message.clone().unwrap_or_default();
                        let again_after = self.loaded.engine.rest().again_after;
                        Err(("abort", not_woken(why, again_after)))
                    }
                    (FinishReason::NoAdapter, false) => {
                        let name = self.adapter.as_deref().unwrap_or_default();
                        Err((
                            "abort",
                            match finished.completion_tokens {
                                0 => ApiError::no_adapter(name),
                                _ => ApiError::adapter_unloaded(name),
                            },
                        ))
                    }
                    (FinishReason::Error, false) => {
                        let message = finished.message.clone();
                        let message = message.unwrap_or_else(|| "the engine failed".into());
                        Err(("error", ApiError::engine(message)))
                    }
                };
                self.finished(at, &finished, end)
            }
            None => {
                sequence.done = true;
                self.metrics.lost();
                Err(aborted())
            }
        }
    }

    fn finished(
        &mut self,
        at: usize,
        finished: &Finished,
        end: Result<EndReason, (&'static str, ApiError)>,
    ) -> Result<Piece, ApiError> {
        // Choices after the first find the first one's blocks; that is no saving of the client's.
        if at.is_multiple_of(self.choices_per_prompt) {
            self.cached_tokens = self.cached_tokens.saturating_add(finished.cached_tokens);
        }
        let choice = &mut self.sequences[at].choice;
        let (reason, result) = match end {
            Ok(end) => {
                let piece = choice.finish(end);
                let reason = match piece.end {
                    Some(EndReason::Length) => "length",
                    Some(EndReason::Abort) => "abort",
                    _ => "stop",
                };
                (reason, Ok(piece))
            }
            Err((reason, error)) => (reason, Err(error)),
        };
        self.metrics.finished(&Sequence {
            reason,
            prompt_tokens: finished.prompt_tokens,
            cached_tokens: finished.cached_tokens,
            completion_tokens: choice.tokens(),
            max_tokens: self.max_tokens,
            timings: finished.timings,
        });
        result
    }

    /// Tokens so far; complete once [`Generation::next`] has returned None.
    pub fn usage(&self) -> Usage {
        let completion: u32 = self.sequences.iter().map(|s| s.choice.tokens()).sum();
        Usage {
            prompt_tokens: self.prompt_tokens,
            completion_tokens: completion,
            total_tokens: self.prompt_tokens.saturating_add(completion),
            prompt_tokens_details: PromptTokensDetails {
                cached_tokens: self.cached_tokens,
            },
        }
    }

    /// Lets the answer be aborted by its id.
    pub fn enter(&mut self, named: &Arc<Named>, id: &str) {
        let ids = self.sequences.iter().map(|of| of.id).collect();
        self.name = Some(named.enter(id, ids));
    }

    pub fn choices(&self) -> usize {
        self.sequences.len()
    }

    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    pub fn into_loaded(self) -> Arc<Loaded> {
        Arc::clone(&self.loaded)
    }

    /// What the answer holds until it is sent.
    pub fn share(&self) -> Arc<Share> {
        Arc::clone(&self.share)
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        for sequence in self.sequences.iter().filter(|sequence| !sequence.done) {
            if !sequence.cancelled {
                self.loaded.engine.cancel(sequence.id);
            }
            self.metrics.lost();
        }
    }
}
