//! The card's side of silu_mul: one kernel for both forms, and what is refused.

use plimsoll_planner::Dtype;

use crate::gpu::{Arguments, Gpu, GpuError, Kind, Launch, Tensor, TensorMut};

const OP: &str = "silu_mul";
/// As in silu_mul.cu.
const THREADS: u32 = 256;
const GROUP: usize = 8;
/// Columns whose number fits the kernel's 32-bit arithmetic with room.
const MOST_COLUMNS: usize = 1 << 24;

/// The shape of one call: rows of two halves, `cols` columns used of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub tokens: usize,
    pub cols: usize,
    /// Columns from gate to up: a multiple of 8, at least `cols`.
    pub half: usize,
}

/// Writes `out` (`[tokens, cols]`) from `gate_up` (`[tokens, 2 * half]`), both of one float type.
///
/// # Errors
/// When the tensors do not fit the shape, or no kernel takes it.
pub fn run(
    gpu: &Gpu,
    shape: Shape,
    gate_up: Tensor<'_>,
    out: &TensorMut<'_>,
) -> Result<(), GpuError> {
    let dtype = shape.check(gate_up)?;
    let kind = Kind::Number(dtype);
    out.check(OP, "out", kind, shape.tokens * shape.cols, 16)?;
    let arguments = Arguments::new().write(out).read(gate_up);
    shape.launch(gpu, dtype, arguments, shape.cols)
}

/// Writes the result over the gate columns.
///
/// # Errors
/// As [`run`].
pub fn run_in_place(gpu: &Gpu, shape: Shape, gate_up: &TensorMut<'_>) -> Result<(), GpuError> {
    let dtype = shape.check(gate_up.as_tensor())?;
    let arguments = Arguments::new().write(gate_up).write(gate_up);
    shape.launch(gpu, dtype, arguments, 2 * shape.half)
}

impl Shape {
    fn check(self, gate_up: Tensor<'_>) -> Result<Dtype, GpuError> {
        let unsupported = |what, value: usize, supported| GpuError::Unsupported {
            op: OP,
            what,
            value: value as u64,
            supported,
        };
        if self.half > MOST_COLUMNS || !self.half.is_multiple_of(GROUP) {
            let supported = format!("multiples of {GROUP} up to {MOST_COLUMNS}");
            return Err(unsupported("half", self.half, supported));
        }
        if self.cols > self.half {
            let supported = format!("at most half a row, {}", self.half);
            return Err(unsupported("cols", self.cols, supported));
        }
        if i32::try_from(self.tokens).is_err() {
            let supported = format!("at most {}", i32::MAX);
            return Err(unsupported("tokens", self.tokens, supported));
        }
        let Some(dtype) = gate_up.dtype() else {
            return Err(GpuError::Shape {
                op: OP,
                what: "gate_up",
                has: format!("{:?}", gate_up.kind()),
                needs: "floats".to_owned(),
            });
        };
        let count = self.tokens * 2 * self.half;
        gate_up.check(OP, "gate_up", gate_up.kind(), count, 16)?;
        Ok(dtype)
    }

    fn launch(
        self,
        gpu: &Gpu,
        dtype: Dtype,
        arguments: Arguments,
        out_stride: usize,
    ) -> Result<(), GpuError> {
        let small = |size: usize| u32::try_from(size).unwrap_or(u32::MAX); // `check` bounded them
        let per_block = THREADS as usize * GROUP;
        gpu.launch(&Launch {
            op: OP,
            kernel: &format!("silu_mul_{}", Kind::suffix(dtype)),
            grid: [small(self.tokens), small(self.cols.div_ceil(per_block)), 1],
            threads: THREADS,
            shared_bytes: 0,
            arguments: arguments
                .u32(small(self.cols))
                .u32(small(self.half))
                .u32(small(out_stride)),
        })
    }
}
