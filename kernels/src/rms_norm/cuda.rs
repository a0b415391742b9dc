//! The card's side of rms_norm: which kernel, how many blocks, and what is refused.

use plimsoll_planner::Dtype;

use crate::gpu::{Arguments, Gpu, GpuError, Kind, Launch, Tensor, TensorMut};

const OP: &str = "rms_norm";
/// As in rms_norm.cu.
const GROUP: usize = 8;
const WIDTHS: [usize; 4] = [1, 2, 4, 8];
/// Columns of a row of width 1.
const COLUMNS: usize = 256 * GROUP;

/// Of a block, for rows of a width.
const fn threads(width: usize) -> u32 {
    match width {
        8 => 512,
        _ => 256,
    }
}

/// `out = rms_norm(x)`: `x` `[tokens, cols]` of `out`'s float type, or a residual stream in f32, which the
/// first layer has; `out` `[tokens, cols]`, `weight` `[cols]` in f32.
///
/// # Errors
/// When the tensors do not fit `tokens` and `cols`, or no kernel takes `cols`.
pub fn run(
    gpu: &Gpu,
    (tokens, cols): (usize, usize),
    x: Tensor<'_>,
    weight: Tensor<'_>,
    eps: f32,
    out: &TensorMut<'_>,
) -> Result<(), GpuError> {
    let plan = Plan::new((tokens, cols), x, weight, out)?;
    let name = match x.dtype() == Some(plan.dtype) {
        true => "rms_norm",
        false => "rms_norm_stream",
    };
    let arguments = Arguments::new().write(out).read(x).read(weight);
    plan.launch(gpu, name, arguments, eps)
}

/// `residual += x; out = rms_norm(residual)`, with `residual` `[tokens, cols]` in f32.
///
/// # Errors
/// As [`run`].
pub fn run_residual(
    gpu: &Gpu,
    (tokens, cols): (usize, usize),
    x: Tensor<'_>,
    residual: &TensorMut<'_>,
    weight: Tensor<'_>,
    eps: f32,
    out: &TensorMut<'_>,
) -> Result<(), GpuError> {
    let plan = Plan::new((tokens, cols), x, weight, out)?;
    x.check(OP, "x", Kind::Number(plan.dtype), tokens * cols, 16)?;
    residual.check(OP, "residual", Kind::F32, tokens * cols, 16)?;
    let arguments = Arguments::new()
        .write(out)
        .write(residual)
        .read(x)
        .read(weight);
    plan.launch(gpu, "rms_norm_residual", arguments, eps)
}

/// A checked call.
struct Plan {
    tokens: u32,
    cols: u32,
    dtype: Dtype,
    width: usize,
}

impl Plan {
    fn new(
        (tokens, cols): (usize, usize),
        x: Tensor<'_>,
        weight: Tensor<'_>,
        out: &TensorMut<'_>,
    ) -> Result<Plan, GpuError> {
        let most = COLUMNS * WIDTHS[WIDTHS.len() - 1];
        let unsupported = |what, value: usize, supported| GpuError::Unsupported {
            op: OP,
            what,
            value: value as u64,
            supported,
        };
        let width = WIDTHS.into_iter().find(|width| cols <= COLUMNS * width);
        let (Some(width), true) = (width, cols > 0 && cols.is_multiple_of(GROUP)) else {
            return Err(unsupported(
                "cols",
                cols,
                format!("multiples of {GROUP} up to {most}"),
            ));
        };
        let Ok(grid) = i32::try_from(tokens) else {
            return Err(unsupported(
                "tokens",
                tokens,
                format!("at most {}", i32::MAX),
            ));
        };
        let Some(dtype) = out.as_tensor().dtype() else {
            return Err(GpuError::Shape {
                op: OP,
                what: "out",
                has: format!("{:?}", out.as_tensor().kind()),
                needs: "floats".to_owned(),
            });
        };
        // A residual stream is of f32, whatever comes of it.
        let of = match x.dtype() {
            Some(Dtype::Float32) => Dtype::Float32,
            _ => dtype,
        };
        x.check(OP, "x", Kind::Number(of), tokens * cols, 16)?;
        out.check(OP, "out", Kind::Number(dtype), tokens * cols, 16)?;
        weight.check(OP, "weight", Kind::F32, cols, 16)?;
        Ok(Plan {
            tokens: grid.unsigned_abs(),
            cols: u32::try_from(cols).unwrap_or(u32::MAX),
            dtype,
            width,
        })
    }

    fn launch(self, gpu: &Gpu, name: &str, arguments: Arguments, eps: f32) -> Result<(), GpuError> {
        let kernel = format!("{name}_{}_{}", Kind::suffix(self.dtype), self.width);
        gpu.launch(&Launch {
            op: OP,
            kernel: &kernel,
            grid: [self.tokens, 1, 1],
            threads: threads(self.width),
            shared_bytes: 0,
            arguments: arguments.u32(self.cols).f32(eps),
        })
    }
}
