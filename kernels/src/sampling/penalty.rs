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
    let biased = |at: usize| {
        let id = |entry: &(u32, f32)| shard.row(entry.0);
        row.bias.binary_search_by_key(&Some(at), id).is_ok()
    };
    let (prompt, output) = (rows_of(row.prompt), rows_of(row.output));
    for at in prompt.iter().chain(&output) {
        if first_time(seen, *at) {
            if !biased(*at) {
                before.push((u32::try_from(*at).unwrap_or(u32::MAX), logits[*at]));
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
