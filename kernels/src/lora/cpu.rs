//! Two passes: A x of all rows, then B times that. A chunk has some rows, one matrix, and a block of
//! ranks (or of columns), so that one row keeps several threads busy and many share what a chunk reads.

use super::{Data, Factors, Rows, Slots};
use crate::pool::{Disjoint, Pool};
use crate::simd::{self, LANES, Simd, Work, array, array_mut};

/// Rows of A that are multiplied at once: each needs a sum of its own.
const RANKS: usize = 4;
/// Columns of out that a chunk adds to.
const COLUMNS: usize = 512;
/// Rows of x that a chunk has where there are many.
const ROWS: usize = 16;

pub(super) fn run(
    pool: &Pool,
    rows: Rows<'_>,
    slots: &Slots<'_>,
    together: &[Factors],
    data: Data<'_>,
    products: &mut [f32],
) {
    let Data {
        x,
        inputs,
        out,
        stride,
    } = data;
    let isa = pool.isa();
    let count = rows.rows.len();
    let at_once = if count < 4 * ROWS { 1 } else { ROWS };
    let groups = count.div_ceil(at_once);
    let group = |group: usize| group * at_once..(group * at_once + at_once).min(count);
    let (largest, width) = (slots.largest_rank, together.len() * slots.largest_rank);

    let blocks = largest.div_ceil(RANKS);
    let parts = Disjoint::new(&mut products[..count * width]);
    pool.run(groups * together.len() * blocks, |chunk| {
        let (matrix, block) = (chunk / blocks % together.len(), chunk % blocks);
        let (factors, first) = (&together[matrix], block * RANKS);
        for at in group(chunk / blocks / together.len()) {
            let (row, slot) = (rows.rows[at] as usize, rows.slots[at]);
            let end = slots.rank(slot, factors.index).min(first + RANKS);
            if first >= end {
                continue;
            }
            let a = &slots.matrix(slot, factors.a, end, inputs)[first * inputs..];
            let start = at * width + matrix * largest;
            // SAFETY: the range is of this row, matrix and block of ranks, which one chunk has.
            let sums = unsafe { parts.chunk(start + first..start + end) };
            let x = &x[row * inputs..][..inputs];
            simd::dispatch(isa, Dots { x, a, sums });
        }
    });

    let widest = together.iter().map(|of| of.columns.len()).max();
    let blocks = widest.unwrap_or(0).div_ceil(COLUMNS);
    let products = &*products;
    let parts = Disjoint::new(out);
    pool.run(groups * together.len() * blocks, |chunk| {
        let (matrix, block) = (chunk / blocks % together.len(), chunk % blocks);
        let factors = &together[matrix];
        let outputs = factors.columns.len();
        let columns = block * COLUMNS..outputs.min((block + 1) * COLUMNS);
        if columns.is_empty() {
            return;
        }
        for at in group(chunk / blocks / together.len()) {
            let (row, slot) = (rows.rows[at] as usize, rows.slots[at]);
            let rank = slots.rank(slot, factors.index);
            if rank == 0 {
                continue;
            }
            let b = &slots.matrix(slot, factors.b, rank, outputs)[columns.start..];
            let products = &products[at * width + matrix * largest..][..rank];
            let start = row * stride + factors.columns.start;
            // SAFETY: the range is of this row, matrix and block of columns, which one chunk has: rows
            // ascend, as `super::run` checked, and matrices have columns of their own.
            let out = unsafe { parts.chunk(start + columns.start..start + columns.end) };
            simd::dispatch(
                isa,
                Add {
                    products,
                    b,
                    stride: outputs,
                    out,
                },
            );
        }
    });
}

/// sums[r] = sum over c of a[r, c] * x[c], of at most [`RANKS`] rows.
struct Dots<'a> {
    x: &'a [f32],
    a: &'a [f32],
    sums: &'a mut [f32],
}

impl Work for Dots<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let inputs = self.x.len();
        let (whole, rest) = self.x.as_chunks::<LANES>();
        let row = |r: usize| &self.a[r * inputs..][..inputs];
        let mut lanes = [s.splat(0.0); RANKS];
        if let [_, _, _, _] = *self.sums {
            let rows: [&[[f32; LANES]]; RANKS] = std::array::from_fn(|r| row(r).as_chunks().0);
            for (c, x) in whole.iter().enumerate() {
                let x = s.load(x);
                for (lane, row) in lanes.iter_mut().zip(rows) {
                    *lane = s.fma(s.load(&row[c]), x, *lane);
                }
            }
        } else {
            for (r, lane) in lanes.iter_mut().enumerate().take(self.sums.len()) {
                for (a, x) in row(r).as_chunks().0.iter().zip(whole) {
                    *lane = s.fma(s.load(a), s.load(x), *lane);
                }
            }
        }
        for (r, (sum, lane)) in self.sums.iter_mut().zip(lanes).enumerate() {
            let last = &row(r)[whole.len() * LANES..];
            let lane = match rest.is_empty() {
                true => lane,
                false => s.fma(s.load_part(last), s.load_part(rest), lane),
            };
            *sum = s.sum(lane);
        }
    }
}

/// out[o] += sum over r of products[r] * b[r * stride + o].
struct Add<'a> {
    products: &'a [f32],
    b: &'a [f32],
    stride: usize,
    out: &'a mut [f32],
}

/// Vectors of columns that are added to at once.
const VECTORS: usize = 4;

impl Work for Add<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Add {
            products,
            b,
            stride,
            out,
        } = self;
        let (blocks, rest) = out.as_chunks_mut::<{ VECTORS * LANES }>();
        let mut first = 0;
        for block in blocks {
            let mut sums = [s.splat(0.0); VECTORS];
            for (r, product) in products.iter().enumerate() {
                let (product, b) = (s.splat(*product), &b[r * stride + first..]);
                for (at, sum) in sums.iter_mut().enumerate() {
                    *sum = s.fma(product, s.load(array(&b[at * LANES..])), *sum);
                }
            }
            for (at, sum) in sums.into_iter().enumerate() {
                let out: &mut [f32; LANES] = array_mut(&mut block[at * LANES..]);
                s.store(s.add(s.load(out), sum), out);
            }
            first += VECTORS * LANES;
        }
        for out in rest.chunks_mut(LANES) {
            let mut sum = s.splat(0.0);
            for (r, product) in products.iter().enumerate() {
                let b = &b[r * stride + first..][..out.len()];
                sum = s.fma(s.splat(*product), s.load_part(b), sum);
            }
            s.store_part(s.add(s.load_part(out), sum), out);
            first += out.len();
        }
    }
}
