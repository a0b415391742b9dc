//! What a test double refuses: nothing, until a test says so.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

#[derive(Debug)]
pub(super) struct Faults {
    /// Pieces that may still be committed, one after the other.
    pub(super) commits: AtomicUsize,
    pub(super) refuses_discards: AtomicBool,
    /// Bytes of the longest reservation.
    pub(super) longest: AtomicUsize,
}

impl Default for Faults {
    fn default() -> Faults {
        Faults {
            commits: AtomicUsize::new(usize::MAX),
            refuses_discards: AtomicBool::new(false),
            longest: AtomicUsize::new(usize::MAX),
        }
    }
}

impl Faults {
    pub(super) fn reserve(&self, bytes: usize) -> io::Result<()> {
        ended(bytes <= self.longest.load(SeqCst))
    }

    pub(super) fn commit(&self) -> io::Result<()> {
        let less = |left: usize| left.checked_sub(1);
        ended(self.commits.fetch_update(SeqCst, SeqCst, less).is_ok())
    }

    pub(super) fn discard(&self) -> io::Result<()> {
        ended(!self.refuses_discards.load(SeqCst))
    }
}

fn ended(allowed: bool) -> io::Result<()> {
    match allowed {
        true => Ok(()),
        false => Err(io::Error::from_raw_os_error(libc::ENOMEM)),
    }
}
