//! One unit: up to 32 rows against the keys they see, 32 keys at a time.

use plimsoll_planner::kv_cache::SCALE;

use crate::encoding;
use crate::kv::SCALE_BYTES;
use crate::pool::Disjoint;
use crate::simd::{LANES, Simd, Work};

use super::MAX_HEAD_DIM;
use super::job::{Job, ROWS, Unit};
use super::load::{turn, widen};
use super::span::{HEADER, SPAN, Sums};
use super::tile::{KEYS, Row, Running, Tile, score_rows, soften, weigh_rows};

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

pub(super) struct Attend<'a> {
    pub(super) job: Job<'a>,
    pub(super) unit: Unit,
    pub(super) goal: Goal<'a>,
}

impl Work for Attend<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.job.shape.head_dim {
            0..=64 => self.attend::<S, 64>(s),
            65..=128 => self.attend::<S, 128>(s),
            _ => self.attend::<S, MAX_HEAD_DIM>(s),
        }
    }
}

impl Attend<'_> {
    #[inline(always)]
    fn attend<S: Simd, const D: usize>(&self, s: S) {
        let mut rows = [Row::NONE; ROWS];
        let rows = &mut rows[..self.unit.rows];
        self.list(rows);
        let first = rows.iter().map(|row| row.first).min().unwrap_or(0);
        let end = rows.iter().map(|row| row.end).max().unwrap_or(0);
        let spans = match self.unit.span {
            Some(span) => span..span + 1,
            None => first / SPAN..end.div_ceil(SPAN),
        };
        let mut tile = Tile::<D>::EMPTY;
        let mut totals = [Sums::<D>::EMPTY; ROWS];
        for span in spans {
            let mut running = Running::<D> {
                largest: [f32::NEG_INFINITY; ROWS],
                weights: [[0.0; LANES]; ROWS],
                values: [[0.0; D]; ROWS],
            };
            let begin = (span * SPAN).max(first / KEYS * KEYS);
            for key in (begin..((span + 1) * SPAN).min(end)).step_by(KEYS) {
                self.load(s, key, KEYS.min(end - key), &mut tile);
                self.fetch(s, key + KEYS, KEYS.min(end.saturating_sub(key + KEYS)));
                score_rows(s, rows, &mut tile, self.job.shape.head_dim);
                for r in 0..rows.len() {
                    soften(
                        s,
                        &rows[r],
                        key,
                        self.job.heads.scale,
                        r,
                        &mut tile,
                        &mut running,
                    );
                }
                weigh_rows(s, rows, key, self.job.shape.head_dim, &tile, &mut running);
            }
            for (r, row) in rows.iter().enumerate() {
                if row.first < (span + 1) * SPAN && span * SPAN < row.end {
                    let weight = s.sum(s.load(&running.weights[r]));
                    let values = &running.values[r][..self.job.shape.head_dim];
                    self.keep(
                        s,
                        row,
                        span,
                        (running.largest[r], weight, values),
                        &mut totals[r],
                    );
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

    /// Loads `count` keys and values from position `key` on.
    #[inline(always)]
    fn load<S: Simd, const D: usize>(&self, s: S, key: usize, count: usize, tile: &mut Tile<D>) {
        let Attend { job, unit, .. } = self;
        let (shape, places) = (job.shape, &job.places);
        let table = &job.batch.block_tables[unit.sequence * job.batch.table_stride..];
        // Keys past the last one repeat it: they are scored and then masked.
        let mut rows: [&[u8]; KEYS] = [&[]; KEYS];
        let (mut block, mut offset) = (key / shape.block_size, key % shape.block_size);
        for k in 0..count {
            let head = places.keys(table[block] as usize, unit.kv_head);
            let at = head + offset * places.row;
            rows[k] = &job.bytes[at..at + places.row];
            let value = &job.bytes[at + places.values..][..places.row];
            widen(s, shape, value, &mut tile.values[k]);
            if let Some(scales) = places.scales {
                let at = head + scales + offset * SCALE_BYTES;
                let scale = |at| encoding::load(SCALE, job.bytes, at);
                tile.key_scales[k] = scale(at);
                tile.value_scales[k] = scale(at + places.values);
            }
            offset += 1;
            if offset == shape.block_size {
                (block, offset) = (block + 1, 0);
            }
        }
        for k in count..KEYS {
            rows[k] = rows[count - 1];
        }
        turn(s, shape, &rows, &mut tile.keys);
    }

    /// Asks for the keys and values of the next tile while this one is worked on: blocks lie far
    /// apart, so the machine does not guess them.
    #[inline(always)]
    fn fetch<S: Simd>(&self, s: S, key: usize, count: usize) {
        let Attend { job, unit, .. } = self;
        let (shape, places) = (job.shape, &job.places);
        let table = &job.batch.block_tables[unit.sequence * job.batch.table_stride..];
        let (mut block, mut offset, mut left) =
            (key / shape.block_size, key % shape.block_size, count);
        while left > 0 {
            let rows = left.min(shape.block_size - offset);
            let keys = places.keys(table[block] as usize, unit.kv_head);
            for head in [keys, keys + places.values] {
                let at = head + offset * places.row;
                s.prefetch(&job.bytes[at..at + rows * places.row]);
                if let Some(scales) = places.scales {
                    let at = head + scales + offset * SCALE_BYTES;
                    s.prefetch(&job.bytes[at..at + rows * SCALE_BYTES]);
                }
            }
            (block, offset, left) = (block + 1, 0, left - rows);
        }
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
