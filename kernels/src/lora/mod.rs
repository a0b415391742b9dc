//! lora: out[t, o] += sum over r of B[r, o] * (sum over c of A[r, c] * x[t, c]), for some rows t
//!
//! Each row goes by the factors of its own slot; rows that are not named keep their bits. Several
//! matrices may share x (q, k and v): their products lie side by side in a row of out. f32 throughout.
//! A slot is a stretch of numbers with every matrix at the same offset; `ranks` says how many rows of
//! A and B count in it, none where the slot does not change the matrix.
//!
//! Defined sums: A x adds 16 lanes, column c in lane c mod 16 in ascending order, and then the lanes
//! (`Simd::sum`); out adds the ranks in ascending order. So a row has the same bits whatever else is in
//! the call, whatever the threads. Products and sums are fused as `simd` fuses them.

#[expect(
    unsafe_code,
    reason = "concurrent chunks write different columns of one row"
)]
mod cpu;

#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::pool::Pool;

/// Matrices that may share an input.
pub const TOGETHER_MAX: usize = 3;

/// Where the factors of one matrix lie in every slot, and where its products go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Factors {
    /// A `[largest rank, inputs]` from here on, in numbers from the start of a slot.
    pub a: usize,
    /// B `[largest rank, columns]` from here on.
    pub b: usize,
    /// Columns of out.
    pub columns: Range<usize>,
    /// Its place in a slot's ranks.
    pub index: usize,
}

/// All slots: `ranks` has as many entries for each as there are matrices.
#[derive(Clone, Copy, Debug)]
pub struct Slots<'a> {
    pub numbers: &'a [f32],
    /// Numbers of one slot.
    pub stride: usize,
    pub ranks: &'a [u32],
    /// Entries of `ranks` that are one slot's.
    pub matrices: usize,
    pub largest_rank: usize,
}

/// Rows of x and out, in ascending order, and the slot of each.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    pub rows: &'a [u32],
    pub slots: &'a [u32],
}

/// x `[tokens, inputs]` and out `[tokens, stride]`.
#[derive(Debug)]
pub struct Data<'a> {
    pub x: &'a [f32],
    pub inputs: usize,
    pub out: &'a mut [f32],
    pub stride: usize,
}

impl Slots<'_> {
    fn rank(&self, slot: u32, index: usize) -> usize {
        let rank = self.ranks[slot as usize * self.matrices + index] as usize;
        rank.min(self.largest_rank)
    }

    /// So many rows of a matrix of `width` columns, from `at` on in a slot.
    fn matrix(&self, slot: u32, at: usize, rows: usize, width: usize) -> &[f32] {
        &self.numbers[slot as usize * self.stride + at..][..rows * width]
    }
}

/// Adds to the rows that are named, each once. `products` is scratch: a number for each row, matrix
/// and rank.
///
/// # Panics
/// When sizes do not agree, rows do not ascend, or a slot or a row is not there.
pub fn run(
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
        ref out,
        stride,
    } = data;
    assert!(together.len() <= TOGETHER_MAX, "{} share x", together.len());
    assert_eq!(rows.rows.len(), rows.slots.len(), "a slot for each row");
    let width = together.len() * slots.largest_rank;
    assert!(
        products.len() >= rows.rows.len() * width,
        "products have no room for {} rows of {width}",
        rows.rows.len()
    );
    for factors in together {
        let (a, b) = (inputs, factors.columns.len());
        let end = (factors.a + a * slots.largest_rank).max(factors.b + b * slots.largest_rank);
        assert!(end <= slots.stride, "{factors:?} passes its slot");
        assert!(factors.columns.end <= stride, "{factors:?} passes a row");
    }
    // Chunks write rows at the same time: ascending ones are apart.
    let mut next = 0;
    for (row, slot) in rows.rows.iter().zip(rows.slots) {
        let (row, slot) = (*row as usize, *slot as usize);
        assert!(
            row >= next,
            "row {row} comes again, or before the one ahead of it"
        );
        next = row + 1;
        assert!(
            next * inputs <= x.len() && next * stride <= out.len(),
            "row {row} is in x or out not there"
        );
        assert!(
            (slot + 1) * slots.stride <= slots.numbers.len()
                && (slot + 1) * slots.matrices <= slots.ranks.len(),
            "slot {slot} is not there"
        );
    }
    if inputs > 0 && !rows.rows.is_empty() {
        cpu::run(pool, rows, slots, together, data, products);
    }
}
