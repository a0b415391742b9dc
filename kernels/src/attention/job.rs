//! What one call attends, and the units of work that it is cut into.

use std::ops::Range;

use plimsoll_planner::KvDtype;

use crate::kv::{KvCache, Places};

use super::span::SPAN;
use super::{Batch, Heads, Queries};

/// Rows of a unit.
pub(super) const ROWS: usize = 64;

/// Rows `first_row..first_row + rows` of a sequence, counted over (token, head of the group).
#[derive(Clone, Copy, Debug)]
pub(super) struct Unit {
    pub(super) sequence: usize,
    pub(super) kv_head: usize,
    pub(super) first_row: usize,
    pub(super) rows: usize,
    /// Only these keys, if set.
    pub(super) span: Option<usize>,
}

/// What every unit of one call reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job<'a> {
    pub(super) queries: Queries<'a>,
    pub(super) heads: &'a Heads,
    pub(super) batch: &'a Batch<'a>,
    pub(super) bytes: &'a [u8],
    pub(super) shape: &'a KvCache<KvDtype>,
    pub(super) places: Places,
    /// Query heads per KV head.
    pub(super) group: usize,
}

impl Job<'_> {
    pub(super) fn context(&self, sequence: usize) -> usize {
        self.batch.context_len[sequence] as usize
    }

    /// First row and row count of a sequence.
    pub(super) fn rows(&self, sequence: usize) -> (usize, usize) {
        let first = self.batch.query_start[sequence] as usize;
        (first, self.batch.query_start[sequence + 1] as usize - first)
    }

    /// Positions `first..end` that a row at `position` sees.
    pub(super) fn seen(&self, position: usize) -> Range<usize> {
        let window = self
            .heads
            .sliding_window
            .map_or(usize::MAX, |window| window as usize);
        (position + 1).saturating_sub(window)..position + 1
    }

    pub(super) fn most_spans(&self) -> usize {
        let longest = self.batch.context_len.iter().copied().max().unwrap_or(0) as usize;
        longest.div_ceil(SPAN)
    }

    fn units_of(&self, sequence: usize, spans: usize) -> usize {
        let spans = spans.min(self.context(sequence).div_ceil(SPAN));
        (self.rows(sequence).1 * self.group).div_ceil(ROWS) * self.shape.heads * spans
    }

    /// Units of the whole batch when each may be cut into at most `spans` spans.
    pub(super) fn units(&self, spans: usize) -> usize {
        (0..self.batch.sequences())
            .map(|sequence| self.units_of(sequence, spans))
            .sum()
    }

    pub(super) fn unit(&self, mut number: usize, spans: usize) -> Option<Unit> {
        let mut sequence = 0;
        while sequence < self.batch.sequences() {
            let units = self.units_of(sequence, spans);
            if number < units {
                break;
            }
            number -= units;
            sequence += 1;
        }
        if sequence == self.batch.sequences() {
            return None;
        }
        let rows = self.rows(sequence).1 * self.group;
        let spans_here = spans.min(self.context(sequence).div_ceil(SPAN));
        let span = (spans > 1).then_some(number % spans_here);
        let number = number / spans_here;
        let first_row = number / self.shape.heads * ROWS;
        Some(Unit {
            sequence,
            kv_head: number % self.shape.heads,
            first_row,
            rows: (rows - first_row).min(ROWS),
            span,
        })
    }
}
