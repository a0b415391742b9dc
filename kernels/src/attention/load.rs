//! From the cache's bytes to vectors of numbers, whatever type they are of. Integers stay integers:
//! what they are multiples of is a number of each key, and goes into its scores and weights.
//!
//! A row's numbers come 32 at a time, as two vectors. Those of bf16 are the even ones and the odd
//! ones, which is how pairs split; of all other types the first half and the second. What is left of
//! a row is the first sixteen and the others, zeros behind. This is a row's order: everything that
//! is summed over a row is summed in it, lane by lane.

use half::{bf16, f16};
use plimsoll_planner::KvDtype;

use crate::encoding;
use crate::simd::{LANES, Simd, array, array_mut, unroll};

use super::tile::KEYS;

/// Numbers that are read at once.
pub(super) const BLOCK: usize = 2 * LANES;

/// A type of numbers in the cache.
pub(super) trait Numbers {
    /// Bytes of 32 of them.
    type Block: Copy;

    fn blocks(row: &[u8]) -> &[Self::Block];
    fn two<S: Simd>(s: S, block: &Self::Block) -> [S::V; 2];
    fn one(row: &[u8], at: usize) -> f32;
}

pub(super) struct Float32;
pub(super) struct BFloat16;
pub(super) struct Float16;
pub(super) struct Int8;

impl Numbers for Float32 {
    type Block = [u8; 4 * BLOCK];

    #[inline(always)]
    fn blocks(row: &[u8]) -> &[Self::Block] {
        row.as_chunks().0
    }

    #[inline(always)]
    fn two<S: Simd>(s: S, block: &Self::Block) -> [S::V; 2] {
        [
            s.load_bits(array(block)),
            s.load_bits(array(&block[4 * LANES..])),
        ]
    }

    #[inline(always)]
    fn one(row: &[u8], at: usize) -> f32 {
        f32::from_le_bytes(*array(&row[4 * at..]))
    }
}

impl Numbers for BFloat16 {
    type Block = [u8; 2 * BLOCK];

    #[inline(always)]
    fn blocks(row: &[u8]) -> &[Self::Block] {
        row.as_chunks().0
    }

    #[inline(always)]
    fn two<S: Simd>(s: S, block: &Self::Block) -> [S::V; 2] {
        let (even, odd) = s.split_bf16(s.load_bits(block));
        [even, odd]
    }

    #[inline(always)]
    fn one(row: &[u8], at: usize) -> f32 {
        bf16::from_le_bytes(*array(&row[2 * at..])).to_f32()
    }
}

impl Numbers for Float16 {
    type Block = [u8; 2 * BLOCK];

    #[inline(always)]
    fn blocks(row: &[u8]) -> &[Self::Block] {
        row.as_chunks().0
    }

    #[inline(always)]
    fn two<S: Simd>(s: S, block: &Self::Block) -> [S::V; 2] {
        [
            s.load_f16(array(block)),
            s.load_f16(array(&block[2 * LANES..])),
        ]
    }

    #[inline(always)]
    fn one(row: &[u8], at: usize) -> f32 {
        f16::from_le_bytes(*array(&row[2 * at..])).to_f32()
    }
}

impl Numbers for Int8 {
    type Block = [u8; BLOCK];

    #[inline(always)]
    fn blocks(row: &[u8]) -> &[Self::Block] {
        row.as_chunks().0
    }

    #[inline(always)]
    fn two<S: Simd>(s: S, block: &Self::Block) -> [S::V; 2] {
        [s.load_i8(array(block)), s.load_i8(array(&block[LANES..]))]
    }

    #[inline(always)]
    fn one(row: &[u8], at: usize) -> f32 {
        f32::from(row[at].cast_signed())
    }
}

/// What is left of a row after its whole blocks, and zeros. Few models have heads with a rest.
#[inline(never)]
pub(super) fn rest<N: Numbers>(row: &[u8], head_dim: usize) -> [f32; BLOCK] {
    let mut lanes = [0.0; BLOCK];
    let whole = head_dim / BLOCK * BLOCK;
    for (lane, d) in lanes.iter_mut().zip(whole..head_dim) {
        *lane = N::one(row, d);
    }
    lanes
}

/// A query in the order of a row of the cache, and zeros behind.
#[inline(always)]
pub(super) fn arrange<S: Simd, const D: usize>(
    s: S,
    dtype: KvDtype,
    query: &[f32],
    to: &mut [f32; D],
) {
    to[..query.len()].copy_from_slice(query);
    to[query.len()..].fill(0.0);
    if is_paired(dtype) {
        for block in to[..query.len()].as_chunks_mut::<BLOCK>().0 {
            let (even, odd) = s.unzip(s.load(array(block)), s.load(array(&block[LANES..])));
            s.store(even, array_mut(block));
            s.store(odd, array_mut(&mut block[LANES..]));
        }
    }
}

/// Whether 32 numbers are split into even and odd ones.
const fn is_paired(dtype: KvDtype) -> bool {
    match dtype {
        KvDtype::BFloat16 => true,
        KvDtype::Float32 | KvDtype::Float16 | KvDtype::Int8 => false,
    }
}

/// Sums over rows of the cache back in the order of dimensions.
#[inline(always)]
pub(super) fn reorder(dtype: KvDtype, values: &mut [f32]) {
    if !is_paired(dtype) {
        return;
    }
    for block in values.as_chunks_mut::<BLOCK>().0 {
        let from = *block;
        for i in 0..LANES {
            (block[2 * i], block[2 * i + 1]) = (from[i], from[LANES + i]);
        }
    }
}

/// One row of the cache as f32, in the order of dimensions.
#[inline(always)]
pub(super) fn widen<S: Simd>(
    s: S,
    (dtype, head_dim): (KvDtype, usize),
    from: &[u8],
    to: &mut [f32],
) {
    let (cells, _) = to.as_chunks_mut::<LANES>();
    let whole = head_dim / LANES;
    for (i, cell) in cells[..whole].iter_mut().enumerate() {
        s.store(sixteen(s, dtype, from, i * LANES), cell);
    }
    for d in whole * LANES..head_dim {
        to[d] = one(dtype, from, d);
    }
}

/// Numbers `from..from + 16` of a row.
#[inline(always)]
fn sixteen<S: Simd>(s: S, dtype: KvDtype, row: &[u8], from: usize) -> S::V {
    match dtype.float() {
        Some(float) => s.load_as(float, &row[from * encoding::bytes_of(float)..]),
        None => s.load_i8(array(&row[from..])),
    }
}

#[inline(always)]
fn one(dtype: KvDtype, row: &[u8], at: usize) -> f32 {
    match dtype {
        KvDtype::Float32 => Float32::one(row, at),
        KvDtype::BFloat16 => BFloat16::one(row, at),
        KvDtype::Float16 => Float16::one(row, at),
        KvDtype::Int8 => Int8::one(row, at),
    }
}

/// Keys turned: `keys[i][k]` is number i, in the order of a row, of key k. Pairs of 16-bit numbers, and
/// four of 8 bits, are turned as one word and split afterwards.
#[inline(always)]
pub(super) fn turn<S: Simd>(
    s: S,
    (dtype, head_dim): (KvDtype, usize),
    rows: &[&[u8]; KEYS],
    keys: &mut [[f32; KEYS]],
) {
    let mut d = 0;
    match dtype {
        KvDtype::Float32 => {}
        KvDtype::BFloat16 | KvDtype::Float16 => {
            while d + BLOCK <= head_dim {
                turn_pairs(s, dtype, rows, d, array_mut(&mut keys[d..]));
                d += BLOCK;
            }
        }
        KvDtype::Int8 => {
            while d + 2 * BLOCK <= head_dim {
                turn_bytes(s, rows, d, array_mut(&mut keys[d..]));
                d += 2 * BLOCK;
            }
        }
    }
    while d + LANES <= head_dim {
        for half in 0..KEYS / LANES {
            let mut square = [s.splat(0.0); LANES];
            for k in 0..LANES {
                square[k] = sixteen(s, dtype, rows[half * LANES + k], d);
            }
            s.transpose(&mut square);
            for i in 0..LANES {
                s.store(square[i], array_mut(&mut keys[d + i][half * LANES..]));
            }
        }
        d += LANES;
    }
    while d < head_dim {
        for k in 0..KEYS {
            keys[d][k] = one(dtype, rows[k], d);
        }
        d += 1;
    }
}

/// Dimensions `first..first + 32` of all keys, 16 bits each.
#[inline(always)]
fn turn_pairs<S: Simd>(
    s: S,
    dtype: KvDtype,
    rows: &[&[u8]; KEYS],
    first: usize,
    keys: &mut [[f32; KEYS]; BLOCK],
) {
    for half in 0..KEYS / LANES {
        let mut square = [s.splat(0.0); LANES];
        for k in 0..LANES {
            square[k] = s.load_bits(array(&rows[half * LANES + k][2 * first..]));
        }
        s.transpose(&mut square);
        for i in 0..LANES {
            let (even, odd) = match dtype {
                KvDtype::Float16 => s.split_f16(square[i]),
                KvDtype::BFloat16 | KvDtype::Float32 | KvDtype::Int8 => s.split_bf16(square[i]),
            };
            let at = match is_paired(dtype) {
                true => [i, LANES + i],
                false => [2 * i, 2 * i + 1],
            };
            s.store(even, array_mut(&mut keys[at[0]][half * LANES..]));
            s.store(odd, array_mut(&mut keys[at[1]][half * LANES..]));
        }
    }
}

/// Dimensions `first..first + 64` of all keys, 8 bits each.
#[inline(always)]
fn turn_bytes<S: Simd>(
    s: S,
    rows: &[&[u8]; KEYS],
    first: usize,
    keys: &mut [[f32; KEYS]; 2 * BLOCK],
) {
    for half in 0..KEYS / LANES {
        let mut square = [s.splat(0.0); LANES];
        for k in 0..LANES {
            square[k] = s.load_bits(array(&rows[half * LANES + k][first..]));
        }
        s.transpose(&mut square);
        for i in 0..LANES {
            unroll!(J in 0..4 {
                let byte = s.signed_byte::<J>(square[i]);
                s.store(byte, array_mut(&mut keys[4 * i + J][half * LANES..]));
            });
        }
    }
}
