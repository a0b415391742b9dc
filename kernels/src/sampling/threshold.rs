//! Thresholds of top-k and top-p over a vocabulary that is cut into shards.
//!
//! A threshold is a key, and how many of the tokens with exactly that key stay (the lowest ids).
//! It is found digit by digit from histograms of counts and weights; histograms of shards add up
//! exactly, so the threshold is that of the whole vocabulary. Shards count digits of 10 bits, and send
//! each other's sums in two steps: of 32 groups of bins, then the bins of the group in question.

use std::ops::RangeInclusive;

use super::weight::{KEY_BITS, Key, weight};

const DIGIT_BITS: u32 = 10;
pub(super) const BINS: usize = 1 << DIGIT_BITS;
/// Words of a histogram: a count and a weight per bin.
pub(super) const HISTOGRAM_WORDS: usize = 2 * BINS;
/// Bins of a group, and groups.
const GROUP: usize = 32;
/// Words that shards send each other at a time: a count and a weight per bin or group.
pub(super) const SHARED_WORDS: usize = 2 * GROUP;
/// Digits from the top: 10, 10 and 9 bits.
const SHIFTS: [u32; 3] = [KEY_BITS - DIGIT_BITS, KEY_BITS - 2 * DIGIT_BITS, 0];

/// Which tokens may be drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    /// Keys above stay, keys below go.
    pub(super) key: Key,
    /// Of the tokens with this very key, in the order of ids, so many stay, counted over all
    /// shards; and the ones before this shard's.
    pub(super) ties: u64,
    pub(super) ties_before: u64,
}

impl Kept {
    /// Everything from `key` on.
    pub(super) fn from_key(key: Key) -> Kept {
        Kept {
            key: key.max(1),
            ties: u64::MAX,
            ties_before: 0,
        }
    }

    /// Ties of this shard that stay.
    pub(super) fn own_ties(&self) -> u64 {
        self.ties.saturating_sub(self.ties_before)
    }
}

/// What is searched: the least set of most likely tokens that has so many members, or weighs so
/// much.
#[derive(Clone, Copy, Debug)]
pub(super) enum Goal {
    Count(u64),
    Weight(u64),
}

/// A search in progress.
#[derive(Clone, Copy, Debug)]
pub(super) struct Search {
    goal: Goal,
    /// Keys below do not take part.
    least: Key,
    /// Digits found, as the high bits of a key.
    prefix: Key,
    level: usize,
    /// The group of bins that the next digit is in.
    group: Option<usize>,
    /// Count or weight still missing below everything above the prefix.
    missing: u64,
    /// Weight of everything above the prefix.
    above: u64,
}

/// A search that ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) kept: Kept,
    /// Weight of the kept tokens, over all shards.
    pub(super) weight: u64,
}

impl Search {
    pub(super) fn new(goal: Goal, least: Key) -> Search {
        let missing = match goal {
            Goal::Count(count) => count,
            Goal::Weight(weight) => weight,
        };
        Search {
            goal,
            least: least.max(1),
            prefix: 0,
            level: 0,
            group: None,
            missing: missing.max(1),
            above: 0,
        }
    }

    /// Sets the goal of a search that has not gone down yet.
    pub(super) fn aim(&mut self, goal: Goal) {
        *self = Search::new(goal, self.least);
    }

    /// The keys that take part and share the digits found so far: where the next histogram is of them.
    /// None while groups of the last one are looked at.
    pub(super) fn counted(&self) -> Option<RangeInclusive<Key>> {
        let above = SHIFTS[self.level] + self.width();
        let first = self.least.max(self.prefix << above);
        let last = (self.prefix << above) | ((1 << above) - 1);
        self.group.is_none().then_some(first..=last)
    }

    /// Adds up keys that are [`Search::counted`].
    pub(super) fn count<'k>(&self, bins: &'k mut [u64]) -> impl FnMut(Key) + 'k {
        bins.fill(0);
        let (counts, weights) = bins.split_at_mut(BINS);
        let (shift, width) = (SHIFTS[self.level], self.width());
        move |key| {
            let bin = (key >> shift) as usize & ((1 << width) - 1);
            counts[bin] += 1;
            weights[bin] += weight(key);
        }
    }

    fn width(&self) -> u32 {
        if self.level == 2 {
            DIGIT_BITS - 1
        } else {
            DIGIT_BITS
        }
    }

    /// What the other shards are told of a histogram.
    pub(super) fn shared(&self, bins: &[u64]) -> [u64; SHARED_WORDS] {
        let mut shared = [0; SHARED_WORDS];
        match self.group {
            Some(group) => {
                for (half, bins) in shared.chunks_mut(GROUP).zip(bins.chunks(BINS)) {
                    half.copy_from_slice(&bins[group * GROUP..][..GROUP]);
                }
            }
            None => {
                let groups = bins.chunks(GROUP).map(|group| group.iter().sum());
                shared
                    .iter_mut()
                    .zip(groups)
                    .for_each(|(to, sum)| *to = sum);
            }
        }
        shared
    }

    /// Whether what all shards told of their first histograms reaches the goal. Asked before the first
    /// descent.
    pub(super) fn reaches<'s>(&self, all: impl Iterator<Item = &'s [u64]>) -> bool {
        let half = match self.goal {
            Goal::Count(_) => 0..GROUP,
            Goal::Weight(_) => GROUP..SHARED_WORDS,
        };
        let sum: u64 = all.flat_map(|shared| &shared[half.clone()]).sum();
        sum >= self.missing
    }

    /// Takes what all shards told, and goes half a digit down; the answer after the last. A goal that
    /// all tokens together do not reach keeps all.
    pub(super) fn descend<'s>(
        &mut self,
        all: impl Iterator<Item = &'s [u64]> + Clone,
        shard: usize,
    ) -> Option<Found> {
        let mut sums = [0; SHARED_WORDS];
        for shared in all.clone() {
            sums.iter_mut().zip(shared).for_each(|(sum, x)| *sum += x);
        }
        let mut place = GROUP - 1;
        while place > 0 {
            let (count, weights) = (sums[place], sums[GROUP + place]);
            let these = match self.goal {
                Goal::Count(_) => count,
                Goal::Weight(_) => weights,
            };
            if these >= self.missing {
                break;
            }
            self.missing -= these;
            self.above += weights;
            place -= 1;
        }
        let Some(group) = self.group.take() else {
            self.group = Some(place);
            return None;
        };
        let bin = group * GROUP + place;
        self.prefix = self.prefix << self.width() | u32::try_from(bin).unwrap_or(0);
        self.level += 1;
        if self.level < SHIFTS.len() {
            return None;
        }
        let before = all.take(shard).map(|shared| shared[place]).sum();
        Some(self.found(sums[place], before))
    }

    /// `count` tokens have the key that was found, `ties_before` of them in shards before this one.
    fn found(&self, count: u64, ties_before: u64) -> Found {
        let each = weight(self.prefix);
        let wanted = match self.goal {
            Goal::Count(_) => self.missing,
            Goal::Weight(_) => self.missing.div_ceil(each.max(1)),
        };
        if wanted > count {
            return Found {
                kept: Kept::from_key(self.least),
                weight: self.above + count * each,
            };
        }
        let kept = Kept {
            key: self.prefix,
            ties: wanted,
            ties_before,
        };
        Found {
            kept,
            weight: self.above + wanted * each,
        }
    }
}
