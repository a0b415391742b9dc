//! gpu: a device that runs kernels by name, its memory, and the errors of both. Two of them: a card
//! through the CUDA driver (`driver`), and the emulator that runs the same `.cu` files on this
//! machine's processor for tests (`emulator`). Ops' launchers (`<op>/cuda.rs`) know neither.
//!
//! A launcher checks everything that its kernel takes for granted and answers with a typed error
//! before the launch; it never launches what the kernel does not support.

mod arguments;
#[cfg(feature = "driver")]
#[expect(unsafe_code, reason = "the CUDA driver's functions")]
pub mod driver;
mod error;
#[cfg(feature = "driver")]
pub mod image;
mod tensor;

#[cfg(feature = "gpu-tests")]
#[expect(
    unsafe_code,
    reason = "kernels compiled as a shared library are called by address"
)]
pub mod emulator;
#[cfg(feature = "gpu-tests")]
pub mod trial;

use std::rc::Rc;

pub use arguments::Arguments;
pub use error::GpuError;
pub use tensor::{Kind, Memory, Tensor, TensorMut};

/// What a card can do, as far as launchers ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// As the driver names it.
    pub name: String,
    /// 90 for compute capability 9.0.
    pub capability: u32,
    pub multiprocessors: u32,
    /// The most shared memory that one block may ask for.
    pub shared_bytes_per_block: u32,
}

/// One kernel, how many of it, and with what.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The op whose image has the kernel: the folder's name.
    pub op: &'static str,
    pub kernel: &'a str,
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
    pub arguments: Arguments,
}

/// What a device does for [`Gpu`]. Launches are in order; `read` and `write` wait for them.
pub trait Backend: std::fmt::Debug {
    fn card(&self) -> &Card;

    /// Memory aligned to 256 bytes.
    ///
    /// # Errors
    /// When the device has none left.
    fn allocate(&self, bytes: usize) -> Result<u64, GpuError>;

    /// Gives memory back that `allocate` gave.
    fn free(&self, address: u64);

    /// # Errors
    /// When the device fails.
    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), GpuError>;

    /// Bytes of an allocation count as never written, on a device that tells kernels that read them
    /// before they write them.
    fn forget(&self, _address: u64, _bytes: usize) {}

    /// # Errors
    /// When the device, or a launch before, fails.
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), GpuError>;

    /// # Errors
    /// When there is no such kernel for this card, or the device refuses the launch.
    fn launch(&self, launch: &Launch<'_>) -> Result<(), GpuError>;

    /// Waits for all launches.
    ///
    /// # Errors
    /// When one of them failed.
    fn synchronize(&self) -> Result<(), GpuError>;
}

/// A device as launchers and tests see it: one in-order stream, used from one thread.
#[derive(Clone, Debug)]
pub struct Gpu {
    backend: Rc<dyn Backend>,
}

impl Gpu {
    pub fn new(backend: Rc<dyn Backend>) -> Gpu {
        Gpu { backend }
    }

    pub fn card(&self) -> &Card {
        self.backend.card()
    }

    /// Memory of `bytes`; what it holds is undefined (the emulator poisons it).
    ///
    /// # Errors
    /// When the device has none left.
    pub fn allocate(&self, bytes: usize) -> Result<Memory, GpuError> {
        Memory::new(&self.backend, bytes)
    }

    /// # Errors
    /// As [`Backend::launch`]; a grid of no blocks launches nothing.
    pub fn launch(&self, launch: &Launch<'_>) -> Result<(), GpuError> {
        if launch.grid.contains(&0) {
            return Ok(());
        }
        self.backend.launch(launch)
    }

    /// # Errors
    /// When a launch failed.
    pub fn synchronize(&self) -> Result<(), GpuError> {
        self.backend.synchronize()
    }
}
