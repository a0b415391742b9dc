//! What changes logits before a token is chosen: the row's biases, then
//! penalties for tokens that were seen: the repetition penalty once per token of prompt or output,
//! the presence penalty once and the frequency penalty every time for a token of the output.

use super::{Row, VocabShard};

/// Changes the logits of biased and seen tokens of this shard and notes what they were:
/// `(row, logit)`, every row once.
///
/// `seen` has a bit per row of the shard, all clear before and after.
pub(super) fn apply(
    row: &Row<'_>,
    shard: VocabShard,
    logits: &mut [f32],
    seen: &mut [u64],
    before: &mut Vec<(u32, f32)>,
) {
    let params = row.params;
    let rows_of =
        |tokens: &[u32]| -> Vec<usize> { tokens.iter().filter_map(|id| shard.row(*id)).collect() };
    before.clear();
    for (id, bias) in row.bias {
        let Some(at) = shard.row(*id) else { continue };
        before.push((u32::try_from(at).unwrap_or(u32::MAX), logits[at]));
        logits[at] += bias;
    }
    if !params.penalised() {
        return;
    }
    // What is noted so far ascends; the ids of the biases do, too, but those beyond the shard have no row.
    let biases = before.len();
    let (prompt, output) = (rows_of(row.prompt), rows_of(row.output));
    for at in prompt.iter().chain(&output) {
        if first_time(seen, *at) {
            let place = u32::try_from(*at).unwrap_or(u32::MAX);
            let biased = before[..biases].binary_search_by_key(&place, |(other, _)| *other);
            if biased.is_err() {
                before.push((place, logits[*at]));
            }
            let x = &mut logits[*at];
            *x = if *x > 0.0 {
                *x / params.repetition_penalty
            } else {
                *x * params.repetition_penalty
            };
        }
    }
    prompt
        .iter()
        .chain(&output)
        .for_each(|at| seen[*at / 64] = 0);
    for at in &output {
        if first_time(seen, *at) {
            logits[*at] -= params.presence_penalty;
        }
        logits[*at] -= params.frequency_penalty;
    }
    output.iter().for_each(|at| seen[*at / 64] = 0);
}

fn first_time(seen: &mut [u64], at: usize) -> bool {
    let bit = 1 << (at % 64);
    let first = seen[at / 64] & bit == 0;
    seen[at / 64] |= bit;
    first
}
