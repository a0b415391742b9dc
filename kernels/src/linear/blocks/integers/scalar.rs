//! The definition in portable Rust.

use std::ops::Range;

use super::super::kinds::Kind;
use super::super::pack;
use super::{Form, GROUP, Product, Step, all_of, lift, number_of, place, scale_of};
use crate::simd::{LANES, Scalar};

pub(super) fn multiply<K: Kind, const N: usize>(
    product: &Product<'_, N>,
    panels: Range<usize>,
    tokens: Range<usize>,
) {
    let grid = product.grid::<K>();
    for panel in panels {
        let weights = product.panel(panel);
        for token in tokens.clone() {
            let mut sums = [0.0; LANES];
            for (at, x) in product.row(token).iter().enumerate() {
                add::<K, N>(&mut sums, Step::of::<K>(weights, grid, at), x);
            }
            product.out.put(Scalar, token, panel, sums, true);
        }
    }
}

/// A group of sixteen rows.
fn add<K: Kind, const N: usize>(sums: &mut [f32; LANES], step: Step<'_>, x: &[u8; N]) {
    let parts = <K as Form>::PARTS;
    let scales = [0, 1].map(|part| step.scales::<_, K>(Scalar, part.min(parts - 1)));
    let numbers: [i32; GROUP] = std::array::from_fn(|col| number_of(x, place::<K>(col)));
    for (row, total) in sums.iter_mut().enumerate() {
        let mut value = 0.0_f32;
        for (part, q) in numbers.chunks_exact(GROUP / parts).enumerate() {
            let first = part * (GROUP / parts);
            let products = q.iter().enumerate().map(|(col, q)| {
                #[expect(clippy::cast_possible_truncation, reason = "an integer")]
                let u = pack::number::<K>(step.numbers, row, first + col) as i32;
                (u + i32::from(lift::<K>())) * q
            });
            let sum = nearest(products.sum());
            let d = scales[part].0[row];
            value = match part {
                0 => d * sum,
                _ => d.mul_add(sum, value),
            };
        }
        if <K as Form>::HAS_MINIMUM {
            for (part, scales) in scales.iter().enumerate().take(parts) {
                value = scales.1[row].mul_add(all_of(x, part), value);
            }
        }
        *total = scale_of(x).mul_add(value, *total);
    }
}

#[expect(clippy::cast_precision_loss, reason = "rounded to even")]
fn nearest(sum: i32) -> f32 {
    sum as f32
}
