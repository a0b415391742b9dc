//! Adds up the spans that different threads summed, in the order in which one thread would have.

use crate::pool::{Disjoint, Pool};
use crate::simd::{self, Simd, Work};

use super::MAX_HEAD_DIM;
use super::job::Job;
use super::span::{HEADER, SPAN, Sums};

/// Parts are `[token, query head, spans]`.
pub(super) fn run(
    pool: &Pool,
    job: Job<'_>,
    parts: &Disjoint<'_, f32>,
    spans: usize,
    out: &Disjoint<'_, f32>,
) {
    let isa = pool.isa();
    pool.run(job.batch.tokens(), |token| {
        simd::dispatch(
            isa,
            Merge {
                job,
                token,
                parts,
                spans,
                out,
            },
        );
    });
}

struct Merge<'a> {
    job: Job<'a>,
    token: usize,
    parts: &'a Disjoint<'a, f32>,
    spans: usize,
    out: &'a Disjoint<'a, f32>,
}

impl Work for Merge<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.job.shape.head_dim {
            0..=64 => self.all::<S, 64>(s),
            65..=128 => self.all::<S, 128>(s),
            _ => self.all::<S, MAX_HEAD_DIM>(s),
        }
    }
}

impl Merge<'_> {
    #[inline(always)]
    fn all<S: Simd, const D: usize>(&self, s: S) {
        let (job, head_dim) = (&self.job, self.job.shape.head_dim);
        let starts = job.batch.query_start;
        let sequence = starts.partition_point(|start| *start as usize <= self.token) - 1;
        let after = starts[sequence + 1] as usize - self.token;
        let seen = job.seen(job.context(sequence) - after);
        for head in 0..job.heads.query {
            let row = self.token * job.heads.query + head;
            let mut sums = Sums::<D>::EMPTY;
            for span in seen.start / SPAN..seen.end.div_ceil(SPAN) {
                let at = (row * self.spans + span) * (head_dim + HEADER);
                // SAFETY: the threads that wrote the parts are done, and this token's parts are
                // read by this chunk alone.
                let part = unsafe { self.parts.chunk(at..at + head_dim + HEADER) };
                sums.merge(s, part[0], part[1], &part[HEADER..]);
            }
            // SAFETY: this token's row is written by this chunk alone.
            sums.finish(s, unsafe {
                self.out.chunk(row * head_dim..(row + 1) * head_dim)
            });
        }
    }
}
