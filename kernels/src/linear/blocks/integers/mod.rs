//! Products of weights in blocks by integers: x is quantised to 8 or 16 bits, and the products of a
//! group of 32 columns are added up as integers.
//!
//! Per token and group, s = max |x| / M (M = 127 or 32639) and q = round(x / s) to even. A row's weights
//! are d s_p u + m t_p, where u are integers and s_p, t_p (1 where there are none) are those of a part:
//! the whole group, or 16 columns of it; of a zero point z, m is -d z, and both count from 0. I_p is the sum of q u over a part, X_p that of q:
//!
//! `v = fma(m t_1, X_1, fma(m t_0, X_0, fma(d s_1, I_1, (d s_0) I_0)))`, terms that there are;
//! `out[t, r] = fma(s, v, out)` for group 0, 1, ... from 0, then the bias.
//!
//! Integers are exact (`bounds`), as f32 they are rounded to even, d s_p and m t_p are exact,
//! and the order of f32 is this one: every instruction set, batch, chunk and thread has the same bits. A
//! group of x with a number that is not finite has s = NaN: all of its token's sums are NaN. One whose
//! largest number is below M times the smallest normal number counts as zeros.
//!
//! q of 16 bits lies in two planes of bytes, q = 256 high + low with low in -128..128, so that the
//! instructions for bytes multiply them: 256 times the sum of the high ones, and that of the low ones.

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "AVX2 intrinsics, proved by the check of `Dots`")]
mod avx2;
mod bounds;
mod quantise;
mod scalar;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
#[expect(
    unsafe_code,
    reason = "AVX-512 intrinsics and tiles, proved by the check of `Dots`"
)]
mod vnni;

use plimsoll_planner::{BlockFormat, Integers};

use super::super::output::Output;
use super::super::product::Chunk;
use super::super::{Input, LinearShape, Products, Weight};
use super::kinds::{self, Kind};
use super::{GROUP, Grid, SCALE_BYTES, by_kind, head_bytes, size, step_bytes};
use crate::isa::Dots;
use crate::pool::Pool;
use crate::simd::{LANES, Simd, array};

/// In front of a group's numbers: s in f32, then of each part the sum of q ([`shift_of`], [`all_of`]).
const HEAD_BYTES: usize = 12;
/// Bytes of 32 columns of a token.
const INT8_BYTES: usize = size(Integers::Int8.group_bytes());
const INT16_BYTES: usize = size(Integers::Int16.group_bytes());

/// Scratch bytes of x; none where products are exact.
pub(in super::super) const fn scratch_bytes(
    products: Products,
    tokens: usize,
    cols: usize,
) -> usize {
    let bytes = match products {
        Products::Exact => 0,
        Products::Int8 => INT8_BYTES,
        Products::Int16 => INT16_BYTES,
    };
    tokens * (cols / GROUP) * bytes
}

/// Planes of a group's numbers.
const fn planes(bytes: usize) -> usize {
    (bytes - HEAD_BYTES) / GROUP
}

/// What [`Kind`]s differ in once their numbers are unpacked.
trait Form {
    /// 1 or 2 of a group.
    const PARTS: usize;
    const HAS_MINIMUM: bool;
}

impl<K: Kind> Form for K {
    const PARTS: usize = K::PARTS;
    const HAS_MINIMUM: bool = K::HALVES.len() > 1;
}

/// Of unpacked numbers, which have no sign, the one that stands for zero.
const fn zero<K: Kind>() -> u8 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a small integer"
    )]
    match K::TABLE {
        None if K::LOW < 8 || K::HAS_ZERO_POINT => K::ZERO as u8,
        // Bytes with a sign, their highest bit flipped.
        None | Some(_) => 128,
    }
}

/// What unpacked numbers are more than they were packed as, where a zero point is read: u counts from 0.
const fn lift<K: Kind>() -> u8 {
    match (K::HAS_ZERO_POINT, K::LOW) {
        (true, 8) => 128,
        _ => 0,
    }
}

/// What 4-bit numbers are unpacked to, where they stand for numbers of a table.
const fn table<K: Kind>() -> [u8; 16] {
    let mut bytes = [0; 16];
    if let Some(table) = K::TABLE {
        let mut at = 0;
        while at < bytes.len() {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "an integer of 0 to 255"
            )]
            let byte = (table[at] + zero::<K>() as f32) as u8;
            bytes[at] = byte;
            at += 1;
        }
    }
    bytes
}

/// The place of a column in a plane of x: words of planes have every second column of a row, so the even
/// ones come first.
const fn place<K: Kind>(col: usize) -> usize {
    match K::LOW {
        8 => col,
        _ => col % 2 * LANES + col / 2,
    }
}

/// A product as every chunk sees it; a group of x has N bytes.
#[derive(Clone, Copy)]
struct Product<'a, const N: usize> {
    shape: LinearShape,
    grid: Grid,
    packed: &'a [u8],
    /// `[tokens][groups]`
    x: &'a [[u8; N]],
    out: &'a Output<'a>,
}

impl<'a, const N: usize> Product<'a, N> {
    #[inline(always)]
    fn panel(&self, panel: usize) -> &'a [u8] {
        let bytes = self.shape.panel_bytes();
        &self.packed[panel * bytes..][..bytes]
    }

    #[inline(always)]
    fn steps(&self) -> usize {
        self.shape.cols / GROUP
    }

    #[inline(always)]
    fn row(&self, token: usize) -> &'a [[u8; N]] {
        &self.x[token * self.steps()..][..self.steps()]
    }

    /// The grid with a constant format, so that sizes are.
    #[inline(always)]
    fn grid<K: Kind>(&self) -> Grid {
        Grid {
            format: K::FORMAT,
            ..self.grid
        }
    }
}

/// 32 columns of a panel.
#[derive(Clone, Copy)]
struct Step<'a> {
    /// Of their block.
    head: &'a [u8],
    /// Which 32 columns of the block they are.
    inside: usize,
    numbers: &'a [u8],
}

impl<'a> Step<'a> {
    #[inline(always)]
    fn of<K: Kind>(panel: &'a [u8], grid: Grid, step: usize) -> Step<'a> {
        let (block, inside) = grid.place(step);
        Step {
            head: &panel[grid.head(block)..][..const { head_bytes(K::FORMAT) }],
            inside,
            numbers: &panel[grid.numbers(step)..][..const { step_bytes(K::FORMAT) }],
        }
    }

    /// d s and m t of a part; m t means nothing where there is no minimum.
    #[inline(always)]
    fn scales<S: Simd, K: Kind>(&self, s: S, part: usize) -> (S::V, S::V) {
        let d = s.load_f16(array(self.head));
        let m = match K::HAS_MINIMUM {
            true => {
                let half = s.load_f16(array(&self.head[SCALE_BYTES..]));
                kinds::minimum::<S, K>(s, d, half, const { lift::<K>() as f32 })
            }
            false => d,
        };
        let small = &self.head[const { K::HALVES.len() * SCALE_BYTES }..];
        match K::small(small.as_chunks::<LANES>().0, 2 * self.inside + part) {
            None => (d, m),
            Some([scale, minimum]) => {
                let d = s.mul(d, s.load(&scale));
                match K::HAS_MINIMUM {
                    true => (d, s.mul(m, s.load(&minimum))),
                    false => (d, d),
                }
            }
        }
    }
}

/// The s of a group.
#[inline(always)]
fn scale_of<const N: usize>(group: &[u8; N]) -> f32 {
    f32::from_le_bytes(*array(group))
}

/// Of a format without minimum: what its zero takes from a part's sum, -zero x sum of q.
#[inline(always)]
fn shift_of<const N: usize>(group: &[u8; N], part: usize) -> i32 {
    i32::from_le_bytes(*array(&group[4 + 4 * part..]))
}

/// Of a format with a minimum: a part's sum of q.
#[inline(always)]
fn all_of<const N: usize>(group: &[u8; N], part: usize) -> f32 {
    f32::from_le_bytes(*array(&group[4 + 4 * part..]))
}

/// Four q of a plane: for even `at` from the first half of it, for odd ones from the second.
#[inline(always)]
fn four_of<const N: usize>(group: &[u8; N], plane: usize, at: usize) -> i32 {
    let first = HEAD_BYTES + GROUP * plane + at % 2 * LANES + at / 2 * 4;
    i32::from_le_bytes(*array(&group[first..]))
}

/// The q at a [`place`].
#[inline(always)]
fn number_of<const N: usize>(group: &[u8; N], at: usize) -> i32 {
    let plane = |plane: usize| i32::from(group[HEAD_BYTES + GROUP * plane + at].cast_signed());
    match planes(N) {
        1 => plane(0),
        _ => 256 * plane(0) + plane(1),
    }
}

/// Multiplies x by a weight in blocks by integers; `chunk` cuts the product.
pub(in super::super) fn run(
    pool: &Pool,
    x: Input<'_>,
    weight: &Weight<'_>,
    out: (&Output<'_>, &mut [u8]),
    chunks: usize,
    chunk: impl Fn(usize) -> Chunk + Sync,
) {
    match weight.shape.products {
        Products::Exact => unreachable!("exact products are none of integers"),
        Products::Int8 => by_width::<INT8_BYTES>(pool, x, weight, out, chunks, chunk),
        Products::Int16 => by_width::<INT16_BYTES>(pool, x, weight, out, chunks, chunk),
    }
}

fn by_width<const N: usize>(
    pool: &Pool,
    x: Input<'_>,
    weight: &Weight<'_>,
    (out, scratch): (&Output<'_>, &mut [u8]),
    chunks: usize,
    chunk: impl Fn(usize) -> Chunk + Sync,
) {
    let shape = weight.shape;
    let format = super::pack::format_of(&shape);
    let x = quantise::run::<N>(pool, x, shape.cols, order_of(format), scratch);
    let product = Product {
        shape,
        grid: Grid::of(&shape, format),
        packed: weight.packed,
        x,
        out,
    };
    let dots = Dots::of(pool.isa());
    pool.run(chunks, |at| {
        by_kind!(format, K => multiply::<K, N>(dots, &product, chunk(at)));
    });
}

fn order_of(format: BlockFormat) -> quantise::Order {
    by_kind!(format, K => quantise::Order::of::<K>())
}

fn multiply<K: Kind, const N: usize>(dots: Dots, product: &Product<'_, N>, chunk: Chunk) {
    const { bounds::check::<K>() };
    let Chunk { panels, tokens } = chunk;
    match dots {
        Dots::Scalar => scalar::multiply::<K, N>(product, panels, tokens),
        #[cfg(target_arch = "x86_64")]
        Dots::Avx2 => avx2::multiply::<K, N>(product, panels, tokens),
        #[cfg(target_arch = "x86_64")]
        Dots::Avx512Vnni | Dots::AmxInt8 => vnni::multiply::<K, N>(dots, product, panels, tokens),
        #[cfg(not(target_arch = "x86_64"))]
        Dots::Avx2 | Dots::Avx512Vnni | Dots::AmxInt8 => {
            scalar::multiply::<K, N>(product, panels, tokens)
        }
    }
}
