//! Devices: who reserves address space, in which granules, and how much memory there is.
//!
//! Addresses never change for the life of a [`Buffer`]; only the pages behind them come and go
//! (`commit`, `discard`). The arenas of the sidecar are the only callers.

#[expect(unsafe_code, reason = "committed bytes of a mapping as slices")]
mod buffer;
mod cpu;
mod faults;
mod faulty;
#[expect(
    unsafe_code,
    reason = "address space: mmap, mprotect, madvise, mincore"
)]
mod mapping;
mod ranges;
#[expect(unsafe_code, reason = "bytes as plain numbers")]
mod view;

#[cfg(test)]
mod tests;

use std::io;

use plimsoll_planner::Bytes;

pub use buffer::Buffer;
pub use cpu::Cpu;
pub use faulty::Faulty;
pub use view::Part;

/// Memory is committed and given back in pieces of this size, each by one thread: a huge page, and
/// little enough to stay in a core's cache between the kernel's zeros and the poison.
pub const PIECE_BYTES: usize = 2 << 20;

/// The page size asked for behind a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    Small,
    /// Huge pages where the kernel has them to give (`madvise`), small ones otherwise.
    Huge,
}

/// A place to compute with memory of its own.
pub trait Device: Send + Sync {
    /// The name in status and logs, e.g. `cpu`.
    fn name(&self) -> &str;

    /// Commits and accounts are multiples of this.
    fn granularity(&self) -> Bytes;

    /// Memory that all users of the device share, as the machine (or its container) bounds it.
    ///
    /// # Errors
    /// When the machine does not say.
    fn total_memory(&self) -> Result<Bytes, DeviceError>;

    /// The most that may ever be shared: a container's bound may be another one by then.
    ///
    /// # Errors
    /// As [`Device::total_memory`].
    fn most_memory(&self) -> Result<Bytes, DeviceError> {
        self.total_memory()
    }

    /// Reserves address space, without memory behind it, for at most `max` bytes (rounded up to
    /// the granularity).
    ///
    /// # Errors
    /// When the address space is refused.
    fn reserve(&self, max: Bytes, pages: Pages) -> Result<Buffer, DeviceError>;
}

/// What the machine refused.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("cannot reserve {bytes} of address space")]
    Reserve { bytes: Bytes, source: io::Error },
    #[error("cannot commit {bytes} of memory")]
    Commit { bytes: Bytes, source: io::Error },
    #[error("cannot give {bytes} of memory back")]
    Discard { bytes: Bytes, source: io::Error },
    #[error("{bytes} of an exchange buffer may still be read by other ranks")]
    Busy { bytes: Bytes },
    #[error("cannot read how much of {bytes} is resident")]
    Resident { bytes: Bytes, source: io::Error },
    #[error("cannot read the machine's memory from {path}")]
    TotalMemory {
        path: &'static str,
        source: io::Error,
    },
}
