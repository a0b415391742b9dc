//! The card's side of linear: which kernel, how many blocks, and what is refused.
//!
//! Two families. Up to [`SKINNY_TOKENS`](super::choice::SKINNY_TOKENS) rows of x, the weights are read once and the sums cut among
//! warps, whose number the weight's shape and the card decide; beyond, every sum is one chain over
//! the columns. Inside a family a row has the same bits alone and in any batch; between the two, and
//! between this and the CPU, the order of additions differs.

use plimsoll_planner::Dtype;

use super::choice::{Kernel, OP, choose, unsupported};
use super::{LinearShape, card};
use crate::gpu::{Arguments, Gpu, GpuError, Kind, Launch, Tensor, TensorMut};

/// Numbers that one read takes.
const GROUP: usize = 8;
/// Kernels count in 32 bits, with room for a tile more.
const MOST: usize = 1 << 30;

/// Input rows on the card: row `t` is the `cols` numbers from `t * stride` on. What lies between
/// them may be anything.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    pub data: Tensor<'a>,
    pub tokens: usize,
    /// Numbers from one row to the next, at least the weight's columns.
    pub stride: usize,
}

/// A weight on the card and its bias.
#[derive(Clone, Copy, Debug)]
pub struct Weight<'a> {
    pub shape: LinearShape,
    /// As [`card`] lays it out.
    pub data: Tensor<'a>,
    /// `[rows]` in f32
    pub bias: Option<Tensor<'a>>,
}

/// Multiplies `x` by the weight into `out`: `[tokens, rows]` in the weight's type or in f32.
///
/// # Errors
/// When the tensors do not fit the shape, or no kernel takes it.
pub fn run(
    gpu: &Gpu,
    x: &Input<'_>,
    weight: &Weight<'_>,
    out: &TensorMut<'_>,
) -> Result<(), GpuError> {
    check(x, weight, out)?;
    let kernel = choose(gpu.card(), &weight.shape, x.tokens);
    launch(gpu, kernel, x, weight, out)
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
    check(x, weight, out)?;
    launch(gpu, kernel, x, weight, out)
}

/// Of tensors that [`check`] let pass.
fn launch(
    gpu: &Gpu,
    kernel: Kernel,
    x: &Input<'_>,
    weight: &Weight<'_>,
    out: &TensorMut<'_>,
) -> Result<(), GpuError> {
    let (shape, tokens) = (&weight.shape, x.tokens);
    if tokens == 0 || shape.rows == 0 {
        return Ok(());
    }
    kernel.check(gpu.card(), shape, tokens)?;
    let blocks = kernel.blocks(shape, tokens);
    let arguments = Arguments::new().write(out).read(x.data).read(weight.data);
    let arguments = match weight.bias {
        Some(bias) => arguments.read(bias),
        None => arguments.null(),
    };
    let out_is_f32 = out.as_tensor().kind() == Kind::F32;
    gpu.launch(&Launch {
        op: kernel.image(shape.dtype),
        kernel: &kernel.name(shape.dtype, tokens),
        grid: [blocks, 1, 1],
        threads: kernel.threads(),
        shared_bytes: kernel.shared_bytes(shape.dtype, tokens),
        arguments: arguments
            .u32(number(tokens))
            .u32(number(shape.rows))
            .u32(number(shape.cols))
            .u32(number(x.stride))
            .u32(out_is_f32.into()),
    })
}

/// Of a size that [`check_operands`] let pass.
pub(super) fn number(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

/// Everything that all kernels take for granted.
fn check(x: &Input<'_>, weight: &Weight<'_>, out: &TensorMut<'_>) -> Result<(), GpuError> {
    let shape = &weight.shape;
    if let Some(format) = shape.blocks {
        let expanded = format!("codes (linear::codes), or weights expanded from {format}");
        return Err(unsupported("columns of a block", 32, expanded));
    }
    let sizes = (shape.rows, shape.cols);
    check_operands(shape.dtype, sizes, x, weight.bias, out)?;
    let kind = Kind::Number(shape.dtype);
    weight
        .data
        .check(OP, "weight", kind, card::numbers(shape), 16)
}

/// Sizes, and all tensors but the weight, whatever that is stored as.
pub(super) fn check_operands(
    dtype: Dtype,
    (rows, cols): (usize, usize),
    x: &Input<'_>,
    bias: Option<Tensor<'_>>,
    out: &TensorMut<'_>,
) -> Result<(), GpuError> {
    let tokens = x.tokens;
    for (what, size) in [
        ("tokens", tokens),
        ("rows", rows),
        ("cols", cols),
        ("x stride", x.stride),
    ] {
        if size > MOST {
            return Err(unsupported(what, size, format!("at most {MOST}")));
        }
    }
    for (what, size) in [("cols", cols), ("x stride", x.stride)] {
        if !size.is_multiple_of(GROUP) {
            return Err(unsupported(what, size, format!("multiples of {GROUP}")));
        }
    }
    if x.stride < cols {
        let least = format!("at least the weight's {cols} columns");
        return Err(unsupported("x stride", x.stride, least));
    }
    same_type("x", x.data, &[dtype])?;
    same_type("out", out.as_tensor(), &[dtype, Dtype::Float32])?;
    let read = match tokens {
        0 => 0,
        _ => (tokens - 1) * x.stride + cols,
    };
    x.data.check(OP, "x", Kind::Number(dtype), read, 16)?;
    if let Some(bias) = bias {
        bias.check(OP, "bias", Kind::F32, rows, 4)?;
    }
    let out_kind = out.as_tensor().kind();
    out.check(OP, "out", out_kind, tokens * rows, 16)
}

/// Floats of one of `allowed`: the weight's type, perhaps f32 too.
fn same_type(what: &'static str, tensor: Tensor<'_>, allowed: &[Dtype]) -> Result<(), GpuError> {
    match tensor.dtype() {
        Some(dtype) if allowed.contains(&dtype) => Ok(()),
        Some(dtype) => Err(GpuError::Dtype {
            op: OP,
            what,
            dtype,
            supported: match allowed {
                [_] => "the weight's type",
                _ => "the weight's type or f32",
            },
        }),
        None => Err(GpuError::Shape {
            op: OP,
            what,
            has: format!("{:?}", tensor.kind()),
            needs: "floats".to_owned(),
        }),
    }
}
