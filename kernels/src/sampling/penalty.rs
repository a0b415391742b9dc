//! What changes logits before a token is chosen: the row's biases, then
//! penalties for tokens that were seen: the repetition penalty once per token of prompt or output,
//! the presence penalty once and the frequency penalty every time for a token of the output.

use super::{Params, Row, VocabShard};

/// Changes the logits of biased and seen tokens of this shard; where log-probabilities are wanted, notes
/// what they were: `(row, logit)`, every row once.
pub(super) fn apply(
    row: &Row<'_>,
    shard: VocabShard,
    logits: &mut [f32],
    before: &mut Vec<(u32, f32)>,
) {
    let notes = row.params.logprobs.is_some();
    for (id, bias) in row.bias {
        let Some(at) = shard.row(*id) else { continue };
        if notes {
            before.push((id - shard.first, logits[at]));
        }
        logits[at] += bias;
    }
    if !row.params.penalised() {
        return;
    }
    // What is noted so far ascends, as the ids of the biases do.
    let biases = before.len();
    each_seen(row, shard, |id, times| {
        let at = id - shard.first;
        let x = &mut logits[at as usize];
        let biased = || before[..biases].binary_search_by_key(&at, |(other, _)| *other);
        if notes && biased().is_err() {
            before.push((at, *x));
        }
        *x = penalised(*x, times, row.params);
    });
}

fn penalised(x: f32, times: u32, params: &Params) -> f32 {
    let mut x = match x > 0.0 {
        true => x / params.repetition_penalty,
        false => x * params.repetition_penalty,
    };
    if times > 0 {
        x -= params.presence_penalty;
    }
    for _ in 0..times {
        let less = x - params.frequency_penalty;
        if less == x {
            break; // and would stay so
        }
        x = less;
    }
    x
}

/// Calls `each` once with every token of the shard that was seen, and how often in the output.
fn each_seen(row: &Row<'_>, shard: VocabShard, mut each: impl FnMut(u32, u32)) {
    let end = shard.first + shard.rows;
    let first = row.seen.partition_point(|seen| seen.id() < shard.first);
    let mut drawn = row.drawn.filter(|id| shard.row(*id).is_some());
    let mut left = row.seen[first..].iter().copied().peekable();
    while let Some(seen) = left.next_if(|seen| seen.id() < end) {
        let id = seen.id();
        let mut times = seen.times();
        while let Some(more) = left.next_if(|more| more.id() == id) {
            times += more.times();
        }
        times += u32::from(drawn.take_if(|drawn| *drawn == id).is_some());
        each(id, times);
    }
    if let Some(id) = drawn {
        each(id, 1);
    }
}
