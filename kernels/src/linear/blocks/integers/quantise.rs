//! x to 8 or 16 bits, once for all panels and threads.

use super::super::GROUP;
use super::super::kinds::Kind;
use super::{Form, HEAD_BYTES, place, planes, zero};
use crate::linear::Input;
use crate::pool::Pool;
use crate::simd::{self, LANES, Simd, Work, array, array_mut};

/// What a format asks of the numbers of x.
#[derive(Clone, Copy)]
pub(super) struct Order {
    /// The even columns come first.
    even_first: bool,
    parts: usize,
    /// None: the format has a minimum.
    zero: Option<u8>,
}

impl Order {
    pub(super) const fn of<K: Kind>() -> Order {
        Order {
            even_first: place::<K>(1) != 1,
            parts: <K as Form>::PARTS,
            zero: match <K as Form>::HAS_MINIMUM {
                true => None,
                false => Some(zero::<K>()),
            },
        }
    }

    /// See [`place`].
    #[cfg(test)]
    pub(super) const fn place(self, col: usize) -> usize {
        match self.even_first {
            true => place::<super::super::kinds::Q4_0>(col),
            false => place::<super::super::kinds::Q8_0>(col),
        }
    }
}

/// The largest |q|: no byte of 8 bits is -128.
const fn most(planes: usize) -> f32 {
    match planes {
        1 => 127.0,
        _ => 32_639.0,
    }
}

/// Writes all of x into scratch: `[tokens][groups]`.
pub(super) fn run<'a, const N: usize>(
    pool: &Pool,
    x: Input<'_>,
    cols: usize,
    order: Order,
    scratch: &'a mut [u8],
) -> &'a [[u8; N]] {
    const CELLS_PER_CHUNK: usize = 32 << 10;
    let groups = cols / GROUP;
    let all = &mut scratch.as_chunks_mut::<N>().0[..x.tokens * groups];
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
                    order,
                    to,
                },
            );
        });
    }
    all
}

struct Rows<'a, const N: usize> {
    x: Input<'a>,
    first: usize,
    groups: usize,
    order: Order,
    to: &'a mut [[u8; N]],
}

impl<const N: usize> Work for Rows<'_, N> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (row, to) in self.to.chunks_exact_mut(self.groups).enumerate() {
            let x = &self.x.data[(self.first + row) * self.x.stride..];
            let x = &x.as_chunks::<GROUP>().0[..self.groups];
            for (x, to) in x.iter().zip(to) {
                group(s, x, self.order, to);
            }
        }
    }
}

#[inline(always)]
fn group<S: Simd, const N: usize>(s: S, x: &[f32; GROUP], order: Order, to: &mut [u8; N]) {
    let (a, b) = (s.load(array(x)), s.load(array(&x[LANES..])));
    let none = s.splat(0.0);
    let sizes = [s.max(a, s.sub(none, a)), s.max(b, s.sub(none, b))];
    let largest = s.largest(s.max(sizes[0], sizes[1]));
    let most = const { most(planes(N)) };
    // Below, s is no normal number. Infinities are seen here, and what is not a number by the sums.
    if !(most * f32::MIN_POSITIVE..f32::INFINITY).contains(&largest) {
        return unusual(x, to);
    }
    let scale = largest / most;
    let inverse = s.splat(1.0 / scale);
    let (a, b) = (s.round(s.mul(a, inverse)), s.round(s.mul(b, inverse)));
    let sums = match order.parts {
        1 => [s.sum(s.add(a, b)), 0.0],
        _ => [s.sum(a), s.sum(b)],
    };
    if (sums[0] + sums[1]).is_nan() {
        return unusual(x, to);
    }
    to[..4].copy_from_slice(&scale.to_le_bytes());
    to[4..HEAD_BYTES].copy_from_slice(&sums_of(order, sums));
    let (a, b) = match order.even_first {
        true => s.unzip(a, b),
        false => (a, b),
    };
    let (planes, _) = to[HEAD_BYTES..].as_chunks_mut::<GROUP>();
    match planes {
        [high, low] => {
            let ([high_a, low_a], [high_b, low_b]) = (halves(s, a), halves(s, b));
            store(s, [high_a, high_b], high);
            store(s, [low_a, low_b], low);
        }
        planes => store(s, [a, b], &mut planes[0]),
    }
}

/// Zeros, or a group that makes all sums NaN: what is not finite.
#[cold]
#[inline(never)]
fn unusual<const N: usize>(x: &[f32; GROUP], to: &mut [u8; N]) {
    *to = [0; N];
    if !x.iter().all(|x| x.is_finite()) {
        to[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    }
}

/// q = 256 high + low, low in -128..128: half a step off every tie of the nearest.
#[inline(always)]
fn halves<S: Simd>(s: S, q: S::V) -> [S::V; 2] {
    let high = s.round(s.mul(s.add(q, s.splat(0.5)), s.splat(1.0 / 256.0)));
    [high, s.fma(high, s.splat(-256.0), q)]
}

/// Of the parts' sums of q, at most 32 x 32639 each, what the format's products need.
#[inline(always)]
fn sums_of(order: Order, sums: [f32; 2]) -> [u8; 8] {
    let sums = sums.map(|sum| match order.zero {
        None => sum.to_le_bytes(),
        #[expect(clippy::cast_possible_truncation, reason = "an integer")]
        Some(zero) => (-i32::from(zero) * sum as i32).to_le_bytes(),
    });
    *array(sums.as_flattened())
}

/// A plane.
#[inline(always)]
fn store<S: Simd>(s: S, [a, b]: [S::V; 2], plane: &mut [u8; GROUP]) {
    s.store_i8(a, array_mut(plane));
    s.store_i8(b, array_mut(&mut plane[LANES..]));
}
