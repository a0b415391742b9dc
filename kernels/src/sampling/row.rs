//! One row on one shard: what each rank computes between two exchanges.

use super::random::Noise;
use super::threshold::{HISTOGRAM_WORDS, Kept, Search};
use super::weight::{self, Key};
use super::{Logprobs, RECORD_WORDS, Row, Sampled, VocabShard, penalty};

/// The numbers of a row while it is drawn.
#[derive(Debug)]
pub(super) struct Work<'a> {
    pub(super) row: Row<'a>,
    shard: VocabShard,
    logits: &'a mut [f32],
    pub(super) scratch: &'a mut [u64],
    /// Logits before penalties, where they changed: `(row of the shard, logit)`.
    before: &'a mut Vec<(u32, f32)>,
    /// The best candidates after and before penalties: of this shard, then of all.
    pub(super) largest: [u64; 2],
    pub(super) kept: Kept,
    /// The shard's winner: its time in the race as ordered bits, and its row.
    winner: Option<(f64, usize)>,
    /// Sum of the weights of the model's own logits, of this shard.
    own_sum: u64,
    /// The shard's most likely tokens before penalties, best first.
    candidates: Vec<u64>,
}

impl<'a> Work<'a> {
    pub(super) fn new(
        row: Row<'a>,
        shard: VocabShard,
        logits: &'a mut [f32],
        scratch: &'a mut [u64],
        before: &'a mut Vec<(u32, f32)>,
    ) -> Work<'a> {
        before.clear();
        Work {
            row,
            shard,
            logits,
            scratch,
            before,
            largest: [0; 2],
            kept: Kept::from_key(1),
            winner: None,
            own_sum: 0,
            candidates: Vec::new(),
        }
    }

    /// Whether there is a race; greedy rows take the largest.
    pub(super) fn draws(&self) -> bool {
        !self.row.params.greedy()
    }

    pub(super) fn candidates_wanted(&self) -> usize {
        self.row.params.logprobs.map_or(0, usize::from)
    }

    pub(super) fn penalise_and_find_largest(&mut self) {
        let params = self.row.params;
        self.largest[1] = if params.logprobs.is_some() {
            self.find_candidates()
        } else {
            0
        };
        if params.penalised() {
            self.scratch.fill(0);
            penalty::apply(
                &self.row,
                self.shard,
                self.logits,
                self.scratch,
                self.before,
            );
        }
        self.largest[0] = match largest(self.logits) {
            Some(at) => weight::candidate(self.logits[at], self.id(at)),
            None => 0,
        };
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "a shard has less than 2^32 rows"
    )]
    fn id(&self, at: usize) -> u32 {
        self.shard.first + at as u32
    }

    /// The best `logprobs` candidates of this shard, best first; returns the best.
    fn find_candidates(&mut self) -> u64 {
        let wanted = self.candidates_wanted().max(1);
        let mut best: Vec<u64> = Vec::with_capacity(wanted + 1);
        let mut least = weight::candidate(f32::NAN, 0);
        for (at, x) in self.logits.iter().enumerate() {
            let candidate = weight::candidate(*x, self.id(at));
            if candidate > least {
                let place = best.partition_point(|other| *other > candidate);
                best.insert(place, candidate);
                best.truncate(wanted);
                if best.len() == wanted {
                    least = best[wanted - 1];
                }
            }
        }
        let first = best.first().copied().unwrap_or(0);
        best.truncate(self.candidates_wanted());
        self.candidates = best;
        first
    }

    fn keys(&self) -> impl Iterator<Item = Key> {
        let (max, _) = weight::candidate_parts(self.largest[0]);
        let scale = 1.0 / self.row.params.temperature;
        self.logits
            .iter()
            .map(move |x| weight::key((x - max) * scale))
    }

    pub(super) fn sum_of_weights(&self, least: Key) -> u64 {
        self.keys()
            .filter(|key| *key >= least)
            .map(weight::weight)
            .sum()
    }

    pub(super) fn histogram(&mut self, search: &Search) {
        let scratch = std::mem::take(&mut self.scratch);
        search.count(self.keys(), &mut scratch[..HISTOGRAM_WORDS]);
        self.scratch = scratch;
    }

    /// The race on this shard, and what log-probabilities need.
    pub(super) fn draw(&mut self) {
        if self.draws() {
            self.winner = self.race();
        }
        if self.row.params.logprobs.is_some() {
            self.own_sum = self.sum_before_penalties();
        }
    }

    fn race(&self) -> Option<(f64, usize)> {
        let Row {
            params, position, ..
        } = self.row;
        let noise = Noise::new(params.seed, params.stream, position);
        let mut ties_left = self.kept.own_ties();
        let mut best: Option<(f64, usize)> = None;
        let mut group = (u32::MAX, [0; 4]);
        for (at, key) in self.keys().enumerate() {
            if key < self.kept.key {
                continue;
            }
            if key == self.kept.key {
                if ties_left == 0 {
                    continue;
                }
                ties_left -= 1;
            }
            let id = self.id(at);
            if group.0 != id / 4 {
                group = (id / 4, noise.group(id / 4));
            }
            #[expect(
                clippy::cast_precision_loss,
                reason = "weights have 24 significant bits"
            )]
            let weight = weight::weight(key) as f64;
            let uniform = (f64::from(group.1[id as usize % 4]) + 0.5) / 4_294_967_296.0;
            // -ln(1 - u) >= u: most tokens cannot win, and need no logarithm.
            if best.is_some_and(|(time, _)| uniform >= time * weight) {
                continue;
            }
            let time = -(-uniform).ln_1p() / weight;
            if best.is_none_or(|(least, _)| time < least) {
                best = Some((time, at));
            }
        }
        best
    }

    /// Sum of exp(x - largest) of the logits as the model gave them.
    fn sum_before_penalties(&self) -> u64 {
        let (max, _) = weight::candidate_parts(self.largest[1]);
        let weigh = |x: f32| weight::weight(weight::key(x - max));
        let now: u64 = self.logits.iter().map(|x| weigh(*x)).sum();
        self.before.iter().fold(now, |sum, (at, x)| {
            sum.wrapping_add(weigh(*x))
                .wrapping_sub(weigh(self.logits[*at as usize]))
        })
    }

    /// The model's own logit of a row of this shard.
    fn logit_before_penalties(&self, at: usize) -> f32 {
        let changed = self.before.iter().find(|(row, _)| *row as usize == at);
        changed.map_or(self.logits[at], |(_, x)| *x)
    }

    /// What the last exchange carries, `words` long.
    pub(super) fn record(&self, words: usize) -> impl Iterator<Item = u64> {
        let greedy = || self.shard.row(weight::candidate_parts(self.largest[0]).1);
        let winner = match self.draws() {
            true => self.winner,
            false => greedy().map(|at| (0.0, at)),
        };
        // Times are positive, so their bits order as they do.
        let (time, id, x) = match winner {
            Some((time, at)) => (time.to_bits(), self.id(at), self.logit_before_penalties(at)),
            None => (u64::MAX, u32::MAX, f32::NAN),
        };
        let head = [time, u64::from(id), u64::from(x.to_bits()), self.own_sum];
        let none = std::iter::repeat(0);
        head.into_iter()
            .chain(self.candidates.iter().copied())
            .chain(none)
            .take(words)
    }

    /// The token, from the records of all ranks (None: greedy without log-probabilities).
    pub(super) fn result<'r>(
        &self,
        records: Option<impl Iterator<Item = &'r [u64]> + Clone>,
    ) -> Sampled {
        let finite = self.largest[0] >> 32 > u64::from(weight::ordered(f32::NEG_INFINITY));
        let (_, greedy) = weight::candidate_parts(self.largest[0]);
        let Some(records) = records.filter(|_| finite) else {
            return Sampled {
                id: if finite { greedy } else { 0 },
                finite,
                logprobs: None,
            };
        };
        let first = records
            .clone()
            .map(|record| (record[0], record[1], record[2]))
            .min();
        let (_, id, bits) = first.unwrap_or_default();
        let id = u32::try_from(id).unwrap_or(greedy);
        let id = if self.draws() { id } else { greedy };
        let logprobs = self.row.params.logprobs.map(|wanted| {
            let x = f32::from_bits(u32::try_from(bits).unwrap_or(0));
            self.logprobs(records, x, usize::from(wanted))
        });
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
        &self,
        records: impl Iterator<Item = &'r [u64]> + Clone,
        chosen: f32,
        wanted: usize,
    ) -> Logprobs {
        let (max, _) = weight::candidate_parts(self.largest[1]);
        let sum: u64 = records.clone().map(|record| record[3]).sum();
        let log_sum = (sum as f64 / weight::WEIGHT_ONE as f64).ln();
        let logprob = |x: f32| ((f64::from(x) - f64::from(max)) - log_sum) as f32;
        let mut all: Vec<u64> = records
            .flat_map(|record| &record[RECORD_WORDS..])
            .copied()
            .filter(|c| *c > 0)
            .collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        let top = all.into_iter().take(wanted).map(weight::candidate_parts);
        Logprobs {
            logprob: logprob(chosen),
            top: top.map(|(x, id)| (id, logprob(x))).collect(),
        }
    }
}

/// The row of the largest number, the first of equal ones.
fn largest(logits: &[f32]) -> Option<usize> {
    const BLOCK: usize = 64;
    // Blocks first: their maximum has no branches.
    let mut best: Option<(f32, usize)> = None;
    for (index, block) in logits.chunks(BLOCK).enumerate() {
        let max = block
            .iter()
            .fold(f32::NEG_INFINITY, |max, x| if *x > max { *x } else { max });
        if best.is_none_or(|(x, _)| max > x) {
            best = Some((max, index * BLOCK));
        }
    }
    let (max, start) = best?;
    logits[start..]
        .iter()
        .position(|x| *x == max)
        .map(|at| start + at)
}
