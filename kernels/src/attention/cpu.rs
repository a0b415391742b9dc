//! Cuts a batch into units of work and gives each to `unit`.
//!
//! A unit is up to 64 rows (tokens x query heads) of one sequence that share one KV head. Keys are
//! taken in spans of 256 positions, each summed on its own and merged in order: so the spans of
//! one unit may as well be summed by different threads, which is done when there are few units
//! (decoding few sequences with long contexts) and scratch for the parts.

use plimsoll_planner::KvDtype;

use crate::kv::KvCache;
use crate::pool::{Disjoint, Pool};
use crate::simd;

use super::job::Job;
use super::span::HEADER;
use super::unit::{Attend, Goal};
use super::{Batch, Heads, Queries, merge};

pub(super) fn run(
    pool: &Pool,
    queries: Queries<'_>,
    heads: &Heads,
    batch: &Batch<'_>,
    cache: (&[u8], &KvCache<KvDtype>),
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
        places: shape.places(heads.layer),
        group: heads.query / shape.heads,
    };
    let isa = pool.isa();
    let units = job.units(1);
    let spans = job.most_spans();
    let parts = batch.tokens() * heads.query * spans;
    let part_len = shape.head_dim + HEADER;
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
