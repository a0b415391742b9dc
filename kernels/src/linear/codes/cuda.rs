//! The card's side of codes: which kernel, how many blocks, and what is refused.
//!
//! Two families, as in `linear::cuda`: up to 16 rows of x one, more the other. Inside a family a row has
//! the same bits alone and in any batch; a tile's bits are those of the expanded weight's tiles.

use plimsoll_planner::Dtype;

use super::super::PANEL_COLS;
use super::super::choice::{OP, unsupported};
use super::super::cuda::{Input, check_operands, number};
use super::choice::{Kernel, choose};
use super::{CodesShape, Form, Group};
use crate::gpu::{Arguments, Gpu, GpuError, Kind, Launch, Tensor, TensorMut};

/// A weight of codes on the card and its bias.
#[derive(Clone, Copy, Debug)]
pub struct Weight<'a> {
    pub shape: CodesShape,
    /// As `pack_blocks` and `pack_grid` lay it out, in bytes.
    pub data: Tensor<'a>,
    /// `[rows]` in f32
    pub bias: Option<Tensor<'a>>,
}

/// Multiplies `x`, in f16 or bf16, by the weight into `out`: `[tokens, rows]` in x's type or in f32.
///
/// # Errors
/// When the tensors do not fit the shape, or no kernel takes it.
pub fn run(
    gpu: &Gpu,
    x: &Input<'_>,
    weight: &Weight<'_>,
    out: &TensorMut<'_>,
) -> Result<(), GpuError> {
    // Sizes that no operand has are refused before anything is reckoned with them.
    let dtype = check(x, weight, out)?;
    let kernel = choose(gpu.card(), &weight.shape, x.tokens);
    launch(gpu, (kernel, dtype), x, weight, out)
}

/// As [`run`], with a kernel of the caller's choice: for tests and measurements.
///
/// # Errors
/// As [`run`], and when this kernel does not take the shape.
pub fn run_on(
    gpu: &Gpu,
    kernel: Kernel,
    x: &Input<'_>,
    weight: &Weight<'_>,
    out: &TensorMut<'_>,
) -> Result<(), GpuError> {
    let dtype = check(x, weight, out)?;
    launch(gpu, (kernel, dtype), x, weight, out)
}

/// Of tensors that [`check`] let pass; the type of x.
fn launch(
    gpu: &Gpu,
    (kernel, dtype): (Kernel, Dtype),
    x: &Input<'_>,
    weight: &Weight<'_>,
    out: &TensorMut<'_>,
) -> Result<(), GpuError> {
    let (shape, tokens) = (&weight.shape, x.tokens);
    if tokens == 0 || shape.rows == 0 {
        return Ok(());
    }
    kernel.check(gpu.card(), shape, tokens)?;
    let arguments = Arguments::new().write(out).read(x.data).read(weight.data);
    let arguments = match weight.bias {
        Some(bias) => arguments.read(bias),
        None => arguments.null(),
    };
    let out_is_f32 = out.as_tensor().kind() == Kind::F32;
    // Units of 32 columns in a group, as a power of two; and the forms as in codes.cuh.
    let shift = match shape.group {
        Group::Of32 => 0,
        Group::Of128 => 2,
    };
    let form = match shape.form {
        Form::Middle => 0,
        Form::Zero => 1,
        Form::Minimum => 2,
    };
    gpu.launch(&Launch {
        op: kernel.image(),
        kernel: &kernel.name(dtype, shape.bits, tokens),
        grid: [kernel.blocks(shape, tokens), 1, 1],
        threads: kernel.threads(),
        shared_bytes: kernel.shared_bytes(shape.bits, tokens),
        arguments: arguments
            .u32(number(tokens))
            .u32(number(shape.rows))
            .u32(number(shape.cols))
            .u32(number(x.stride))
            .u32(out_is_f32.into())
            .u32(number(shape.groups()))
            .u32(shift)
            .u32(number(shape.skipped.unwrap_or(0) / PANEL_COLS))
            .u32(form),
    })
}

/// Everything that all kernels take for granted; the type of x.
fn check(x: &Input<'_>, weight: &Weight<'_>, out: &TensorMut<'_>) -> Result<Dtype, GpuError> {
    let shape = &weight.shape;
    let dtype = match x.data.dtype() {
        Some(dtype @ (Dtype::Float16 | Dtype::BFloat16)) => dtype,
        Some(dtype @ Dtype::Float32) => {
            return Err(GpuError::Dtype {
                op: OP,
                what: "x",
                dtype,
                supported: "f16 and bf16; for f32 the weight has to be expanded",
            });
        }
        None => {
            return Err(GpuError::Shape {
                op: OP,
                what: "x",
                has: format!("{:?}", x.data.kind()),
                needs: "floats".to_owned(),
            });
        }
    };
    let skipped = shape.skipped.unwrap_or(0);
    for (what, columns) in [("cols", shape.cols), ("skipped cols", skipped)] {
        if !columns.is_multiple_of(PANEL_COLS) {
            return Err(unsupported(
                what,
                columns,
                format!("multiples of {PANEL_COLS}"),
            ));
        }
    }
    let group = shape.group.columns();
    if skipped >= group {
        return Err(unsupported(
            "skipped cols",
            skipped,
            format!("fewer than a group's {group}"),
        ));
    }
    check_operands(dtype, (shape.rows, shape.cols), x, weight.bias, out)?;
    weight
        .data
        .check(OP, "weight", Kind::U8, shape.bytes(), 16)?;
    Ok(dtype)
}
