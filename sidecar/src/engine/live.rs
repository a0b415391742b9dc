//! A live request: what the scheduler does not need to know of it, and what its reader is told.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use plimsoll_kernels::sampling::{Counts, Sampled};

use super::outbox::Outbox;
use super::request::{
    Events, FinishReason, Finished, SamplingParams, Timings, TokenEvent, TokenLogprobs,
};
use crate::scheduler::Sequence;

#[derive(Debug)]
pub(super) struct Live {
    pub(super) sampling: SamplingParams,
    /// Its tokens, where they are penalised: as many as were known when the last one was asked for.
    pub(super) counts: Counts,
    /// The slot of its adapter.
    pub(super) adapter: Option<u32>,
    pub(super) eos: Vec<u32>,
    /// Added to logits; and the same with what ends the sequence forbidden.
    pub(super) bias: Vec<(u32, f32)>,
    pub(super) masked: Vec<(u32, f32)>,
    pub(super) min_tokens: u32,
    pub(super) prompt_logprobs: Option<u8>,
    pub(super) events: Events,
    /// Where logits go, for tests and validation.
    pub(super) logits: Option<mpsc::Sender<Vec<f32>>>,
    pub(super) submitted: Instant,
    pub(super) first_turn: Option<Instant>,
    pub(super) first_token: Option<Instant>,
    pub(super) last_token: Option<Instant>,
    pub(super) generated: u32,
}

/// `bias` with minus infinity for the ids of `eos`, in ascending order.
pub(super) fn masked(bias: &[(u32, f32)], eos: &[u32]) -> Vec<(u32, f32)> {
    let mut all: BTreeMap<u32, f32> = bias.iter().copied().collect();
    all.extend(eos.iter().map(|id| (*id, f32::NEG_INFINITY)));
    all.into_iter().collect()
}

impl Live {
    /// A greedy request of the engine's own: its logits are all that is read.
    pub(super) fn probe(logits: mpsc::Sender<Vec<f32>>) -> Live {
        let (events, _) = tokio::sync::mpsc::channel(1);
        Live {
            sampling: SamplingParams::default(),
            counts: Counts::default(),
            adapter: None,
            eos: Vec::new(),
            bias: Vec::new(),
            masked: Vec::new(),
            min_tokens: 0,
            prompt_logprobs: None,
            events: events.into(),
            logits: Some(logits),
            submitted: Instant::now(),
            first_turn: None,
            first_token: None,
            last_token: None,
            generated: 0,
        }
    }

    /// What is added to the logits that the token `generated` (from 0 on) is drawn from.
    pub(super) fn bias(&self, generated: usize) -> &[(u32, f32)] {
        match generated < self.min_tokens as usize {
            true => &self.masked,
            false => &self.bias,
        }
    }

    /// Hands scores of the prompt out, as [`Live::token`] does tokens.
    pub(super) fn scored(
        &mut self,
        scores: &[Sampled],
        outbox: &mut Outbox,
    ) -> Option<FinishReason> {
        if scores.iter().any(|score| !score.finite) {
            return Some(FinishReason::Error);
        }
        let event = TokenEvent::Prompt(scores.iter().filter_map(reported).collect());
        if !self.events.admits(&event) {
            return Some(FinishReason::Abort);
        }
        outbox.push(self.events.clone(), event);
        None
    }

    /// Hands a token out. Some(reason) when the request ends for a cause of its own: the token is
    /// an end of sequence, or nobody reads (gone, or too slow for its channel or its room).
    pub(super) fn token(
        &mut self,
        sampled: &Sampled,
        now: Instant,
        outbox: &mut Outbox,
    ) -> Option<FinishReason> {
        if !sampled.finite {
            return Some(FinishReason::Error);
        }
        let logprob = reported(sampled);
        let index = self.generated;
        self.generated += 1;
        self.first_token.get_or_insert(now);
        self.last_token = Some(now);
        let event = TokenEvent::Token {
            index,
            id: sampled.id,
            logprob,
        };
        // Nobody else sends: room that is there now is there when the event leaves.
        if !self.events.admits(&event) {
            return Some(FinishReason::Abort);
        }
        outbox.push(self.events.clone(), event);
        self.eos.contains(&sampled.id).then_some(FinishReason::Stop)
    }

    /// Says goodbye; returns how long the request was served since its first turn.
    pub(super) fn finish(
        self,
        sequence: &Sequence,
        reason: FinishReason,
        message: Option<String>,
        outbox: &mut Outbox,
    ) -> Duration {
        let now = Instant::now();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let started = self.first_turn.unwrap_or(now);
        let timings = Timings {
            queue: started - self.submitted,
            prefill: self
                .first_token
                .unwrap_or(now)
                .saturating_duration_since(started),
            decode: match (self.first_token, self.last_token) {
                (Some(first), Some(last)) => last - first,
                _ => Duration::ZERO,
            },
            first_token: self.first_token.map(|first| first - self.submitted),
            total: now - self.submitted,
        };
        let finished = Finished {
            reason,
            prompt_tokens: count(sequence.prompt_len),
            cached_tokens: count(sequence.cached_at_first.unwrap_or(0)),
            completion_tokens: self.generated,
            preemptions: sequence.preemptions,
            timings,
            message,
        };
        outbox.push(self.events, TokenEvent::Finished(finished));
        now - started
    }
}

fn reported(sampled: &Sampled) -> Option<TokenLogprobs> {
    let logprobs = sampled.logprobs.as_ref()?;
    Some(TokenLogprobs {
        logprob: logprobs.logprob,
        top: logprobs.top.clone(),
    })
}
