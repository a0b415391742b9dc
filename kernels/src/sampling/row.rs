//! One row on one shard: what each rank computes between two exchanges.

use super::outcome::{self, Record};
use super::passes::{self, BLOCK};
use super::race::{self, Winner};
use super::random::Noise;
use super::rounds::Rounds;
use super::threshold::Kept;
use super::weight;
use super::{RECORD_WORDS, Row, Sampled, VocabShard, penalty};
use crate::isa::Isa;

/// Ids of a block.
const BLOCK_IDS: u32 = 64;

/// The numbers of a row while it is drawn.
#[derive(Debug)]
pub(super) struct Work<'a> {
    pub(super) row: Row<'a>,
    isa: Isa,
    shard: VocabShard,
    /// Logits; for rows that are drawn, keys in their place after [`Work::weigh`].
    logits: &'a mut [f32],
    scratch: &'a mut [u64],
    /// Logits before biases and penalties, where they changed and log-probabilities are wanted: `(row of the shard, logit)`.
    before: &'a mut Vec<(u32, f32)>,
    /// The best candidates after and before penalties: of this shard, then of all.
    pub(super) largest: [u64; 2],
    /// On the way to what may be drawn; of rows that are drawn, after [`Work::weigh`].
    pub(super) rounds: Option<Rounds>,
    pub(super) winner: Option<Winner>,
    /// Sum of the weights of the model's own logits, of this shard.
    pub(super) own_sum: u64,
    /// The shard's most likely tokens before penalties, best first.
    candidates: Vec<u64>,
}

impl<'a> Work<'a> {
    pub(super) fn new(
        row: Row<'a>,
        isa: Isa,
        shard: VocabShard,
        logits: &'a mut [f32],
        scratch: &'a mut [u64],
        before: &'a mut Vec<(u32, f32)>,
    ) -> Work<'a> {
        before.clear();
        Work {
            row,
            isa,
            shard,
            logits,
            scratch,
            before,
            largest: [0; 2],
            rounds: None,
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
        if params.logprobs.is_some() {
            let wanted = self.candidates_wanted().max(1);
            let mut best = passes::candidates(self.isa, self.logits, self.shard.first, wanted);
            self.largest[1] = best.first().copied().unwrap_or(0);
            best.truncate(self.candidates_wanted());
            self.candidates = best;
        }
        if self.row.changes() {
            penalty::apply(&self.row, self.shard, self.logits, self.before);
        }
        self.largest[0] = match passes::largest(self.isa, self.logits) {
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

    /// Sums what log-probabilities need, and turns the logits of a drawn row into keys.
    pub(super) fn weigh(&mut self) {
        let params = self.row.params;
        if params.logprobs.is_some() {
            self.own_sum = self.sum_before_penalties();
        }
        if self.draws() {
            let (max, _) = weight::candidate_parts(self.largest[0]);
            let scale = 1.0 / params.temperature;
            passes::to_keys(self.isa, self.logits, max, scale);
            self.rounds = Some(Rounds::new(params, self.isa, self.logits, self.scratch));
        }
    }

    /// Sum of exp(x - largest) of the logits as the model gave them.
    fn sum_before_penalties(&self) -> u64 {
        let (max, _) = weight::candidate_parts(self.largest[1]);
        let weigh = |x: f32| weight::weight(weight::key(x - max));
        let now = passes::sum_of_logits(self.isa, self.logits, max);
        self.before.iter().fold(now, |sum, (at, x)| {
            sum.wrapping_add(weigh(*x))
                .wrapping_sub(weigh(self.logits[*at as usize]))
        })
    }

    /// Counts what the next round of the thresholds is about.
    pub(super) fn count(&mut self) {
        if let Some(rounds) = &mut self.rounds {
            rounds.count(self.isa, self.logits, self.scratch);
        }
    }

    /// Finds the thresholds without other shards.
    pub(super) fn search_alone(&mut self) {
        if let Some(rounds) = &mut self.rounds {
            rounds.alone(self.isa, self.logits, self.scratch);
        }
    }

    /// What may be drawn; None where nothing is.
    pub(super) fn kept(&self) -> Option<Kept> {
        self.rounds.as_ref().map(Rounds::kept)
    }

    /// The race on this shard.
    pub(super) fn draw(&mut self) {
        let Some(kept) = self.kept() else { return };
        let Row {
            params, position, ..
        } = self.row;
        let noise = Noise::new(params.seed, params.stream, position);
        let sums = &mut self.scratch[..self.logits.len().div_ceil(BLOCK)];
        passes::block_sums(self.isa, self.logits, kept.key, sums);
        drop_ties(self.logits, sums, kept);
        let first_block = self.shard.first / BLOCK_IDS;
        self.winner = race::run(self.logits, sums, first_block, kept, noise);
    }

    /// The model's own logit of the chosen row. Of a drawn row only its key is left.
    fn logit_before_penalties(&self, at: usize) -> f32 {
        if let Some((_, x)) = self.before.iter().find(|(row, _)| *row as usize == at) {
            return *x;
        }
        if !self.draws() {
            return self.logits[at];
        }
        let key = self.logits[at].to_bits();
        outcome::logit_of(key, self.largest[0], self.row.params.temperature)
    }

    /// What the last exchange carries, `words` long.
    pub(super) fn record(&self, words: usize) -> impl Iterator<Item = u64> {
        let largest = || weight::candidate_parts(self.largest[0]).1;
        let greedy = || self.shard.row(self.row.target.unwrap_or_else(largest));
        let winner = match self.draws() {
            true => self.winner.map(|winner| (winner.time, winner.row)),
            false => greedy().map(|at| (0.0, at)),
        };
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
        #[expect(clippy::cast_possible_truncation, reason = "as `record` packed them")]
        let read = |record: &'r [u64]| Record {
            time: record[0],
            id: record[1] as u32,
            logit: f32::from_bits(record[2] as u32),
            own_sum: record[3],
            candidates: &record[RECORD_WORDS..],
        };
        let records = records.map(|records| records.map(read));
        outcome::sampled(self.row.params, self.row.target, self.largest, records)
    }
}

/// Takes the ties that do not stay out of the sums of their blocks.
fn drop_ties(keys: &[f32], sums: &mut [u64], kept: Kept) {
    let mut left = kept.own_ties();
    if left >= keys.len() as u64 {
        return;
    }
    for (block, sum) in keys.chunks(BLOCK).zip(sums) {
        if *sum == 0 {
            continue;
        }
        for _ in block.iter().filter(|x| x.to_bits() == kept.key) {
            if left == 0 {
                *sum -= weight::weight(kept.key);
            }
            left = left.saturating_sub(1);
        }
    }
}
