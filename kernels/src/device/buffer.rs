//! `Buffer`: a unique range of reserved address space whose pages are committed and discarded.

use std::io;
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use plimsoll_planner::Bytes;

use super::{DeviceError, Pages};
use crate::element::Element;

const HUGE_PAGE_BYTES: usize = 2 << 20;

/// One mapping, unmapped when the last buffer cut from it is dropped.
#[derive(Debug)]
struct Mapping {
    address: usize,
    len: usize,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this mapping was made by `Buffer::reserve`, and no buffer is left to point into
        // it, because each holds the `Arc` whose last drop runs this.
        let code = unsafe {
            libc::munmap(
                std::ptr::with_exposed_provenance_mut(self.address),
                self.len,
            )
        };
        debug_assert_eq!(code, 0, "munmap failed");
    }
}

/// An owned, unique range of reserved address space. A prefix of it, `committed` bytes long, has
/// memory behind it and may be viewed as numbers; viewing more panics. The address never changes.
///
/// Fresh pages read as zeros. Buffers cut by [`Buffer::split_to`] may share a page at the cut:
/// committing rounds outwards to pages, discarding rounds inwards, so a neighbour never loses a
/// byte.
#[derive(Debug)]
pub struct Buffer {
    start: NonNull<u8>,
    len: usize,
    committed: usize,
    mapping: Arc<Mapping>,
}

// SAFETY: a buffer is the only owner of its range (`split_to` halves it, nothing clones it), and
// the range is plain memory that no thread is tied to.
unsafe impl Send for Buffer {}
// SAFETY: through a shared reference the range can only be read.
unsafe impl Sync for Buffer {}

/// Bytes of a small page of this machine.
pub(super) fn page_bytes() -> usize {
    // SAFETY: sysconf has no preconditions.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(4096)
}

impl Buffer {
    /// Reserves at most `max` bytes, rounded up to a page; nothing is committed.
    pub(super) fn reserve(max: Bytes, pages: Pages) -> Result<Buffer, DeviceError> {
        let refused = |source| DeviceError::Reserve { bytes: max, source };
        let wanted = usize::try_from(max.get())
            .ok()
            .and_then(|bytes| bytes.max(1).checked_next_multiple_of(page_bytes()));
        // The surplus lets the start be moved up to a huge page's boundary.
        let surplus = if pages == Pages::Huge {
            HUGE_PAGE_BYTES
        } else {
            0
        };
        let mapped = wanted.and_then(|bytes| bytes.checked_add(surplus));
        let (Some(wanted), Some(mapped)) = (wanted, mapped) else {
            return Err(refused(io::Error::from_raw_os_error(libc::ENOMEM)));
        };
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory
        // that anyone owns.
        let address =
            unsafe { libc::mmap(std::ptr::null_mut(), mapped, libc::PROT_NONE, flags, -1, 0) };
        if address == libc::MAP_FAILED {
            return Err(refused(io::Error::last_os_error()));
        }
        let mapping = Arc::new(Mapping {
            address: address.expose_provenance(),
            len: mapped,
        });
        if pages == Pages::Huge {
            // SAFETY: the range is the mapping made above. A kernel without huge pages refuses,
            // and small pages are as correct.
            unsafe { libc::madvise(address, mapped, libc::MADV_HUGEPAGE) };
        }
        let alignment = if pages == Pages::Huge {
            HUGE_PAGE_BYTES
        } else {
            page_bytes()
        };
        let skipped = address.cast::<u8>().align_offset(alignment);
        // SAFETY: `skipped` is below `surplus`, so the start stays inside the mapping.
        let start = unsafe { address.cast::<u8>().add(skipped) };
        let start = NonNull::new(start).ok_or_else(|| refused(io::Error::last_os_error()))?;
        Ok(Buffer {
            start,
            len: wanted,
            committed: 0,
            mapping,
        })
    }

    /// Cuts the first `len` bytes off into a buffer of their own, with their committed part.
    ///
    /// # Panics
    /// When the buffer is shorter than `len`.
    pub fn split_to(&mut self, len: Bytes) -> Buffer {
        let len = usize::try_from(len.get()).unwrap_or(usize::MAX);
        assert!(
            len <= self.len,
            "cannot cut {len} bytes off a buffer of {}",
            self.len
        );
        let front = Buffer {
            start: self.start,
            len,
            committed: self.committed.min(len),
            mapping: Arc::clone(&self.mapping),
        };
        // SAFETY: `len` is at most this buffer's length, so the new start is at most one past the
        // end of its range.
        self.start = unsafe { self.start.add(len) };
        self.len -= len;
        self.committed = self.committed.saturating_sub(len);
        front
    }

    /// The address of the first byte; the same for as long as the buffer lives.
    pub fn address(&self) -> usize {
        self.start.as_ptr().addr()
    }

    /// Bytes of address space.
    pub fn capacity(&self) -> Bytes {
        Bytes::measured(self.len as u64)
    }

    /// Bytes, from the start, that have memory behind them.
    pub fn committed(&self) -> Bytes {
        Bytes::measured(self.committed as u64)
    }

    /// Commits all of it.
    ///
    /// # Errors
    /// As [`Buffer::commit_to`].
    pub fn commit(&mut self) -> Result<(), DeviceError> {
        self.commit_to(self.capacity())
    }

    /// Commits the first `len` bytes: their pages are there, zeroed unless they were before, when
    /// this returns. Committing less than is committed already does nothing.
    ///
    /// # Errors
    /// When the machine has no memory to give. (A container's limit is not reported here: the
    /// kernel ends the container instead. Plans keep below it.)
    ///
    /// # Panics
    /// When `len` passes the capacity.
    pub fn commit_to(&mut self, len: Bytes) -> Result<(), DeviceError> {
        let len = usize::try_from(len.get()).unwrap_or(usize::MAX);
        assert!(
            len <= self.len,
            "cannot commit {len} bytes of a buffer of {}",
            self.len
        );
        if len <= self.committed {
            return Ok(());
        }
        let first = (self.address() + self.committed) / page_bytes() * page_bytes();
        let end = (self.address() + len).next_multiple_of(page_bytes());
        populate(first, end - first).map_err(|source| DeviceError::Commit {
            bytes: Bytes::measured((end - first) as u64),
            source,
        })?;
        self.committed = len;
        Ok(())
    }

    /// Gives the pages back and keeps the address. Afterwards nothing is committed.
    ///
    /// # Errors
    /// When the kernel refuses; the buffer then stays as it was.
    pub fn discard(&mut self) -> Result<(), DeviceError> {
        let first = self.address().next_multiple_of(page_bytes());
        let end = (self.address() + self.len) / page_bytes() * page_bytes();
        if end > first && self.committed > 0 {
            release(first, end - first).map_err(|source| DeviceError::Discard {
                bytes: Bytes::measured((end - first) as u64),
                source,
            })?;
        }
        self.committed = 0;
        Ok(())
    }

    /// Poisons the committed part, so that memory read before it was filled shows.
    pub fn poison(&mut self) {
        let len = self.committed;
        crate::poison::run(self.range_mut::<u8>(0, len));
    }

    /// Bytes of the pages, in this buffer's range, that are in memory now.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn resident(&self) -> Result<Bytes, DeviceError> {
        let first = self.address() / page_bytes() * page_bytes();
        let end = (self.address() + self.len).next_multiple_of(page_bytes());
        let pages = resident_pages(first, end - first).map_err(|source| DeviceError::Resident {
            bytes: self.capacity(),
            source,
        })?;
        Ok(Bytes::measured((pages * page_bytes()) as u64))
    }

    /// The whole buffer as numbers (a tail shorter than one number is left out).
    ///
    /// # Panics
    /// When it is not all committed, or not aligned for `T`.
    pub fn as_slice<T: Element>(&self) -> &[T] {
        self.range(0, self.len / size_of::<T>())
    }

    /// The whole buffer as numbers to write.
    ///
    /// # Panics
    /// As [`Buffer::as_slice`].
    pub fn as_mut_slice<T: Element>(&mut self) -> &mut [T] {
        self.range_mut(0, self.len / size_of::<T>())
    }

    /// `count` numbers from byte `offset` on.
    ///
    /// # Panics
    /// When they are not all committed, or not aligned for `T`.
    pub fn range<T: Element>(&self, offset: usize, count: usize) -> &[T] {
        self.check::<T>(offset, count);
        // SAFETY: `check` proved that the range is committed (readable, initialised by the
        // kernel's zeros or by writes of plain numbers), and aligned; it lives as long as `self`
        // and is not written while `self` is borrowed shared.
        unsafe { slice::from_raw_parts(self.start.add(offset).cast().as_ptr(), count) }
    }

    /// `count` numbers from byte `offset` on, to write.
    ///
    /// # Panics
    /// As [`Buffer::range`].
    pub fn range_mut<T: Element>(&mut self, offset: usize, count: usize) -> &mut [T] {
        self.check::<T>(offset, count);
        // SAFETY: as in `range`; and the buffer is the only owner of its range and is borrowed
        // uniquely.
        unsafe { slice::from_raw_parts_mut(self.start.add(offset).cast().as_ptr(), count) }
    }

    fn check<T: Element>(&self, offset: usize, count: usize) {
        let end = count
            .checked_mul(size_of::<T>())
            .and_then(|bytes| bytes.checked_add(offset));
        assert!(
            end.is_some_and(|end| end <= self.committed),
            "{count} numbers at byte {offset} reach past the {} committed bytes",
            self.committed
        );
        let address = self.address() + offset;
        assert!(
            address.is_multiple_of(align_of::<T>()),
            "address {address:#x} is not aligned to {} bytes",
            align_of::<T>()
        );
    }
}

/// Opens the pages of a range and puts memory behind them.
fn populate(address: usize, len: usize) -> io::Result<()> {
    let pointer = std::ptr::with_exposed_provenance_mut::<libc::c_void>(address);
    // SAFETY: the range lies in a mapping that a living buffer holds, rounded to pages; opening
    // pages that are open already changes nothing.
    if unsafe { libc::mprotect(pointer, len, libc::PROT_READ | libc::PROT_WRITE) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the range is mapped writable; populating keeps the contents of present pages.
    if unsafe { libc::madvise(pointer, len, libc::MADV_POPULATE_WRITE) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() != Some(libc::EINVAL) {
        return Err(error);
    }
    // Linux before 5.14 cannot populate on request: touch every page without changing it.
    for offset in (0..len).step_by(page_bytes()) {
        let byte =
            std::ptr::with_exposed_provenance::<std::sync::atomic::AtomicU8>(address + offset);
        // SAFETY: the byte is mapped writable, and adding zero atomically changes nothing for a
        // neighbour that shares the page.
        unsafe { &*byte }.fetch_add(0, std::sync::atomic::Ordering::Relaxed);
    }
    Ok(())
}

/// Takes the memory behind a range of pages away and closes them.
fn release(address: usize, len: usize) -> io::Result<()> {
    let pointer = std::ptr::with_exposed_provenance_mut::<libc::c_void>(address);
    // SAFETY: whole pages inside the range of one buffer that is borrowed uniquely, so nobody
    // can be reading them.
    if unsafe { libc::madvise(pointer, len, libc::MADV_DONTNEED) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above; the pages stay reserved.
    if unsafe { libc::mprotect(pointer, len, libc::PROT_NONE) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn resident_pages(address: usize, len: usize) -> io::Result<usize> {
    const PAGES_PER_CALL: usize = 4096;
    let mut flags = [0u8; PAGES_PER_CALL];
    let mut resident = 0;
    for offset in (0..len).step_by(PAGES_PER_CALL * page_bytes()) {
        let part = (len - offset).min(PAGES_PER_CALL * page_bytes());
        let pointer = std::ptr::with_exposed_provenance_mut::<libc::c_void>(address + offset);
        // SAFETY: the range is mapped, and `flags` has a byte for each of its pages.
        if unsafe { libc::mincore(pointer, part, flags.as_mut_ptr().cast()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        resident += flags[..part / page_bytes()]
            .iter()
            .filter(|flag| *flag & 1 == 1)
            .count();
    }
    Ok(resident)
}
