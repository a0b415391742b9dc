//! Products of weights in blocks by integers: x is quantised to 8 bits, and a group's 32 products are
//! added up as integers.
//!
//! Per token and group of 32 columns, s = max |x| / 127 and q = round(x / s) to even. A group g of a
//! row adds (d s) I_g, and with a minimum (m s) X_g, where I_g is the sum of q times the weight's
//! integers and X_g that of q:
//!
//! `out[t, r] = fma(m s, X_g, fma(d s, I_g, out))` for g = 0, 1, ... from 0, then the bias.
//!
//! Integers are exact and the order of f32 is this one, so that every instruction set, batch, chunk
//! and thread has the same bits. A group of x with a number that is not finite has s = NaN: all of its
//! token's sums are NaN. One whose largest number is below [`SMALLEST`] counts as zeros.

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "AVX2 intrinsics, proved by the check of `Dots`")]
mod avx2;
mod quantise;
mod scalar;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
#[expect(
    unsafe_code,
    reason = "AVX-512 intrinsics, proved by the check of `Dots`"
)]
mod vnni;

use std::ops::Range;

use plimsoll_planner::BlockFormat;

use super::super::output::Output;
use super::super::product::Chunk;
use super::super::{Input, LinearShape, PANEL_ROWS, Weight};
use super::{GROUP, Short, group_bytes, head_bytes};
use crate::isa::Dots;
use crate::pool::Pool;

/// Bytes of 32 columns of a token: s in f32, the sum of q (`shift_of`, `all_of`), q.
pub(super) const X_BYTES: usize = 8 + GROUP;
/// From here on s is a normal number: 127 of the smallest.
const SMALLEST: f32 = 127.0 * f32::MIN_POSITIVE;

/// Scratch bytes of x.
pub(in super::super) const fn scratch_bytes(tokens: usize, cols: usize) -> usize {
    tokens * (cols / GROUP) * X_BYTES
}

/// A format that code is compiled for: integers u without sign, of which `ZERO` is subtracted, or to
/// which the minimum is added when they are scaled.
trait Kind {
    const FORMAT: BlockFormat;
    const ZERO: i32;
    const HAS_MINIMUM: bool;
    const BITS: usize;
}

struct Q4_0;
struct Q4_1;
struct Q8_0;

impl Kind for Q4_0 {
    const FORMAT: BlockFormat = BlockFormat::Q4_0;
    const ZERO: i32 = 8;
    const HAS_MINIMUM: bool = false;
    const BITS: usize = 4;
}

impl Kind for Q4_1 {
    const FORMAT: BlockFormat = BlockFormat::Q4_1;
    const ZERO: i32 = 0;
    const HAS_MINIMUM: bool = true;
    const BITS: usize = 4;
}

/// Bytes with a sign; their highest bit flipped, they have none.
impl Kind for Q8_0 {
    const FORMAT: BlockFormat = BlockFormat::Q8_0;
    const ZERO: i32 = 128;
    const HAS_MINIMUM: bool = false;
    const BITS: usize = 8;
}

/// The place of column c among eight that follow each other: with 4 bits, a word of a group has every
/// second column of a row.
const fn place<K: Kind>(col: usize) -> usize {
    match K::BITS {
        4 => col % 2 * 4 + col / 2,
        _ => col,
    }
}

/// A product as every chunk sees it.
#[derive(Clone, Copy)]
struct Product<'a> {
    shape: LinearShape,
    packed: &'a [u8],
    /// `[tokens][groups]`
    x: &'a [[u8; X_BYTES]],
    out: &'a Output<'a>,
}

impl<'a> Product<'a> {
    #[inline(always)]
    fn panel(&self, panel: usize) -> &'a [u8] {
        let bytes = self.shape.panel_bytes();
        &self.packed[panel * bytes..][..bytes]
    }

    #[inline(always)]
    fn row(&self, token: usize) -> &'a [[u8; X_BYTES]] {
        let groups = self.shape.cols / GROUP;
        &self.x[token * groups..][..groups]
    }
}

/// The s of a group.
#[inline(always)]
fn scale_of(group: &[u8; X_BYTES]) -> f32 {
    let [a, b, c, d, ..] = *group;
    f32::from_le_bytes([a, b, c, d])
}

/// Of a format without minimum: what its zero point takes from a dot product, -ZERO x sum of q.
#[inline(always)]
fn shift_of(group: &[u8; X_BYTES]) -> i32 {
    let [_, _, _, _, a, b, c, d, ..] = *group;
    i32::from_le_bytes([a, b, c, d])
}

/// Of a format with a minimum: the sum of q.
#[inline(always)]
fn all_of(group: &[u8; X_BYTES]) -> f32 {
    let [_, _, _, _, a, b, c, d, ..] = *group;
    f32::from_le_bytes([a, b, c, d])
}

/// An integer of a group as f32, without rounding.
#[inline(always)]
#[expect(clippy::cast_precision_loss, reason = "below 2^24")]
fn small(sum: i32) -> f32 {
    sum as f32
}

/// Four q that follow each other.
#[inline(always)]
fn four_of(group: &[u8; X_BYTES], at: usize) -> i32 {
    i32::from_le_bytes(group[8..].as_chunks().0[at])
}

/// Multiplies x by a weight whose format [`BlockFormat::has_int8`]; `chunk` cuts the product.
pub(in super::super) fn run(
    pool: &Pool,
    x: Input<'_>,
    weight: &Weight<'_>,
    (out, scratch): (&Output<'_>, &mut [u8]),
    chunks: usize,
    chunk: impl Fn(usize) -> Chunk + Sync,
) {
    let shape = weight.shape;
    let format = super::pack::format_of(&shape);
    let Some(format) = Short::of(format) else {
        unreachable!("{format} has no integer products")
    };
    let x = quantise::run(pool, x, shape.cols, format, scratch);
    let product = Product {
        shape,
        packed: weight.packed,
        x,
        out,
    };
    let dots = Dots::of(pool.isa());
    pool.run(chunks, |at| {
        let Chunk { panels, tokens } = chunk(at);
        match format {
            Short::Q4_0 => multiply::<Q4_0>(dots, &product, panels, tokens),
            Short::Q4_1 => multiply::<Q4_1>(dots, &product, panels, tokens),
            Short::Q8_0 => multiply::<Q8_0>(dots, &product, panels, tokens),
        }
    });
}

fn multiply<K: Kind>(
    dots: Dots,
    product: &Product<'_>,
    panels: Range<usize>,
    tokens: Range<usize>,
) {
    match dots {
        Dots::Scalar => scalar::multiply::<K>(product, panels, tokens),
        #[cfg(target_arch = "x86_64")]
        Dots::Avx2 => avx2::multiply::<K>(product, panels, tokens),
        #[cfg(target_arch = "x86_64")]
        Dots::Avx512Vnni => vnni::multiply::<K>(product, panels, tokens),
        #[cfg(not(target_arch = "x86_64"))]
        Dots::Avx2 | Dots::Avx512Vnni => scalar::multiply::<K>(product, panels, tokens),
    }
}

/// What lies before the integers of a group: the panel's d, and m where there is one.
#[inline(always)]
fn split<K: Kind>(group: &[u8]) -> (&[u8; 2 * PANEL_ROWS], &[u8; 2 * PANEL_ROWS], &[u8]) {
    let (head, numbers) = group.split_at(const { head_bytes(K::FORMAT) });
    let d = crate::simd::array(head);
    let m = match K::HAS_MINIMUM {
        true => crate::simd::array(&head[2 * PANEL_ROWS..]),
        false => d,
    };
    (d, m, numbers)
}
