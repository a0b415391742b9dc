//! From a planned batch to the ranks' input, and from their output to tokens.

use std::collections::HashMap;
use std::time::Instant;

use plimsoll_kernels::sampling::{Counts, Seen};

use super::live::Live;
use super::outbox::Outbox;
use super::request::{FinishReason, SamplingParams};
use crate::cache::blocks::NULL_BLOCK;
use crate::forward::StepOutput;
use crate::forward::input::{Carried, SampleRow, StepInput};
use crate::scheduler::{Batch, Scheduler, Sequence, Settled};

/// What was drawn: tokens, and the checksums of the logits that each was drawn from.
pub(super) type Drawn = Vec<(u32, u64)>;

/// Describes the batch to the ranks.
pub(super) fn fill(
    input: &mut StepInput,
    batch: &Batch,
    scheduler: &Scheduler,
    live: &mut HashMap<u64, Live>,
) {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    input.clear();
    let sequences = || {
        batch
            .chunks
            .iter()
            .map(|chunk| &scheduler.running()[chunk.index])
    };
    input.table_stride = sequences()
        .map(|s| s.table.blocks().len())
        .max()
        .unwrap_or(0);
    count(&mut input.seen, batch, scheduler, live);
    for (chunk, sequence) in batch.chunks.iter().zip(sequences()) {
        let end = chunk.start + chunk.count;
        input
            .ids
            .extend_from_slice(&sequence.tokens[chunk.start..end]);
        input
            .carried_ids
            .extend(carried(sequence, end, input.ids.len()));
        input.positions.extend(number(chunk.start)..number(end));
        input
            .slots
            .extend((chunk.start..end).map(|token| sequence.table.slot(token)));
        input.query_start.push(number(input.ids.len()));
        input.context_len.push(number(end));
        let blocks = sequence.table.blocks();
        input.block_tables.extend_from_slice(blocks);
        let padded = input.context_len.len() * input.table_stride;
        input.block_tables.resize(padded, NULL_BLOCK);
        let Some(live) = live.get_mut(&chunk.id) else {
            unreachable!("sequence {} is scheduled and not alive", chunk.id);
        };
        let first_row = input.ids.len() - chunk.count;
        if let Some(slot) = live.adapter {
            let rows = number(first_row)..number(input.ids.len());
            input.adapted_slots.extend(rows.clone().map(|_| slot));
            input.adapted_rows.extend(rows);
        }
        for token in chunk.scored[0]..chunk.scored[1] {
            input.samples.push(SampleRow {
                params: scoring(live),
                row: number(first_row + token - chunk.start),
                position: number(token + 1),
                seen: [input.seen.len(); 2],
                drawn: None,
                bias: [input.bias.len(); 2],
                target: Some(sequence.tokens[token + 1]),
            });
        }
        if chunk.samples {
            let (seen, drawn) = seen(input, sequence, live);
            let first_bias = input.bias.len();
            input
                .bias
                .extend_from_slice(live.bias(end - sequence.prompt_len));
            input.samples.push(SampleRow {
                params: live.sampling,
                row: number(input.ids.len() - 1),
                position: number(end),
                seen,
                drawn,
                bias: [first_bias, input.bias.len()],
                target: None,
            });
            input.keep_logits |= live.logits.is_some();
        }
    }
}

/// A row that scores a given token.
fn scoring(live: &Live) -> SamplingParams {
    SamplingParams {
        logprobs: live.prompt_logprobs,
        ..SamplingParams::default()
    }
}

/// The token that is not known yet, if it is among the first `count` of the sequence: it goes
/// before `end`.
fn carried(sequence: &Sequence, count: usize, end: usize) -> Option<Carried> {
    (count > sequence.known).then(|| Carried {
        at: end - 1,
        sample: sequence.drawn_at as usize,
    })
}

/// Tokens of a sequence that are known when the next is drawn.
fn known(sequence: &Sequence) -> usize {
    sequence.known.min(sequence.tokens.len())
}

/// Counts the new tokens of the batch's penalised sequences, and makes room for all that they have and grow
/// by in many steps. What a list that doubles has more is in no plan (`planner::host`), nor are an old and
/// a new one at once. A sequence that is computed anew keeps its counts, as it keeps its tokens.
fn count(
    seen: &mut Vec<Seen>,
    batch: &Batch,
    scheduler: &Scheduler,
    live: &mut HashMap<u64, Live>,
) {
    let (mut words, mut sequences) = (0, 0);
    for chunk in batch.chunks.iter().filter(|chunk| chunk.samples) {
        let sequence = &scheduler.running()[chunk.index];
        if let Some(live) = live.get_mut(&chunk.id)
            && live.sampling.penalised()
        {
            let tokens = &sequence.tokens[..known(sequence)];
            live.counts.follow(tokens, sequence.prompt_len);
            words += live.counts.all().len();
            sequences += 1;
        }
    }
    if seen.capacity() < words {
        *seen = Vec::new();
        seen.reserve_exact(words + sequences * Counts::GROWTH);
    }
}

/// Puts the counts of a penalised sequence into the input: where they are, and which sample is the one that
/// is not known yet.
fn seen(input: &mut StepInput, sequence: &Sequence, live: &Live) -> ([usize; 2], Option<usize>) {
    let start = input.seen.len();
    if !live.sampling.penalised() {
        return ([start; 2], None);
    }
    input.seen.extend_from_slice(live.counts.all());
    let is_open = sequence.tokens.len() > known(sequence);
    let drawn = is_open.then_some(sequence.drawn_at as usize);
    ([start, input.seen.len()], drawn)
}

/// Moves the sequences on, with their tokens in the outbox; those that end go into `ended`. Returns
/// how many tokens were handed out.
pub(super) fn process(
    outputs: &[StepOutput],
    batch: &Batch,
    scheduler: &mut Scheduler,
    live: &mut HashMap<u64, Live>,
    ended: &mut Vec<(u64, FinishReason)>,
    outbox: &mut Outbox,
) -> u64 {
    let now = Instant::now();
    // Every rank drew the same tokens.
    let all = outputs
        .first()
        .map(|output| &output.sampled[..])
        .unwrap_or_default();
    let mut left = all;
    let mut generated = 0;
    for chunk in &batch.chunks {
        let scores;
        (scores, left) = left.split_at((chunk.scored[1] - chunk.scored[0]).min(left.len()));
        let index = all.len() - left.len();
        let sample = left.first().filter(|_| chunk.samples);
        left = &left[usize::from(sample.is_some())..];
        let settled = scheduler.settle(chunk, sample.map(|sampled| sampled.id));
        // A sequence that ended before this step's turn has no reader for it.
        let alive = Some(()).filter(|()| settled != Settled::Gone);
        let Some(live) = alive.and_then(|()| live.get_mut(&chunk.id)) else {
            continue;
        };
        if !scores.is_empty()
            && let Some(reason) = live.scored(scores, outbox)
        {
            ended.push((chunk.id, reason));
            continue;
        }
        let Some(sampled) = sample else {
            // A prompt of which nothing is drawn is over when it is computed.
            let over = (settled == Settled::Full).then_some((chunk.id, FinishReason::Length));
            ended.extend(over);
            continue;
        };
        if let Some(sink) = &live.logits {
            // A reader that is gone does not matter.
            let _ = sink.send(gather_logits(outputs, index, all.len()));
        }
        generated += 1;
        let full = settled == Settled::Full;
        let reason = live
            .token(sampled, now, outbox)
            .or(full.then_some(FinishReason::Length));
        ended.extend(reason.map(|reason| (chunk.id, reason)));
    }
    generated
}

/// One row of logits over the whole vocabulary, from the shards of all ranks.
fn gather_logits(outputs: &[StepOutput], index: usize, samples: usize) -> Vec<f32> {
    let shard = |output: &StepOutput| {
        let width = output.logits.len() / samples.max(1);
        output.logits[index * width..(index + 1) * width].to_vec()
    };
    outputs.iter().flat_map(shard).collect()
}
