//! The arithmetic of a unit of few rows, as in decode: keys and values are read as they lie, and each
//! that is read serves up to four rows. A key's products are summed in the lanes in which its numbers
//! lie; four keys of four are then added across lanes at once.

mod score;
mod weigh;

use std::marker::PhantomData;

use plimsoll_planner::KvDtype;

use crate::simd::Simd;

use super::job::Job;
use super::load::{BFloat16, BLOCK, Float16, Float32, Int8, Numbers, arrange, reorder};
use super::tile::{Read, Row, Running, Scores, Spots};
use score::Score;
use weigh::Weigh;

/// Rows up to which turning keys does not pay.
pub(super) const FEW: usize = 8;

pub(super) struct Few<'a, const D: usize> {
    cache: Lying<'a>,
    dtype: KvDtype,
    queries: [[f32; D]; FEW],
}

/// The cache, and how to find a key's numbers in it, and its value's.
#[derive(Clone, Copy)]
struct Lying<'a> {
    bytes: &'a [u8],
    values_at: usize,
    row: usize,
    head_dim: usize,
}

impl<'a> Lying<'a> {
    #[inline(always)]
    fn key(&self, at: usize) -> &'a [u8] {
        &self.bytes[at..][..self.row]
    }

    #[inline(always)]
    fn value(&self, at: usize) -> &'a [u8] {
        self.key(at + self.values_at)
    }

    /// Numbers of whole blocks.
    #[inline(always)]
    const fn whole(&self) -> usize {
        self.head_dim / BLOCK * BLOCK
    }
}

impl<'a, const D: usize> Few<'a, D> {
    #[inline(always)]
    pub(super) fn new<S: Simd>(s: S, job: &Job<'a>, rows: &[Row<'_>]) -> Few<'a, D> {
        let mut queries = [[0.0; D]; FEW];
        for (to, row) in queries.iter_mut().zip(rows) {
            arrange(s, job.shape.dtype, row.query, to);
        }
        Few {
            cache: Lying {
                bytes: job.bytes,
                values_at: job.places.values,
                row: job.places.row,
                head_dim: job.shape.head_dim,
            },
            dtype: job.shape.dtype,
            queries,
        }
    }

    #[inline(always)]
    fn score_as<S: Simd, T: Numbers>(
        &self,
        s: S,
        rows: usize,
        (here, next): (&Spots, &Spots),
        scores: &mut Scores<FEW>,
    ) {
        s.apart(Score::<T> {
            cache: self.cache,
            here,
            next,
            queries: self.queries.as_flattened(),
            stride: D,
            scores: &mut scores.rows[..rows],
            numbers: PhantomData,
        });
    }

    #[inline(always)]
    fn weigh_as<S: Simd, T: Numbers>(
        &self,
        s: S,
        rows: &[Row<'_>],
        (here, next): (&Spots, &Spots),
        scores: &Scores<FEW>,
        running: &mut Running<D, FEW>,
    ) {
        s.apart(Weigh::<T> {
            cache: self.cache,
            rows,
            here,
            next,
            weights: &scores.rows,
            sums: running.values.as_flattened_mut(),
            stride: D,
            numbers: PhantomData,
        });
    }
}

impl<S: Simd, const D: usize> Read<S, D, FEW> for Few<'_, D> {
    #[inline(always)]
    fn score(
        &mut self,
        s: S,
        rows: &[Row<'_>],
        here: &Spots,
        next: &Spots,
        scores: &mut Scores<FEW>,
    ) {
        let (rows, spots) = (rows.len(), (here, next));
        match self.dtype {
            KvDtype::Float32 => self.score_as::<S, Float32>(s, rows, spots, scores),
            KvDtype::BFloat16 => self.score_as::<S, BFloat16>(s, rows, spots, scores),
            KvDtype::Float16 => self.score_as::<S, Float16>(s, rows, spots, scores),
            KvDtype::Int8 => self.score_as::<S, Int8>(s, rows, spots, scores),
        }
    }

    #[inline(always)]
    fn weigh(
        &self,
        s: S,
        rows: &[Row<'_>],
        here: &Spots,
        next: &Spots,
        scores: &Scores<FEW>,
        running: &mut Running<D, FEW>,
    ) {
        let spots = (here, next);
        match self.dtype {
            KvDtype::Float32 => self.weigh_as::<S, Float32>(s, rows, spots, scores, running),
            KvDtype::BFloat16 => self.weigh_as::<S, BFloat16>(s, rows, spots, scores, running),
            KvDtype::Float16 => self.weigh_as::<S, Float16>(s, rows, spots, scores, running),
            KvDtype::Int8 => self.weigh_as::<S, Int8>(s, rows, spots, scores, running),
        }
    }

    #[inline(always)]
    fn values<'a>(&self, values: &'a mut [f32; D]) -> &'a [f32] {
        let values = &mut values[..self.cache.head_dim];
        reorder(self.dtype, values);
        values
    }
}
