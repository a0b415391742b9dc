//! Cuts a batch into units of work and gives each to `unit`.
//!
//! A unit is up to 32 rows (tokens x query heads) of one sequence that share one KV head. Keys are
//! taken in spans of 256 positions, each summed on its own and merged in order: so the spans of
//! one unit may as well be summed by different threads, which is done when there are few units
//! (decoding few sequences with long contexts) and scratch for the parts.

use crate::kv::KvCache;
use crate::pool::{Disjoint, Pool};
use crate::simd;

use super::span::SPAN;
use super::unit::{Attend, Goal, ROWS, Unit};
use super::{Batch, Heads, Queries, merge};

/// What every unit of one call reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job<'a> {
    pub(super) queries: Queries<'a>,
    pub(super) heads: &'a Heads,
    pub(super) batch: &'a Batch<'a>,
    pub(super) bytes: &'a [u8],
    pub(super) shape: &'a KvCache,
    /// Query heads per KV head.
    pub(super) group: usize,
}

pub(super) fn run(
    pool: &Pool,
    queries: Queries<'_>,
    heads: &Heads,
    batch: &Batch<'_>,
    cache: (&[u8], &KvCache),
    out: &mut [f32],
    scratch: &mut [f32],
) {
    let (bytes, shape) = cache;
    let job = Job {
        queries,
        heads,
        batch,
        bytes,
        shape,
        group: heads.query / shape.heads,
    };
    let isa = pool.isa();
    let units = job.units(1);
    let spans = job.most_spans();
    let parts = batch.tokens() * heads.query * spans;
    let part_len = shape.head_dim + merge::HEADER;
    let out = Disjoint::new(out);
    if !is_shared(pool, units, spans) || parts * part_len > scratch.len() {
        pool.run(units, |chunk| {
            // The last units of a prefill see the most keys: they go first.
            if let Some(unit) = job.unit(units - 1 - chunk, 1) {
                simd::dispatch(
                    isa,
                    Attend {
                        job,
                        unit,
                        goal: Goal::Rows(&out),
                    },
                );
            }
        });
        return;
    }
    let parts = Disjoint::new(&mut scratch[..parts * part_len]);
    pool.run(job.units(spans), |chunk| {
        if let Some(unit) = job.unit(chunk, spans) {
            simd::dispatch(
                isa,
                Attend {
                    job,
                    unit,
                    goal: Goal::Parts {
                        parts: &parts,
                        spans,
                    },
                },
            );
        }
    });
    merge::run(pool, job, &parts, spans, &out);
}

/// Few units leave threads idle or unevenly loaded; then their spans are shared out too.
fn is_shared(pool: &Pool, units: usize, spans: usize) -> bool {
    const UNITS_PER_THREAD: usize = 4;
    pool.threads() > 1 && spans > 1 && units < pool.threads() * UNITS_PER_THREAD
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
    pub(super) fn seen(&self, position: usize) -> std::ops::Range<usize> {
        let window = self
            .heads
            .sliding_window
            .map_or(usize::MAX, |window| window as usize);
        (position + 1).saturating_sub(window)..position + 1
    }

    fn most_spans(&self) -> usize {
        let longest = self.batch.context_len.iter().copied().max().unwrap_or(0) as usize;
        longest.div_ceil(SPAN)
    }

    fn units_of(&self, sequence: usize, spans: usize) -> usize {
        let spans = spans.min(self.context(sequence).div_ceil(SPAN));
        (self.rows(sequence).1 * self.group).div_ceil(ROWS) * self.shape.heads * spans
    }

    /// Units of the whole batch when each may be cut into at most `spans` spans.
    fn units(&self, spans: usize) -> usize {
        (0..self.batch.sequences())
            .map(|sequence| self.units_of(sequence, spans))
            .sum()
    }

    fn unit(&self, mut number: usize, spans: usize) -> Option<Unit> {
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
