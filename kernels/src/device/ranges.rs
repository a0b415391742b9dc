//! A sorted set of byte ranges: which parts of a buffer have memory behind them.

use std::ops::Range;

/// Ranges in ascending order that neither overlap nor touch. There are few of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges(Vec<Range<usize>>);

impl Ranges {
    pub(super) fn as_slice(&self) -> &[Range<usize>] {
        &self.0
    }

    /// Bytes of all ranges together.
    pub(super) fn total(&self) -> usize {
        self.0.iter().map(ExactSizeIterator::len).sum()
    }

    /// Whether one range holds all of it.
    pub(super) fn holds(&self, part: &Range<usize>) -> bool {
        let after = self.0.partition_point(|held| held.start <= part.start);
        let last = after.checked_sub(1).and_then(|at| self.0.get(at));
        last.is_some_and(|held| part.end <= held.end)
    }

    /// The parts of `within` that are in the set.
    pub(super) fn parts(&self, within: &Range<usize>) -> Vec<Range<usize>> {
        let cut = |held: &Range<usize>| held.start.max(within.start)..held.end.min(within.end);
        let parts = self.0.iter().map(cut);
        parts.filter(|part| !part.is_empty()).collect()
    }

    /// The parts of `within` that are not in the set.
    pub(super) fn gaps(&self, within: &Range<usize>) -> Vec<Range<usize>> {
        let mut gaps = Vec::new();
        let mut end = within.start;
        for part in self.parts(within) {
            gaps.push(end..part.start);
            end = part.end;
        }
        gaps.push(end..within.end);
        gaps.retain(|gap| !gap.is_empty());
        gaps
    }

    pub(super) fn insert(&mut self, part: &Range<usize>) {
        if part.is_empty() {
            return;
        }
        let touches = |held: &Range<usize>| held.start <= part.end && part.start <= held.end;
        let (touched, mut others): (Vec<_>, Vec<_>) = self.0.drain(..).partition(touches);
        let join = |all: Range<usize>, held: Range<usize>| {
            all.start.min(held.start)..all.end.max(held.end)
        };
        others.push(touched.into_iter().fold(part.clone(), join));
        others.sort_unstable_by_key(|held| held.start);
        self.0 = others;
    }

    pub(super) fn remove(&mut self, part: &Range<usize>) {
        let outside = |held: &Range<usize>| {
            [
                held.start..held.end.min(part.start),
                held.start.max(part.end)..held.end,
            ]
        };
        let left: Vec<_> = self.0.iter().flat_map(outside).collect();
        self.0 = left;
        self.0.retain(|held| !held.is_empty());
    }
}
