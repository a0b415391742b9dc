//! `Faulty`: a test double, the processor's memory with refusals on request.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use plimsoll_planner::Bytes;

use super::faults::Faults;
use super::mapping::Mapping;
use super::{Buffer, Cpu, Device, DeviceError, Pages};

/// Host memory that is refused when a test says so. Its buffers are real: what was given is there.
#[derive(Clone, Debug, Default)]
pub struct Faulty {
    faults: Arc<Faults>,
}

impl Faulty {
    /// Refuses every commit after `count` more pieces of at most [`super::PIECE_BYTES`].
    pub fn commits_left(&self, count: usize) {
        self.faults.commits.store(count, SeqCst);
    }

    /// Whether memory cannot be given back.
    pub fn refuse_discards(&self, refuse: bool) {
        self.faults.refuses_discards.store(refuse, SeqCst);
    }

    /// Refuses reservations of more than `bytes`, as `ulimit -v` does.
    pub fn longest_reservation(&self, bytes: usize) {
        self.faults.longest.store(bytes, SeqCst);
    }
}

impl Device for Faulty {
    fn name(&self) -> &'static str {
        "faulty"
    }

    fn granularity(&self) -> Bytes {
        Cpu.granularity()
    }

    fn total_memory(&self) -> Result<Bytes, DeviceError> {
        Cpu.total_memory()
    }

    fn reserve(&self, max: Bytes, pages: Pages) -> Result<Buffer, DeviceError> {
        match Mapping::reserve(max.get(), pages, Some(Arc::clone(&self.faults))) {
            Ok(mapping) => Ok(Buffer::over(mapping)),
            Err(source) => Err(DeviceError::Reserve { bytes: max, source }),
        }
    }
}
