//! From the cache's bytes to a tile's numbers, whatever type they are of. Integers stay integers: what
//! they are multiples of is a number of each key, and goes into its scores and weights.

use plimsoll_planner::KvDtype;

use crate::encoding;
use crate::kv::KvCache;
use crate::simd::{LANES, Simd, array, array_mut, unroll};

use super::tile::KEYS;

/// One row of the cache as f32.
#[inline(always)]
pub(super) fn widen<S: Simd, const D: usize>(
    s: S,
    shape: &KvCache<KvDtype>,
    from: &[u8],
    to: &mut [f32; D],
) {
    let (cells, _) = to.as_chunks_mut::<LANES>();
    let whole = shape.head_dim / LANES;
    for (i, cell) in cells[..whole].iter_mut().enumerate() {
        s.store(sixteen(s, shape.dtype, from, i * LANES), cell);
    }
    for d in whole * LANES..shape.head_dim {
        to[d] = one(shape.dtype, from, d);
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
    match dtype.float() {
        Some(float) => encoding::load(float, row, at * encoding::bytes_of(float)),
        None => f32::from(row[at].cast_signed()),
    }
}

/// Keys by dimension: `keys[d][k]` is dimension d of key k. Pairs of 16-bit numbers, and four of 8 bits,
/// are turned as one word and split afterwards.
#[inline(always)]
pub(super) fn turn<S: Simd, const D: usize>(
    s: S,
    shape: &KvCache<KvDtype>,
    rows: &[&[u8]; KEYS],
    keys: &mut [[f32; KEYS]; D],
) {
    let mut d = 0;
    match shape.dtype {
        KvDtype::Float32 => {}
        KvDtype::BFloat16 | KvDtype::Float16 => {
            while d + 2 * LANES <= shape.head_dim {
                turn_pairs(s, shape.dtype, rows, d, array_mut(&mut keys[d..]));
                d += 2 * LANES;
            }
        }
        KvDtype::Int8 => {
            while d + 4 * LANES <= shape.head_dim {
                turn_bytes(s, rows, d, array_mut(&mut keys[d..]));
                d += 4 * LANES;
            }
        }
    }
    while d + LANES <= shape.head_dim {
        for half in 0..KEYS / LANES {
            let mut square = [s.splat(0.0); LANES];
            for k in 0..LANES {
                square[k] = sixteen(s, shape.dtype, rows[half * LANES + k], d);
            }
            s.transpose(&mut square);
            for i in 0..LANES {
                s.store(square[i], array_mut(&mut keys[d + i][half * LANES..]));
            }
        }
        d += LANES;
    }
    while d < shape.head_dim {
        for k in 0..KEYS {
            keys[d][k] = one(shape.dtype, rows[k], d);
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
    keys: &mut [[f32; KEYS]; 2 * LANES],
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
            s.store(even, array_mut(&mut keys[2 * i][half * LANES..]));
            s.store(odd, array_mut(&mut keys[2 * i + 1][half * LANES..]));
        }
    }
}

/// Dimensions `first..first + 64` of all keys, 8 bits each.
#[inline(always)]
fn turn_bytes<S: Simd>(
    s: S,
    rows: &[&[u8]; KEYS],
    first: usize,
    keys: &mut [[f32; KEYS]; 4 * LANES],
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
