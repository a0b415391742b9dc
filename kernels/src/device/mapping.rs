//! `Mapping`: address space from the kernel, and the calls that put memory behind it.

use std::io;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::Pages;
use super::faults::Faults;

const HUGE_PAGE_BYTES: usize = 2 << 20;

/// One reservation of address space, unmapped when it is dropped. A page on either side is never
/// opened, so that the kernel cannot merge two mappings into one entry of its figures.
#[derive(Debug)]
pub(super) struct Mapping {
    address: usize,
    mapped: usize,
    start: NonNull<u8>,
    len: usize,
    faults: Option<Arc<Faults>>,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this mapping was made by `reserve`, and nothing is left that points into it:
        // views borrow the buffer that owns this.
        let code = unsafe { libc::munmap(at(self.address), self.mapped) };
        debug_assert_eq!(code, 0, "munmap failed");
    }
}

// SAFETY: the mapping owns its range alone (nothing clones it), and the range is plain memory that
// no thread is tied to.
unsafe impl Send for Mapping {}
// SAFETY: through a shared reference the range can only be read; the calls that change pages are
// thread-safe, and their callers borrow the buffer uniquely.
unsafe impl Sync for Mapping {}

/// Bytes of a small page of this machine.
pub(super) fn page_bytes() -> usize {
    // SAFETY: sysconf has no preconditions.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(4096)
}

fn at(address: usize) -> *mut libc::c_void {
    ptr::with_exposed_provenance_mut(address)
}

impl Mapping {
    /// Reserves `len` bytes (rounded up to a page, one at least); nothing is open.
    pub(super) fn reserve(
        len: u64,
        pages: Pages,
        faults: Option<Arc<Faults>>,
    ) -> io::Result<Mapping> {
        let page = page_bytes();
        let alignment = match pages {
            Pages::Small => page,
            Pages::Huge => HUGE_PAGE_BYTES,
        };
        let too_long = || io::Error::from_raw_os_error(libc::ENOMEM);
        let len = usize::try_from(len)
            .ok()
            .and_then(|bytes| bytes.max(1).checked_next_multiple_of(page))
            .ok_or_else(too_long)?;
        if let Some(faults) = &faults {
            faults.reserve(len)?;
        }
        // A page in front, room to move the start up to the alignment, a page behind.
        let mapped = len.checked_add(alignment + page).ok_or_else(too_long)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory
        // that anyone owns.
        let address = unsafe { libc::mmap(ptr::null_mut(), mapped, libc::PROT_NONE, flags, -1, 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        if pages == Pages::Huge {
            // SAFETY: the range is the mapping made above. A kernel without huge pages refuses,
            // and small pages are as correct.
            unsafe { libc::madvise(address, mapped, libc::MADV_HUGEPAGE) };
        }
        let address = address.expose_provenance();
        let skipped = (address + page).next_multiple_of(alignment) - address;
        // SAFETY: `skipped` is at most `alignment` (the mapping starts at a page), so `len` bytes
        // and a page follow the start inside the mapping.
        let start = unsafe { at(address).cast::<u8>().add(skipped) };
        Ok(Mapping {
            address,
            mapped,
            start: NonNull::new(start).ok_or_else(too_long)?,
            len,
            faults,
        })
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn address_of(&self, part: &Range<usize>) -> *mut libc::c_void {
        let page = page_bytes();
        assert!(
            part.end <= self.len
                && part.start <= part.end
                && part.start.is_multiple_of(page)
                && part.end.is_multiple_of(page),
            "{part:?} are no pages of {} bytes",
            self.len
        );
        at(self.start.as_ptr().expose_provenance() + part.start)
    }

    /// Lets pages be read and written; those that were open already stay as they are.
    pub(super) fn open(&self, part: &Range<usize>) -> io::Result<()> {
        let address = self.address_of(part);
        let open = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: whole pages of this mapping.
        io_result(unsafe { libc::mprotect(address, part.len(), open) })
    }

    /// Keeps pages from being read and written. What is behind them stays.
    pub(super) fn close(&self, part: &Range<usize>) -> io::Result<()> {
        let address = self.address_of(part);
        // SAFETY: whole pages of this mapping; the caller borrows its buffer uniquely, so nobody
        // can be reading them.
        io_result(unsafe { libc::mprotect(address, part.len(), libc::PROT_NONE) })
    }

    /// Puts memory behind open pages. What lies there already stays.
    pub(super) fn populate(&self, part: &Range<usize>) -> io::Result<()> {
        if let Some(faults) = &self.faults {
            faults.commit()?;
        }
        let address = self.address_of(part);
        // SAFETY: the pages are open; populating keeps the contents of present ones.
        let populated = unsafe { libc::madvise(address, part.len(), libc::MADV_POPULATE_WRITE) };
        let Err(error) = io_result(populated) else {
            return Ok(());
        };
        if error.raw_os_error() != Some(libc::EINVAL) {
            return Err(error);
        }
        // Linux before 5.14 cannot populate on request: touch every page without changing it.
        for offset in (0..part.len()).step_by(page_bytes()) {
            // SAFETY: `offset` is inside the part, whose pages are open.
            let byte = unsafe { address.cast::<u8>().add(offset) };
            // SAFETY: the byte is mapped writable, and nobody else accesses it: the caller
            // borrows the buffer uniquely and hands out no part twice.
            let byte = unsafe { AtomicU8::from_ptr(byte) };
            byte.fetch_add(0, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Takes the memory behind pages away; open ones read as zeros afterwards.
    pub(super) fn drain(&self, part: &Range<usize>) -> io::Result<()> {
        if let Some(faults) = &self.faults {
            faults.discard()?;
        }
        let address = self.address_of(part);
        // SAFETY: whole pages of this mapping, whose buffer the caller borrows uniquely, so nobody
        // can be reading them.
        io_result(unsafe { libc::madvise(address, part.len(), libc::MADV_DONTNEED) })
    }

    /// Pages that are in memory now, open or not.
    pub(super) fn resident_pages(&self) -> io::Result<usize> {
        const PAGES_PER_CALL: usize = 4096;
        let mut flags = [0u8; PAGES_PER_CALL];
        let mut resident = 0;
        for offset in (0..self.len).step_by(PAGES_PER_CALL * page_bytes()) {
            let part = offset..(offset + PAGES_PER_CALL * page_bytes()).min(self.len);
            let address = self.address_of(&part);
            let pages = part.len() / page_bytes();
            // SAFETY: the range is mapped, and `flags` has a byte for each of its pages.
            io_result(unsafe { libc::mincore(address, part.len(), flags.as_mut_ptr().cast()) })?;
            resident += flags[..pages].iter().filter(|flag| *flag & 1 == 1).count();
        }
        Ok(resident)
    }
}

fn io_result(code: libc::c_int) -> io::Result<()> {
    match code {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
