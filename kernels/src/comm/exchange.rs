//! `Exchange`: the memory that a rank shows to its group, and gives back between collectives.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use plimsoll_planner::Bytes;

use crate::device::{Buffer, DeviceError};
use crate::pool::Pool;

/// A rank's exchange buffer. Its rank commits and discards the pages; its group reads them.
///
/// While the rank's own member is in a collective, other ranks may read the pages, so they cannot
/// be changed then. When that collective has ended well, every rank has read what it needed, and
/// no rank can read on before this one takes part in the next: the pages are the rank's own. When
/// it ended in a failure, others may still be reading: the pages stay as long as the group does.
#[derive(Clone, Debug)]
pub struct Exchange {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    start: *mut u8,
    pages: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    buffer: Buffer,
    /// Other ranks may read the buffer.
    lent: bool,
}

// SAFETY: `start` points into the mapping that `buffer` owns, at an address that never changes;
// `Exchange` and `Member` say who accesses it when.
unsafe impl Send for Shared {}
// SAFETY: as above; everything else is behind the mutex.
unsafe impl Sync for Shared {}

impl Exchange {
    pub fn new(buffer: Buffer) -> Exchange {
        let shared = Shared {
            start: buffer.start(),
            pages: Mutex::new(Held {
                buffer,
                lent: false,
            }),
        };
        Exchange {
            shared: Arc::new(shared),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Held) -> T) -> T {
        let pages = self.shared.pages.lock();
        act(&mut pages.unwrap_or_else(PoisonError::into_inner))
    }

    pub fn address(&self) -> usize {
        self.shared.start.addr()
    }

    pub fn capacity(&self) -> Bytes {
        self.with(|held| held.buffer.capacity())
    }

    pub fn committed(&self) -> Bytes {
        self.with(|held| held.buffer.committed())
    }

    /// See [`Buffer::missing`].
    ///
    /// # Panics
    /// As there.
    pub fn missing(&self, range: &Range<usize>) -> Bytes {
        self.with(|held| held.buffer.missing(range))
    }

    /// See [`Buffer::commit_poisoned`].
    ///
    /// # Errors
    /// As there, and [`DeviceError::Busy`] when other ranks may read.
    pub fn commit_poisoned(&self, pool: &Pool, range: Range<usize>) -> Result<(), DeviceError> {
        self.with(|held| {
            held.idle()?;
            held.buffer.commit_poisoned(pool, range)
        })
    }

    /// See [`Buffer::discard`].
    ///
    /// # Errors
    /// As there, and [`DeviceError::Busy`] when other ranks may read.
    pub fn discard(&self, pool: &Pool, range: Range<usize>) -> Result<(), DeviceError> {
        self.with(|held| {
            held.idle()?;
            held.buffer.discard(pool, range)
        })
    }

    /// Bytes, from the start, that have memory: what a group may use.
    pub(super) fn usable(&self) -> usize {
        self.with(|held| match held.buffer.committed_ranges() {
            [first, ..] if first.start == 0 => first.end,
            _ => 0,
        })
    }

    /// Lends the first `bytes` to the group, until [`Exchange::take_back`].
    ///
    /// # Panics
    /// When they are not committed, or lent already: our mistake.
    pub(super) fn lend(&self, bytes: usize) -> *mut u8 {
        self.with(|held| {
            assert!(!held.lent, "an exchange buffer takes part twice");
            let usable = held.buffer.range::<u8>(0, bytes);
            assert_eq!(usable.len(), bytes);
            held.lent = true;
        });
        self.shared.start
    }

    /// The collective ended well: no rank reads any more.
    pub(super) fn take_back(&self) {
        self.with(|held| held.lent = false);
    }

    /// Where the bytes are that this rank lends.
    pub(super) fn start(&self) -> *mut u8 {
        self.shared.start
    }
}

impl Held {
    fn idle(&self) -> Result<(), DeviceError> {
        match self.lent {
            false => Ok(()),
            true => Err(DeviceError::Busy {
                bytes: self.buffer.committed(),
            }),
        }
    }
}
