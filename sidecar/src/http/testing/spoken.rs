//! What the scripted engine says.

use super::{finished, tokenizer};
use crate::engine::request::{FinishReason, GenerateRequest, TokenEvent, TokenLogprobs};

pub(super) fn speak(request: &GenerateRequest, text: &str, fails: bool) {
    if let Some(count) = request.prompt_logprobs {
        // In two parts, each token half as likely as the one before.
        let score = |(id, rank): (&u32, u8)| TokenLogprobs {
            logprob: -f32::from(rank),
            top: vec![(*id, -f32::from(rank)); usize::from(count)],
        };
        let scores: Vec<_> = request.prompt[1..]
            .iter()
            .zip((1..=100).cycle())
            .map(score)
            .collect();
        let (first, rest) = scores.split_at(scores.len() / 2);
        for part in [first, rest] {
            let part = TokenEvent::Prompt(part.to_vec());
            request.events.try_send(part).unwrap();
        }
    }
    let mut ids = tokenizer().encode(text, false).unwrap();
    let mut reason = FinishReason::Length;
    if ids.len() < request.max_tokens as usize {
        reason = FinishReason::Stop;
        ids.extend(request.eos.first());
    }
    ids.truncate(request.max_tokens as usize);
    for (index, id) in (0..).zip(&ids) {
        let logprob = request.sampling.logprobs.map(|count| TokenLogprobs {
            logprob: -0.25,
            top: vec![(*id, -0.25); usize::from(count)],
        });
        request
            .events
            .try_send(TokenEvent::Token {
                index,
                id: *id,
                logprob,
            })
            .unwrap();
    }
    let reason = if fails { FinishReason::Error } else { reason };
    request
        .events
        .try_send(finished(reason, request.prompt.len(), ids.len()))
        .unwrap();
}
