//! One unit: up to 64 rows against the keys they see, 32 keys at a time.

use plimsoll_planner::host::attention_bytes;

use crate::kv::SCALE_BYTES;
use crate::pool::Disjoint;
use crate::simd::{Simd, Work};

use super::MAX_HEAD_DIM;
use super::few::{FEW, Few};
use super::job::{Job, ROWS, Unit};
use super::many::Many;
use super::span::{HEADER, SPAN, Sums};
use super::tile::{KEYS, Read, Row, Running, Scores, Spots, seen, soften};

/// Where a unit's results go.
#[derive(Clone, Copy, Debug)]
pub(super) enum Goal<'a> {
    /// `[tokens, query heads, head_dim]`
    Rows(&'a Disjoint<'a, f32>),
    /// `[tokens, query heads, spans, HEADER + head_dim]`
    Parts {
        parts: &'a Disjoint<'a, f32>,
        spans: usize,
    },
}

/// Keys of a tile that lie in one block.
struct Run {
    /// In the tile.
    first: usize,
    count: usize,
    /// Where the block has the head's keys.
    head: usize,
    /// In the block, of the first.
    offset: usize,
}

pub(super) struct Attend<'a> {
    pub(super) job: Job<'a>,
    pub(super) unit: Unit,
    pub(super) goal: Goal<'a>,
}

impl Work for Attend<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.job.shape.head_dim {
            0..=64 => self.sized::<S, 64>(s),
            65..=128 => self.sized::<S, 128>(s),
            _ => self.sized::<S, MAX_HEAD_DIM>(s),
        }
    }
}

/// A unit's arrays, all of them on the stack of its thread.
const fn bytes<const D: usize>() -> usize {
    let read = size_of::<Many<'_, D>>() + size_of::<[Row<'_>; ROWS]>();
    let sums = size_of::<[Sums<D>; ROWS]>() + size_of::<Running<D, ROWS>>();
    read + sums + size_of::<Scores<ROWS>>()
}
const _: () = assert!(
    bytes::<64>() as u64 <= attention_bytes(64)
        && bytes::<128>() as u64 <= attention_bytes(128)
        && bytes::<MAX_HEAD_DIM>() as u64 <= attention_bytes(256),
    "the planner reserves less"
);

impl Attend<'_> {
    #[inline(always)]
    fn sized<S: Simd, const D: usize>(&self, s: S) {
        let mut rows = [Row::NONE; ROWS];
        let rows = &mut rows[..self.unit.rows];
        self.list(rows);
        if rows.len() <= FEW {
            self.attend::<S, D, FEW>(s, rows, Few::new(s, &self.job, rows));
        } else {
            self.attend::<S, D, ROWS>(s, rows, Many::new(s, &self.job, rows));
        }
    }

    #[inline(always)]
    fn attend<S: Simd, const D: usize, const N: usize>(
        &self,
        s: S,
        rows: &[Row<'_>],
        mut read: impl Read<S, D, N>,
    ) {
        let first = rows.iter().map(|row| row.first).min().unwrap_or(0);
        let end = rows.iter().map(|row| row.end).max().unwrap_or(0);
        let spans = match self.unit.span {
            Some(span) => span..span + 1,
            None => first / SPAN..end.div_ceil(SPAN),
        };
        let begin = (spans.start * SPAN).max(first / KEYS * KEYS);
        let end = (spans.end * SPAN).min(end);
        let mut scores = Scores::<N>::EMPTY;
        let mut totals = [Sums::<D>::EMPTY; N];
        let mut next = self.spots(begin, end);
        for span in spans {
            let mut running = Running::<D, N>::EMPTY;
            for key in (begin.max(span * SPAN)..((span + 1) * SPAN).min(end)).step_by(KEYS) {
                let here = next;
                next = self.spots(key + KEYS, end);
                self.scales(s, &here, &next, &mut scores);
                read.score(s, rows, &here, &next, &mut scores);
                for (r, row) in rows.iter().enumerate() {
                    let keys = seen(row, key);
                    let scale = self.job.heads.scale;
                    soften(s, keys, scale, r, &mut scores, &mut running);
                }
                read.weigh(s, rows, &here, &next, &scores, &mut running);
            }
            for (r, row) in rows.iter().enumerate() {
                if row.first < (span + 1) * SPAN && span * SPAN < row.end {
                    let weight = s.sum(s.load(&running.weights[r]));
                    let values = read.values(&mut running.values[r]);
                    let sums = (running.largest[r], weight, values);
                    self.keep(s, row, span, sums, &mut totals[r]);
                }
            }
        }
        if let Goal::Rows(out) = self.goal {
            let head_dim = self.job.shape.head_dim;
            for (row, total) in rows.iter().zip(&totals) {
                // SAFETY: a row belongs to one unit, and that to one chunk.
                total.finish(s, unsafe {
                    out.chunk(row.index * head_dim..(row.index + 1) * head_dim)
                });
            }
        }
    }

    /// The unit's rows.
    #[inline(always)]
    fn list<'a>(&'a self, rows: &mut [Row<'a>]) {
        let Attend { job, unit, .. } = self;
        let (first_token, tokens) = job.rows(unit.sequence);
        for (r, row) in rows.iter_mut().enumerate() {
            let (token, member) = (
                (unit.first_row + r) / job.group,
                (unit.first_row + r) % job.group,
            );
            let head = unit.kv_head * job.group + member;
            let at = (first_token + token) * job.queries.stride + head * job.shape.head_dim;
            let seen = job.seen(job.context(unit.sequence) - tokens + token);
            *row = Row {
                index: (first_token + token) * job.heads.query + head,
                query: &job.queries.data[at..at + job.shape.head_dim],
                first: seen.start,
                end: seen.end,
            };
        }
    }

    /// Where the keys of the tile at position `key` lie, if there are any before `end`.
    #[inline(always)]
    fn spots(&self, key: usize, end: usize) -> Spots {
        let count = KEYS.min(end.saturating_sub(key));
        let mut at = [0; KEYS];
        for run in self.runs(key, count) {
            let first = run.head + run.offset * self.job.places.row;
            for k in 0..run.count {
                at[run.first + k] = first + k * self.job.places.row;
            }
        }
        if let Some(last) = count.checked_sub(1) {
            let last = at[last];
            at[count..].fill(last);
        }
        Spots { key, count, at }
    }

    /// What the integers of a tile are multiples of; asks for those of the next.
    #[inline(always)]
    fn scales<S: Simd, const N: usize>(
        &self,
        s: S,
        here: &Spots,
        next: &Spots,
        scores: &mut Scores<N>,
    ) {
        let Attend { job, .. } = self;
        let Some(scales) = job.places.scales else {
            return;
        };
        let bytes = |run: &Run, part: usize| {
            let at = run.head + part + scales + run.offset * SCALE_BYTES;
            &job.bytes[at..at + run.count * SCALE_BYTES]
        };
        scores.scaled = true;
        for run in self.runs(here.key, here.count) {
            let keys = &mut scores.key_scales[run.first..run.first + run.count];
            numbers(bytes(&run, 0), keys);
            let values = &mut scores.value_scales[run.first..run.first + run.count];
            numbers(bytes(&run, job.places.values), values);
        }
        for run in self.runs(next.key, next.count) {
            s.prefetch_l2(bytes(&run, 0));
            s.prefetch_l2(bytes(&run, job.places.values));
        }
    }

    /// The tile's keys that lie in one block each.
    #[inline(always)]
    fn runs(&self, key: usize, count: usize) -> impl Iterator<Item = Run> {
        let Attend { job, unit, .. } = self;
        let table = &job.batch.block_tables[unit.sequence * job.batch.table_stride..];
        let (block_size, places) = (job.shape.block_size, job.places);
        let (mut block, mut offset, mut first) = (key / block_size, key % block_size, 0);
        std::iter::from_fn(move || {
            if first >= count {
                return None;
            }
            let run = Run {
                first,
                count: (count - first).min(block_size - offset),
                head: places.keys(table[block] as usize, unit.kv_head),
                offset,
            };
            (block, offset, first) = (block + 1, 0, first + run.count);
            Some(run)
        })
    }

    /// Adds a span's sums to the row's total, or leaves them for `merge`.
    #[inline(always)]
    fn keep<S: Simd, const D: usize>(
        &self,
        s: S,
        row: &Row<'_>,
        span: usize,
        (largest, weight, values): (f32, f32, &[f32]),
        total: &mut Sums<D>,
    ) {
        match self.goal {
            Goal::Rows(_) => total.merge(s, largest, weight, values),
            Goal::Parts { parts, spans } => {
                let len = values.len() + HEADER;
                let at = (row.index * spans + span) * len;
                // SAFETY: a row and span belong to one unit, and that to one chunk.
                let part = unsafe { parts.chunk(at..at + len) };
                (part[0], part[1]) = (largest, weight);
                part[HEADER..].copy_from_slice(values);
            }
        }
    }
}

/// Little-endian f32 from bytes.
#[inline(always)]
fn numbers(from: &[u8], to: &mut [f32]) {
    for (to, from) in to.iter_mut().zip(from.as_chunks().0) {
        *to = f32::from_le_bytes(*from);
    }
}
