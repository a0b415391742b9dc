//! The products of an 8B model's layer and head, for few tokens and for many: of weights in BFloat16 and,
//! with x in BFloat16, of 4 and 8 bits.

use std::rc::Rc;

use plimsoll_kernels::gpu::driver::Cuda;
use plimsoll_kernels::gpu::{GpuError, Kind, Memory};
use plimsoll_kernels::linear::codes::{self, Bits, CodesShape, Form, Group};
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
    for (name, rows, cols) in WEIGHTS {
        for (label, shape) in coded(rows, cols) {
            of_codes(cuda, &format!("linear/{name}_{label}"), &shape, show)?;
        }
    }
    Ok(())
}

/// As `Q4_0`, `Q4_1` and `Q8_0` are held, and 4 bits with zero points in groups of 128, as GPTQ and AWQ.
fn coded(rows: usize, cols: usize) -> [(&'static str, CodesShape); 4] {
    let of = |bits, form, group| CodesShape {
        rows,
        cols,
        bits,
        form,
        group,
        skipped: None,
    };
    [
        ("q4_0", of(Bits::Four, Form::Middle, Group::Of32)),
        ("q4_1", of(Bits::Four, Form::Minimum, Group::Of32)),
        ("g128", of(Bits::Four, Form::Zero, Group::Of128)),
        ("q8_0", of(Bits::Eight, Form::Middle, Group::Of32)),
    ]
}

/// One weight of codes, for few tokens and, where it is an MLP's, for many.
fn of_codes(
    cuda: &Rc<Cuda>,
    name: &str,
    shape: &CodesShape,
    show: &mut Show<'_>,
) -> Result<(), GpuError> {
    let gpu = cuda.gpu();
    // Random bf16 in -1..1: any bits are codes, and as f16 they are finite scales.
    let weights: Vec<Memory> = (0..copies(shape.bytes()))
        .map(|_| values::bf16(&gpu, shape.bytes() / 2))
        .collect::<Result<_, _>>()?;
    let (rows, cols) = (shape.rows, shape.cols);
    let is_wide = name.contains("gate_up") || name.contains("down");
    let wide = if is_wide { &WIDE[..] } else { &[] };
    for tokens in SKINNY.iter().chain(&[64]).chain(wide).copied() {
        let x = values::bf16(&gpu, tokens * cols)?;
        let mut out = gpu.allocate(tokens * rows * 2)?;
        let out = out.view_mut(BF16);
        show(&Case {
            name: format!("{name}/{tokens}"),
            bytes: (shape.bytes() + 2 * tokens * (rows + cols)) as f64,
            operations: 2.0 * (tokens * rows) as f64 * cols as f64,
            run: Box::new(|turn| {
                let x = cuda::Input {
                    data: x.view(BF16),
                    tokens,
                    stride: cols,
                };
                let weight = codes::cuda::Weight {
                    shape: *shape,
                    data: weights[turn % weights.len()].view(Kind::U8),
                    bias: None,
                };
                codes::cuda::run(&gpu, &x, &weight, &out)
            }),
            prepare: None,
        })?;
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
