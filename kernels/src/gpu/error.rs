//! What a launch can end in.

use plimsoll_planner::Dtype;

/// Why a kernel was not launched, or what became of it.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// A size that no kernel of the op supports.
    #[error("{op}: {what} is {value}; the kernel takes {supported}")]
    Unsupported {
        op: &'static str,
        what: &'static str,
        value: u64,
        supported: String,
    },
    /// Types that no kernel of the op supports.
    #[error("{op}: {what} is {dtype}; the kernel takes {supported}")]
    Dtype {
        op: &'static str,
        what: &'static str,
        dtype: Dtype,
        supported: &'static str,
    },
    /// Memory that is not what the sizes say.
    #[error("{op}: {what} has {has}, needs {needs}")]
    Shape {
        op: &'static str,
        what: &'static str,
        has: String,
        needs: String,
    },
    /// Built where nvcc was not found.
    #[error("{op}: built without kernels; install nvcc (kernels/setup-nvcc) and build again")]
    NoKernels { op: &'static str },
    /// The image was made from other sources than this program.
    #[error(
        "{op}: the embedded kernels were made from sources {found}, this program from {expected}; build again"
    )]
    Stale {
        op: &'static str,
        found: String,
        expected: String,
    },
    /// No code for this card in the image.
    #[error("{op}: no code for compute capability {capability} among {targets}")]
    NoCode {
        op: &'static str,
        capability: u32,
        targets: String,
    },
    /// The driver cannot load what a newer nvcc made.
    #[error(
        "the driver is for CUDA {driver}, the embedded kernels were made by CUDA {release}; install a \
         driver for CUDA {needs} or newer"
    )]
    OldDriver {
        driver: String,
        release: String,
        needs: u32,
    },
    /// This machine has no usable driver or card.
    #[error("no CUDA device: {reason}")]
    NoDevice { reason: String },
    #[error("{bytes} bytes of device memory are not to be had")]
    OutOfMemory { bytes: usize },
    /// The driver's own words.
    #[error("{call}: {reason}")]
    Driver { call: &'static str, reason: String },
    /// What the emulator found wrong with a kernel.
    #[error("emulator: {0}")]
    Emulator(String),
}
