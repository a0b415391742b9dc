//! The products of an 8B model's layer and head, for few tokens and for many.

use std::rc::Rc;

use plimsoll_kernels::gpu::driver::Cuda;
use plimsoll_kernels::gpu::{GpuError, Kind, Memory};
use plimsoll_kernels::linear::{LinearShape, card, cuda};
use plimsoll_planner::Dtype;

use crate::measure::{Case, Show, copies};
use crate::values;

/// Name, outputs, inputs.
const WEIGHTS: [(&str, usize, usize); 4] = [
    ("qkv", 6144, 4096),
    ("gate_up", 28672, 4096),
    ("down", 4096, 14336),
    ("head", 128_256, 4096),
];
const SKINNY: [usize; 3] = [1, 4, 16];
const WIDE: [usize; 3] = [512, 2048, 8192];
const BF16: Kind = Kind::Number(Dtype::BFloat16);

pub(crate) fn run(cuda: &Rc<Cuda>, show: &mut Show<'_>) -> Result<(), GpuError> {
    for (name, rows, cols) in WEIGHTS {
        let shape = LinearShape::dense(rows, cols, Dtype::BFloat16);
        let gpu = cuda.gpu();
        let weights: Vec<Memory> = (0..copies(card::numbers(&shape) * 2))
            .map(|_| values::bf16(&gpu, card::numbers(&shape)))
            .collect::<Result<_, _>>()?;
        let is_wide = ["gate_up", "down"].contains(&name);
        let wide = if is_wide { &WIDE[..] } else { &[] };
        for tokens in SKINNY.iter().chain(wide).copied() {
            one(
                cuda,
                &format!("linear/{name}/{tokens}"),
                &shape,
                tokens,
                &weights,
                show,
            )?;
        }
    }
    Ok(())
}

fn one(
    cuda: &Rc<Cuda>,
    name: &str,
    shape: &LinearShape,
    tokens: usize,
    weights: &[Memory],
    show: &mut Show<'_>,
) -> Result<(), GpuError> {
    let gpu = cuda.gpu();
    let x = values::bf16(&gpu, tokens * shape.cols)?;
    let mut out = gpu.allocate(tokens * shape.rows * 2)?;
    let out = out.view_mut(BF16);
    let (rows, cols) = (shape.rows, shape.cols);
    show(&Case {
        name: name.to_owned(),
        bytes: 2.0 * (rows * cols + tokens * (rows + cols)) as f64,
        operations: 2.0 * (tokens * rows) as f64 * cols as f64,
        run: Box::new(|turn| {
            let x = cuda::Input {
                data: x.view(BF16),
                tokens,
                stride: cols,
            };
            let weight = cuda::Weight {
                shape: *shape,
                data: weights[turn % weights.len()].view(BF16),
                bias: None,
            };
            cuda::run(&gpu, &x, &weight, &out)
        }),
        prepare: None,
    })
}
