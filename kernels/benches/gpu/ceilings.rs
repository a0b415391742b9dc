//! What the card gives at best, measured in the same run: bytes copied, bf16 products.

use std::rc::Rc;

use plimsoll_kernels::gpu::driver::Cuda;
use plimsoll_kernels::gpu::{GpuError, Kind};

use crate::measure::{self, Case};
use crate::peers::Peers;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Ceilings {
    /// Bytes per second, read and written ones, of a device-to-device copy of 1 GiB.
    pub(crate) copy: f64,
    /// Operations per second of PyTorch's bf16 product of 8192 x 8192 matrices; None without PyTorch.
    pub(crate) matmul: Option<f64>,
}

pub(crate) fn measure(cuda: &Rc<Cuda>, peers: &Peers) -> Result<Ceilings, GpuError> {
    const BYTES: usize = 1 << 30;
    let from = cuda.gpu().allocate(BYTES)?;
    let mut to = cuda.gpu().allocate(BYTES)?;
    let to = to.view_mut(Kind::U8);
    let case = Case {
        name: "ceiling/copy".to_owned(),
        bytes: 2.0 * BYTES as f64,
        operations: 0.0,
        run: Box::new(|_| cuda.copy(from.view(Kind::U8), &to)),
        prepare: None,
    };
    let copy = case.bytes / measure::seconds(cuda, &case)?;
    let side = 8192.0_f64;
    let matmul = peers
        .seconds("ceiling/matmul")
        .map(|seconds| 2.0 * side.powi(3) / seconds);
    Ok(Ceilings { copy, matmul })
}
