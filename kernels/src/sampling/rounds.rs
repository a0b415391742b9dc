//! The way of one row to its thresholds: min-p, then top-k, then top-p of the rest. What it needs to
//! know of the other shards it asks for in rounds, so that all rows of a step share one exchange a
//! round. Every shard goes the same way.

use std::ops::RangeInclusive;

use super::Params;
use super::passes;
use super::threshold::{Found, Goal, HISTOGRAM_WORDS, Kept, SHARED_WORDS, Search};
use super::weight::{self, Key};
use crate::isa::Isa;

/// The most words that a row sends in a round: of a histogram, and a sum of weights.
pub(super) const ROUND_WORDS: usize = SHARED_WORDS + 1;
/// One in 1,024 of the largest weight: searches look among likelier tokens first, and at the tail
/// only when those do not suffice.
const LIKELY: u64 = weight::WEIGHT_ONE >> 10;

/// What is searched now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    TopK,
    TopP,
    Done,
}

#[derive(Debug)]
pub(super) struct Rounds {
    stage: Stage,
    search: Search,
    goal: Goal,
    top_p: f32,
    /// The sum that `top_p` is a part of is still to be had from all shards.
    needs_total: bool,
    /// Keys below have no part in the search.
    least: Key,
    /// The search is among likely tokens, and was not answered yet.
    tries: bool,
    /// So many keys of this shard as top-k asks for are no smaller: others need not be counted.
    floor: Key,
    /// Keys of this range, all of them, lie in the scratch, so many.
    listed: Option<(RangeInclusive<Key>, usize)>,
    kept: Kept,
    sent: [u64; ROUND_WORDS],
}

impl Rounds {
    /// A row whose shard has `keys` (as `passes::to_keys` left them).
    pub(super) fn new(params: &Params, isa: Isa, keys: &[f32], scratch: &mut [u64]) -> Rounds {
        let least = weight::least_key(weight::part_of(weight::WEIGHT_ONE, params.min_p));
        let mut rounds = Rounds {
            stage: Stage::Done,
            search: Search::new(Goal::Count(0), 0),
            goal: Goal::Count(0),
            top_p: params.top_p,
            needs_total: false,
            least,
            tries: false,
            floor: 0,
            listed: None,
            kept: Kept::from_key(least),
            sent: [0; ROUND_WORDS],
        };
        if params.top_k > 0 {
            rounds.floor = floor(isa, keys, params.top_k as usize, scratch);
            rounds.begin(Stage::TopK, Goal::Count(params.top_k.into()));
        } else if params.top_p < 1.0 {
            rounds.needs_total = true;
            rounds.begin(Stage::TopP, Goal::Weight(0));
        }
        rounds
    }

    fn begin(&mut self, stage: Stage, goal: Goal) {
        let likely = self.least.max(weight::least_key(LIKELY));
        (self.stage, self.goal) = (stage, goal);
        self.search = Search::new(goal, likely);
        self.tries = likely > self.least;
    }

    /// The tokens that may be drawn, once no more words are wanted.
    pub(super) fn kept(&self) -> Kept {
        self.kept
    }

    /// Words that this row sends in this round, on every shard as many; none when it is done.
    pub(super) fn words(&self) -> usize {
        match self.stage {
            Stage::Done => 0,
            Stage::TopK | Stage::TopP => SHARED_WORDS + usize::from(self.needs_total),
        }
    }

    /// What this shard sends: of the last [`Rounds::count`].
    pub(super) fn sent(&self) -> &[u64] {
        &self.sent[..self.words()]
    }

    /// Counts what this round is about.
    pub(super) fn count(&mut self, isa: Isa, keys: &[f32], scratch: &mut [u64]) {
        if self.stage == Stage::Done {
            return;
        }
        if self.needs_total {
            self.sent[SHARED_WORDS] = passes::sum_of_keys(isa, keys, self.least);
        }
        let (bins, list) = scratch.split_at_mut(HISTOGRAM_WORDS);
        if let Some(counted) = self.search.counted() {
            let range = *counted.start().max(&self.floor)..=*counted.end();
            let mut add = self.search.count(bins);
            match &self.listed {
                Some((listed, len)) if covers(listed, &range) => {
                    let keys = list[..*len]
                        .iter()
                        .filter_map(|word| Key::try_from(*word).ok());
                    keys.filter(|key| range.contains(key)).for_each(add);
                }
                Some(_) | None => {
                    let mut len = 0;
                    passes::each_between(isa, keys, range.clone(), |key| {
                        add(key);
                        if let Some(place) = list.get_mut(len) {
                            *place = key.into();
                        }
                        len += 1;
                    });
                    self.listed = (len <= list.len()).then_some((range, len));
                }
            }
        }
        self.sent[..SHARED_WORDS].copy_from_slice(&self.search.shared(bins));
    }

    /// Goes on with what all shards sent, in their order; `shard` is this one.
    pub(super) fn take<'s>(&mut self, all: impl Iterator<Item = &'s [u64]> + Clone, shard: usize) {
        if std::mem::take(&mut self.needs_total) {
            let total = all.clone().map(|sent| sent[SHARED_WORDS]).sum();
            self.goal = Goal::Weight(weight::part_of(total, self.top_p));
            self.search.aim(self.goal);
        }
        if std::mem::take(&mut self.tries) && !self.search.reaches(all.clone()) {
            self.search = Search::new(self.goal, self.least);
            return;
        }
        let Some(Found { kept, weight }) = self.search.descend(all, shard) else {
            return;
        };
        self.kept = kept;
        if self.stage == Stage::TopK && self.top_p < 1.0 {
            self.least = kept.key;
            let goal = Goal::Weight(weight::part_of(weight, self.top_p));
            self.begin(Stage::TopP, goal);
        } else {
            self.stage = Stage::Done;
        }
    }

    /// All rounds of a row that has no other shards.
    pub(super) fn alone(&mut self, isa: Isa, keys: &[f32], scratch: &mut [u64]) {
        while self.words() > 0 {
            self.count(isa, keys, scratch);
            let sent = self.sent;
            self.take(std::iter::once(&sent[..]), 0);
        }
    }
}

fn covers(listed: &RangeInclusive<Key>, range: &RangeInclusive<Key>) -> bool {
    listed.start() <= range.start() && range.end() <= listed.end()
}

/// A key that at least `count` keys reach, each in a block of its own; 0 where there are fewer blocks.
fn floor(isa: Isa, keys: &[f32], count: usize, scratch: &mut [u64]) -> Key {
    let blocks = keys.len().div_ceil(passes::BLOCK);
    if count > blocks {
        return 0;
    }
    let maxima = &mut scratch[..blocks];
    passes::block_maxima(isa, keys, maxima);
    let (_, floor, _) = maxima.select_nth_unstable(blocks - count);
    Key::try_from(*floor).unwrap_or(0)
}
