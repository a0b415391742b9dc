//! The plain loops.

use half::bf16;
use plimsoll_planner::Dtype;

use crate::encoding;
use crate::pool::Pool;

use super::{Input, Weight};

pub(super) fn run(
    pool: &Pool,
    x: Input<'_>,
    weight: &Weight<'_>,
    out: &mut [f32],
    _scratch: &mut [u8],
) {
    let shape = weight.shape;
    pool.run_rows(out, shape.rows, 1, |token, out| {
        let input = &x.data[token * x.stride..][..shape.cols];
        for (row, sum) in out.iter_mut().enumerate() {
            *sum = 0.0;
            for (col, value) in input.iter().enumerate() {
                let value = match shape.dtype {
                    Dtype::BFloat16 => bf16::from_f32(*value).to_f32(),
                    Dtype::Float32 | Dtype::Float16 => *value,
                };
                *sum += value * encoding::load(shape.dtype, weight.packed, shape.offset(row, col));
            }
            *sum += weight.bias.map_or(0.0, |bias| bias[row]);
        }
    });
}
