//! What was drawn, from the records of all ranks: the last step, on the host wherever the others ran.

use super::weight::{self, Key};
use super::{Logprobs, Params, Sampled};

/// What one rank says of one row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    /// Bits of its winner's time (times are positive, so their bits order as they do); all ones:
    /// nobody ran.
    pub(super) time: u64,
    pub(super) id: u32,
    /// The winner's own logit, before penalties.
    pub(super) logit: f32,
    /// Sum of the weights of the model's own logits, of its shard.
    pub(super) own_sum: u64,
    /// Its most likely tokens before penalties; 0 is none.
    pub(super) candidates: &'a [u64],
}

/// The token of a row; `target` where it is given. `largest` are the best candidates of all ranks after and before penalties;
/// `records` are None where greedy rows want no log-probabilities.
pub(super) fn sampled<'r>(
    params: &Params,
    target: Option<u32>,
    largest: [u64; 2],
    records: Option<impl Iterator<Item = Record<'r>> + Clone>,
) -> Sampled {
    let finite = largest[0] >> 32 > u64::from(weight::ordered(f32::NEG_INFINITY));
    let (_, best) = weight::candidate_parts(largest[0]);
    let greedy = target.unwrap_or(best);
    let Some(records) = records.filter(|_| finite) else {
        return Sampled {
            id: if finite { greedy } else { 0 },
            finite,
            logprobs: None,
        };
    };
    let winner = records
        .clone()
        .filter(|record| record.time < u64::MAX)
        .min_by_key(|record| (record.time, record.id));
    // Nobody runs where the largest logit is infinite: it is taken then.
    let (id, x) = match winner {
        Some(record) if !params.greedy() => (record.id, record.logit),
        Some(record) => (greedy, record.logit),
        None => (greedy, f32::NAN),
    };
    let wanted = params.logprobs.map(usize::from);
    let logprobs = wanted.map(|wanted| logprobs(largest[1], records, (id, x), wanted));
    Sampled {
        id,
        finite,
        logprobs,
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "sums are rounded to f64 on purpose"
)]
#[expect(clippy::cast_possible_truncation, reason = "log-probabilities are f32")]
fn logprobs<'r>(
    largest: u64,
    records: impl Iterator<Item = Record<'r>> + Clone,
    chosen: (u32, f32),
    wanted: usize,
) -> Logprobs {
    let (max, _) = weight::candidate_parts(largest);
    let sum: u64 = records.clone().map(|record| record.own_sum).sum();
    let log_sum = (sum as f64 / weight::WEIGHT_ONE as f64).ln();
    let logprob = |x: f32| ((f64::from(x) - f64::from(max)) - log_sum) as f32;
    let mut all: Vec<u64> = records
        .flat_map(|record| record.candidates)
        .copied()
        .filter(|candidate| *candidate > 0)
        .collect();
    all.sort_unstable_by(|a, b| b.cmp(a));
    let top = all.into_iter().take(wanted).map(weight::candidate_parts);
    let top: Vec<(u32, f32)> = top.map(|(x, id)| (id, logprob(x))).collect();
    let (id, x) = chosen;
    let listed = top
        .iter()
        .find(|(listed, _)| *listed == id)
        .map(|(_, logprob)| *logprob);
    Logprobs {
        logprob: listed.unwrap_or_else(|| logprob(x)),
        top,
    }
}

/// A logit of which only its key is left, to 2^-22 or so. `largest`: the best candidate after
/// penalties.
#[expect(clippy::cast_possible_truncation, reason = "logits are f32")]
pub(super) fn logit_of(key: Key, largest: u64, temperature: f32) -> f32 {
    let (max, _) = weight::candidate_parts(largest);
    let log = weight::log(weight::weight(key));
    (f64::from(max) + log * f64::from(temperature)) as f32
}
