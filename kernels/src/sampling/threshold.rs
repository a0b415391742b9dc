//! Thresholds of top-k and top-p over a vocabulary that is cut into shards.
//!
//! A threshold is a key, and how many of the tokens with exactly that key stay (the lowest ids).
//! It is found digit by digit from histograms of counts and weights; histograms of shards add up
//! exactly, so the threshold is that of the whole vocabulary.

use super::passes;
use super::weight::{KEY_BITS, Key, weight};
use crate::isa::Isa;

const DIGIT_BITS: u32 = 10;
pub(super) const BINS: usize = 1 << DIGIT_BITS;
/// Words of a histogram: a count and a weight per bin.
pub(super) const HISTOGRAM_WORDS: usize = 2 * BINS;
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
            missing: missing.max(1),
            above: 0,
        }
    }

    /// Adds up the keys of this shard (as `passes::to_keys` left them) that take part and share
    /// the digits found so far.
    pub(super) fn count(&self, isa: Isa, keys: &[f32], bins: &mut [u64]) {
        bins.fill(0);
        let (counts, weights) = bins.split_at_mut(BINS);
        let (shift, width) = (SHIFTS[self.level], self.width());
        let above = shift + width;
        let first = self.least.max(self.prefix << above);
        let last = (self.prefix << above) | ((1 << above) - 1);
        passes::each_between(isa, keys, first..=last, |key| {
            let bin = (key >> shift) as usize & ((1 << width) - 1);
            counts[bin] += 1;
            weights[bin] += weight(key);
        });
    }

    fn width(&self) -> u32 {
        if self.level == 2 {
            DIGIT_BITS - 1
        } else {
            DIGIT_BITS
        }
    }

    /// Whether the histograms of all shards reach the goal. Asked before the first descent.
    pub(super) fn reaches(&self, all: &[u64]) -> bool {
        let half = match self.goal {
            Goal::Count(_) => 0..BINS,
            Goal::Weight(_) => BINS..HISTOGRAM_WORDS,
        };
        let sum: u64 = all
            .chunks(HISTOGRAM_WORDS)
            .flat_map(|h| &h[half.clone()])
            .sum();
        sum >= self.missing
    }

    /// Takes the histograms of all shards (`[shards, HISTOGRAM_WORDS]`) and goes one digit down;
    /// the answer after the last. A goal that all tokens together do not reach keeps all.
    pub(super) fn descend(&mut self, all: &[u64], shard: usize) -> Option<Found> {
        let sum = |word: usize| -> u64 { all.chunks(HISTOGRAM_WORDS).map(|h| h[word]).sum() };
        let mut bin = BINS - 1;
        let (mut count, mut weights) = (sum(bin), sum(BINS + bin));
        while bin > 0 {
            let enough = match self.goal {
                Goal::Count(_) => count >= self.missing,
                Goal::Weight(_) => weights >= self.missing,
            };
            if enough {
                break;
            }
            self.missing -= match self.goal {
                Goal::Count(_) => count,
                Goal::Weight(_) => weights,
            };
            self.above += weights;
            bin -= 1;
            (count, weights) = (sum(bin), sum(BINS + bin));
        }
        let width = self.width();
        self.prefix = self.prefix << width | u32::try_from(bin).unwrap_or(0);
        self.level += 1;
        if self.level < SHIFTS.len() {
            return None;
        }
        let each = weight(self.prefix);
        let wanted = match self.goal {
            Goal::Count(_) => self.missing,
            Goal::Weight(_) => self.missing.div_ceil(each.max(1)),
        };
        if wanted > count {
            let kept = Kept::from_key(self.least);
            return Some(Found {
                kept,
                weight: self.above + count * each,
            });
        }
        let ties_before = all
            .chunks(HISTOGRAM_WORDS)
            .take(shard)
            .map(|h| h[bin])
            .sum();
        let kept = Kept {
            key: self.prefix,
            ties: wanted,
            ties_before,
        };
        Some(Found {
            kept,
            weight: self.above + wanted * each,
        })
    }
}
