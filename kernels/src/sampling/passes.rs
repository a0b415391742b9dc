//! Passes over one row of a shard: plain loops, compiled for each instruction set. They use no
//! fused products and no sums of floats, so every instruction set gives the same bits.

use std::ops::RangeInclusive;

use super::weight::{self, Key};
use crate::isa::Isa;
use crate::simd::{Simd, Work, dispatch};

/// Ids of a block share their first race; shards are cut between blocks.
pub(super) const BLOCK: usize = 64;

/// The row of the largest number, the first of equal ones; None where there is no number.
pub(super) fn largest(isa: Isa, logits: &[f32]) -> Option<usize> {
    let mut best = None;
    dispatch(
        isa,
        Largest {
            logits,
            best: &mut best,
        },
    );
    let (max, start): (f32, usize) = best?;
    logits[start..]
        .iter()
        .position(|x| *x == max)
        .map(|at| start + at)
}

struct Largest<'a> {
    logits: &'a [f32],
    /// The largest number and where its block begins.
    best: &'a mut Option<(f32, usize)>,
}

impl Work for Largest<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (index, block) in self.logits.chunks(BLOCK).enumerate() {
            let max = largest_of(block);
            if self.best.is_none_or(|(x, _)| max > x) {
                *self.best = Some((max, index * BLOCK));
            }
        }
    }
}

#[inline(always)]
fn largest_of(block: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (rows, rest) = block.as_chunks::<16>();
    for row in rows {
        for (max, x) in lanes.iter_mut().zip(row) {
            *max = if *x > *max { *x } else { *max };
        }
    }
    let all = lanes.iter().chain(rest);
    all.fold(f32::NEG_INFINITY, |max, x| if *x > max { *x } else { max })
}

/// The `wanted` best candidates, best first; `first` is the id of row 0.
pub(super) fn candidates(isa: Isa, logits: &[f32], first: u32, wanted: usize) -> Vec<u64> {
    let mut best = Vec::with_capacity(wanted + 1);
    dispatch(
        isa,
        Candidates {
            logits,
            first,
            wanted,
            best: &mut best,
        },
    );
    best
}

struct Candidates<'a> {
    logits: &'a [f32],
    first: u32,
    wanted: usize,
    best: &'a mut Vec<u64>,
}

impl Work for Candidates<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Candidates {
            logits,
            first,
            wanted,
            best,
        } = self;
        let mut id = first;
        for block in logits.chunks(BLOCK) {
            let full = best.len() == wanted;
            // Equal logits later on have higher ids and do not displace anyone.
            let skip = match best.last() {
                Some(last) if full => largest_of(block) <= weight::candidate_parts(*last).0,
                _ => false,
            };
            if !skip {
                take_candidates(block, id, wanted, best);
            }
            #[expect(clippy::cast_possible_truncation, reason = "a block has 64 rows")]
            {
                id += block.len() as u32;
            }
        }
    }
}

fn take_candidates(block: &[f32], first: u32, wanted: usize, best: &mut Vec<u64>) {
    for (id, x) in (first..).zip(block).filter(|(_, x)| !x.is_nan()) {
        let candidate = weight::candidate(*x, id);
        if best.len() < wanted || best.last().is_some_and(|last| candidate > *last) {
            let place = best.partition_point(|other| *other > candidate);
            best.insert(place, candidate);
            best.truncate(wanted);
        }
    }
}

/// Replaces every logit by the bits of its key, exp((x - max) * scale).
pub(super) fn to_keys(isa: Isa, logits: &mut [f32], max: f32, scale: f32) {
    dispatch(isa, ToKeys { logits, max, scale });
}

struct ToKeys<'a> {
    logits: &'a mut [f32],
    max: f32,
    scale: f32,
}

impl Work for ToKeys<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for x in self.logits {
            *x = f32::from_bits(weight::key((*x - self.max) * self.scale));
        }
    }
}

/// The sum of the weights exp(x - max) of logits.
pub(super) fn sum_of_logits(isa: Isa, logits: &[f32], max: f32) -> u64 {
    let mut sum = 0;
    dispatch(
        isa,
        SumOfLogits {
            logits,
            max,
            sum: &mut sum,
        },
    );
    sum
}

struct SumOfLogits<'a> {
    logits: &'a [f32],
    max: f32,
    sum: &'a mut u64,
}

impl Work for SumOfLogits<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let weigh = |x: &f32| weight::weight(weight::key(*x - self.max));
        *self.sum = self.logits.iter().map(weigh).sum();
    }
}

/// Per block of 64 keys (as [`to_keys`] left them), the sum of the weights of keys >= `least`.
pub(super) fn block_sums(isa: Isa, keys: &[f32], least: Key, sums: &mut [u64]) {
    dispatch(isa, BlockSums { keys, least, sums });
}

struct BlockSums<'a> {
    keys: &'a [f32],
    least: Key,
    sums: &'a mut [u64],
}

impl Work for BlockSums<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (block, sum) in self.keys.chunks(BLOCK).zip(self.sums) {
            // Where thresholds are, most blocks have nothing.
            let all = self.least <= 1;
            *sum = match all || largest_key(block) >= self.least {
                true => sum_from(block, self.least),
                false => 0,
            };
        }
    }
}

#[inline(always)]
fn sum_from(keys: &[f32], least: Key) -> u64 {
    let weigh = |x: &f32| {
        let key = x.to_bits();
        if key >= least { weight::weight(key) } else { 0 }
    };
    keys.iter().map(weigh).sum()
}

#[inline(always)]
fn largest_key(keys: &[f32]) -> Key {
    keys.iter().fold(0, |max, x| max.max(x.to_bits()))
}

/// The sum of the weights of keys >= `least`.
pub(super) fn sum_of_keys(isa: Isa, keys: &[f32], least: Key) -> u64 {
    let mut sum = 0;
    let of = &mut sum;
    dispatch(isa, SumOfKeys { keys, least, of });
    sum
}

struct SumOfKeys<'a> {
    keys: &'a [f32],
    least: Key,
    of: &'a mut u64,
}

impl Work for SumOfKeys<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        *self.of = sum_from(self.keys, self.least);
    }
}

/// The largest key of every block.
pub(super) fn block_maxima(isa: Isa, keys: &[f32], maxima: &mut [u64]) {
    dispatch(isa, BlockMaxima { keys, maxima });
}

struct BlockMaxima<'a> {
    keys: &'a [f32],
    maxima: &'a mut [u64],
}

impl Work for BlockMaxima<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (block, max) in self.keys.chunks(BLOCK).zip(self.maxima) {
            *max = largest_key(block).into();
        }
    }
}

/// Calls `each` with every key in a range, in the order of rows. Blocks without one cost little.
pub(super) fn each_between(
    isa: Isa,
    keys: &[f32],
    range: RangeInclusive<Key>,
    each: impl FnMut(Key),
) {
    dispatch(isa, EachBetween { keys, range, each });
}

struct EachBetween<'a, F> {
    keys: &'a [f32],
    range: RangeInclusive<Key>,
    each: F,
}

impl<F: FnMut(Key)> Work for EachBetween<'_, F> {
    #[inline(always)]
    fn run<S: Simd>(mut self, _: S) {
        let (first, last) = (*self.range.start(), *self.range.end());
        let inside = |x: &f32| x.to_bits() >= first && x.to_bits() <= last;
        for block in self.keys.chunks(BLOCK) {
            let found = block
                .iter()
                .fold(0u32, |found, x| found | u32::from(inside(x)));
            if found != 0 {
                block
                    .iter()
                    .filter(|x| inside(x))
                    .for_each(|x| (self.each)(x.to_bits()));
            }
        }
    }
}
