//! The definition in portable Rust.

use std::ops::Range;

use half::f16;

use super::super::{PAIRS, WORD_PAIRS, WORDS_BYTES};
use super::{
    Kind, PANEL_ROWS, Product, X_BYTES, all_of, group_bytes, place, scale_of, shift_of, small,
    split,
};
use crate::simd::{LANES, Scalar};

pub(super) fn multiply<K: Kind>(product: &Product<'_>, panels: Range<usize>, tokens: Range<usize>) {
    for panel in panels {
        let weights = product.panel(panel);
        let weights = weights.chunks_exact(const { group_bytes(K::FORMAT) });
        for token in tokens.clone() {
            let mut sums = [0.0; LANES];
            for (group, x) in weights.clone().zip(product.row(token)) {
                add::<K>(&mut sums, group, x);
            }
            product.out.put(Scalar, token, panel, sums, true);
        }
    }
}

/// A group of sixteen rows.
fn add<K: Kind>(sums: &mut [f32; LANES], group: &[u8], x: &[u8; X_BYTES]) {
    let (d, m, numbers) = split::<K>(group);
    let half = |halves: &[u8; 2 * PANEL_ROWS], row: usize| {
        f16::from_le_bytes([halves[2 * row], halves[2 * row + 1]]).to_f32()
    };
    let scale = scale_of(x);
    for (row, total) in sums.iter_mut().enumerate() {
        let mut sum = if K::HAS_MINIMUM { 0 } else { shift_of(x) };
        for col in 0..2 * PAIRS {
            let q = x[8 + col / 8 * 8 + place::<K>(col % 8)].cast_signed();
            sum += number::<K>(numbers, row, col) * i32::from(q);
        }
        *total = (half(d, row) * scale).mul_add(small(sum), *total);
        if K::HAS_MINIMUM {
            *total = (half(m, row) * scale).mul_add(all_of(x), *total);
        }
    }
}

/// A weight's integer without sign.
fn number<K: Kind>(numbers: &[u8], row: usize, col: usize) -> i32 {
    let (pair, parity) = (col / 2, col % 2);
    match K::BITS {
        4 => {
            let word = pair / WORD_PAIRS * WORDS_BYTES + (2 * (row % 8) + parity) * 4;
            i32::from(numbers[word + pair % WORD_PAIRS] >> (row / 8 * 4) & 15)
        }
        _ => i32::from(numbers[pair * 2 * PANEL_ROWS + 2 * row + parity] ^ 0x80),
    }
}
