//! x to 8 bits, once for all panels and threads.

use super::super::{GROUP, Short};
use super::{Kind, Q4_0, Q4_1, Q8_0, SMALLEST, X_BYTES, small};
use crate::linear::Input;
use crate::pool::Pool;
use crate::simd::{self, LANES, Simd, Work, array, array_mut};

/// The largest |q|; -128 does not occur.
const MOST: f32 = 127.0;

/// Writes all of x into scratch: `[tokens][groups]`.
pub(super) fn run<'a>(
    pool: &Pool,
    x: Input<'_>,
    cols: usize,
    format: Short,
    scratch: &'a mut [u8],
) -> &'a [[u8; X_BYTES]] {
    const CELLS_PER_CHUNK: usize = 32 << 10;
    let groups = cols / GROUP;
    let all = &mut scratch.as_chunks_mut::<X_BYTES>().0[..x.tokens * groups];
    if !all.is_empty() {
        let rows_per_chunk = pool.rows_per_chunk(x.tokens, cols, CELLS_PER_CHUNK);
        let isa = pool.isa();
        pool.run_rows(all, groups, rows_per_chunk, |first, to| {
            simd::dispatch(
                isa,
                Rows {
                    x,
                    first,
                    groups,
                    format,
                    to,
                },
            );
        });
    }
    all
}

struct Rows<'a> {
    x: Input<'a>,
    first: usize,
    groups: usize,
    format: Short,
    to: &'a mut [[u8; X_BYTES]],
}

impl Work for Rows<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (row, to) in self.to.chunks_exact_mut(self.groups).enumerate() {
            let x = &self.x.data[(self.first + row) * self.x.stride..];
            let x = &x.as_chunks::<GROUP>().0[..self.groups];
            match self.format {
                Short::Q4_0 => groups::<S, Q4_0>(s, x, to),
                Short::Q4_1 => groups::<S, Q4_1>(s, x, to),
                Short::Q8_0 => groups::<S, Q8_0>(s, x, to),
            }
        }
    }
}

#[inline(always)]
fn groups<S: Simd, K: Kind>(s: S, x: &[[f32; GROUP]], to: &mut [[u8; X_BYTES]]) {
    for (x, to) in x.iter().zip(to) {
        *to = group::<S, K>(s, x);
    }
}

#[inline(always)]
fn group<S: Simd, K: Kind>(s: S, x: &[f32; GROUP]) -> [u8; X_BYTES] {
    let (a, b) = (s.load(array(x)), s.load(array(&x[LANES..])));
    let zero = s.splat(0.0);
    // Zero times a number is zero, and NaN times what is none.
    let is_finite = s.sum(s.fma(b, zero, s.mul(a, zero))) == 0.0;
    let mut to = [0; X_BYTES];
    if !is_finite {
        to[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        return to;
    }
    let size = |v| s.max(v, s.sub(zero, v));
    let largest = s.largest(s.max(size(a), size(b)));
    if largest < SMALLEST {
        return to;
    }
    let scale = largest / MOST;
    let inverse = s.splat(1.0 / scale);
    let (a, b) = (s.mul(a, inverse), s.mul(b, inverse));
    // Of at most 32 x 127.
    #[expect(clippy::cast_possible_truncation, reason = "an integer")]
    let sum = s.sum(s.add(s.round(a), s.round(b))) as i32;
    let sum = match K::HAS_MINIMUM {
        true => small(sum).to_le_bytes(),
        false => (-K::ZERO * sum).to_le_bytes(),
    };
    to[..4].copy_from_slice(&scale.to_le_bytes());
    to[4..8].copy_from_slice(&sum);
    let numbers = array_mut(&mut to[8..]);
    match K::BITS {
        4 => store_even_first(s, (a, b), numbers),
        _ => {
            s.store_i8(a, array_mut(numbers));
            s.store_i8(b, array_mut(&mut numbers[LANES..]));
        }
    }
    to
}

/// Of eight columns that follow each other the even ones, then the odd ones: their [`place`].
///
/// [`place`]: super::place
#[inline(always)]
fn store_even_first<S: Simd>(s: S, (a, b): (S::V, S::V), numbers: &mut [u8; GROUP]) {
    let (even, odd) = s.unzip(a, b);
    let mut bytes = [[0; LANES]; 2];
    s.store_i8(even, &mut bytes[0]);
    s.store_i8(odd, &mut bytes[1]);
    let [even, odd] = bytes;
    for (at, eight) in numbers.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        eight[..4].copy_from_slice(&even[4 * at..4 * at + 4]);
        eight[4..].copy_from_slice(&odd[4 * at..4 * at + 4]);
    }
}
