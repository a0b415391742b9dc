//! `Buffer`: one reservation of address space, whose pages are committed and discarded by range.

use std::io;
use std::ops::Range;
use std::slice;
use std::sync::Mutex;
use std::sync::PoisonError;

use plimsoll_planner::Bytes;

use super::mapping::{Mapping, page_bytes};
use super::ranges::Ranges;
use super::view::{self, Part};
use super::{DeviceError, PIECE_BYTES};
use crate::element::Element;
use crate::poison;
use crate::pool::Pool;

/// A unique range of reserved address space. Parts of it are committed: they have memory behind
/// them and may be viewed as numbers; viewing anything else panics. The address never changes.
///
/// Ranges are in bytes from the start and end at pages. Fresh pages read as zeros.
#[derive(Debug)]
pub struct Buffer {
    mapping: Mapping,
    committed: Ranges,
}

impl Buffer {
    pub(super) fn over(mapping: Mapping) -> Buffer {
        Buffer {
            mapping,
            committed: Ranges::default(),
        }
    }

    /// The address of the first byte; the same for as long as the buffer lives.
    pub fn address(&self) -> usize {
        self.mapping.start().as_ptr().addr()
    }

    /// The first byte, for who shares the buffer between threads and says when who accesses it.
    pub(crate) fn start(&self) -> *mut u8 {
        self.mapping.start().as_ptr()
    }

    /// Bytes of address space.
    pub fn capacity(&self) -> Bytes {
        Bytes::measured(self.mapping.len() as u64)
    }

    /// Bytes that have memory behind them.
    pub fn committed(&self) -> Bytes {
        Bytes::measured(self.committed.total() as u64)
    }

    /// The parts that have memory behind them: they ascend and do not touch.
    pub fn committed_ranges(&self) -> &[Range<usize>] {
        self.committed.as_slice()
    }

    /// Bytes of `range` that are not committed: what committing it would take.
    ///
    /// # Panics
    /// As [`Buffer::commit`].
    pub fn missing(&self, range: &Range<usize>) -> Bytes {
        let gaps = self.committed.gaps(&self.checked(range));
        Bytes::measured(gaps.iter().map(ExactSizeIterator::len).sum::<usize>() as u64)
    }

    /// Puts memory behind a range; what is committed already stays as it is.
    ///
    /// # Errors
    /// When the machine does not give it. Nothing that was not committed before is then.
    ///
    /// # Panics
    /// When the range does not end at pages or passes the end.
    pub fn commit(&mut self, range: Range<usize>) -> Result<(), DeviceError> {
        self.take(&range, &in_turn, |_| ())
    }

    /// As [`Buffer::commit`], by all threads of a pool, and poisons what is new piece by piece
    /// while it is still in the processor's caches.
    ///
    /// # Errors
    /// As [`Buffer::commit`].
    ///
    /// # Panics
    /// As [`Buffer::commit`].
    pub fn commit_poisoned(&mut self, pool: &Pool, range: Range<usize>) -> Result<(), DeviceError> {
        self.take(&range, &|count, work| pool.run(count, work), poison::run)
    }

    /// Commits all of it.
    ///
    /// # Errors
    /// As [`Buffer::commit`].
    pub fn commit_all(&mut self) -> Result<(), DeviceError> {
        self.commit(0..self.mapping.len())
    }

    /// Gives the memory behind a range back, by all threads of a pool. What was not committed may
    /// be part of the range. A huge page that goes in part is not resident there any more, but
    /// the kernel keeps it whole, and charges a cgroup for it, until it splits it: where less than
    /// all is given back, ranges had better end at multiples of [`PIECE_BYTES`].
    ///
    /// # Errors
    /// When the machine does not take it. All that was committed still is; its contents are not
    /// to be relied on.
    ///
    /// # Panics
    /// As [`Buffer::commit`].
    pub fn discard(&mut self, pool: &Pool, range: Range<usize>) -> Result<(), DeviceError> {
        let parts = self.committed.parts(&self.checked(&range));
        let mut given = Ok(());
        for part in &parts {
            given = given.and_then(|()| self.mapping.close(part));
        }
        let drain = |piece: &Range<usize>| self.mapping.drain(piece);
        let given =
            given.and_then(|()| on_pieces(&parts, &|count, work| pool.run(count, work), drain));
        let Err(source) = given else {
            self.committed.remove(&range);
            return Ok(());
        };
        for part in &parts {
            self.reopen(part);
        }
        let bytes = Bytes::measured(range.len() as u64);
        Err(DeviceError::Discard { bytes, source })
    }

    /// Committed pages are open again after a discard that was refused.
    fn reopen(&mut self, part: &Range<usize>) {
        if self.mapping.open(part).is_err() {
            // Closed for good: views of it have to panic, not to fault.
            self.committed.remove(part);
        }
    }

    /// Commits the gaps of a range and hands every new piece to `fill`.
    fn take(
        &mut self,
        range: &Range<usize>,
        each: EachPiece<'_>,
        fill: impl Fn(&mut [u8]) + Sync,
    ) -> Result<(), DeviceError> {
        let gaps = self.committed.gaps(&self.checked(range));
        let mapping = &self.mapping;
        let start = Start(mapping.start().as_ptr());
        let mut taken = Ok(());
        for gap in &gaps {
            taken = taken.and_then(|()| mapping.open(gap));
        }
        let populate = |piece: &Range<usize>| {
            mapping.populate(piece)?;
            let first = start.at(piece.start);
            // SAFETY: the piece lies in the mapping, is open, and has memory; nobody else has a
            // view of it: it was not committed, `self` is borrowed uniquely, and no two pieces
            // overlap.
            fill(unsafe { slice::from_raw_parts_mut(first, piece.len()) });
            Ok(())
        };
        let taken = taken.and_then(|()| on_pieces(&gaps, each, populate));
        let Err(source) = taken else {
            self.committed.insert(range);
            return Ok(());
        };
        for gap in &gaps {
            // Nothing can be done about a second refusal; the first one is told.
            let _ = mapping.drain(gap);
            let _ = mapping.close(gap);
        }
        let bytes = Bytes::measured(range.len() as u64);
        Err(DeviceError::Commit { bytes, source })
    }

    fn checked(&self, range: &Range<usize>) -> Range<usize> {
        let page = page_bytes();
        assert!(
            range.start <= range.end
                && range.end <= self.mapping.len()
                && range.start.is_multiple_of(page)
                && range.end.is_multiple_of(page),
            "{range:?} is not whole pages of a buffer of {} bytes",
            self.mapping.len()
        );
        range.clone()
    }

    /// Poisons the committed parts, so that memory read before it was filled shows.
    pub fn poison(&mut self) {
        for part in self.committed.as_slice().to_vec() {
            poison::run(self.bytes_mut(&part));
        }
    }

    /// Bytes of the buffer that are in memory now.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn resident(&self) -> Result<Bytes, DeviceError> {
        match self.mapping.resident_pages() {
            Ok(pages) => Ok(Bytes::measured((pages * page_bytes()) as u64)),
            Err(source) => Err(DeviceError::Resident {
                bytes: self.capacity(),
                source,
            }),
        }
    }

    /// The whole buffer as numbers (a tail shorter than one number is left out).
    ///
    /// # Panics
    /// When it is not all committed, or not aligned for `T`.
    pub fn as_slice<T: Element>(&self) -> &[T] {
        self.range(0, self.mapping.len() / size_of::<T>())
    }

    /// The whole buffer as numbers to write.
    ///
    /// # Panics
    /// As [`Buffer::as_slice`].
    pub fn as_mut_slice<T: Element>(&mut self) -> &mut [T] {
        self.range_mut(0, self.mapping.len() / size_of::<T>())
    }

    /// `count` numbers from byte `offset` on.
    ///
    /// # Panics
    /// When they are not all committed, or not aligned for `T`.
    pub fn range<T: Element>(&self, offset: usize, count: usize) -> &[T] {
        let bytes = self.bytes(&bytes_of::<T>(offset, count));
        view::numbers(bytes, 0, count)
    }

    /// `count` numbers from byte `offset` on, to write.
    ///
    /// # Panics
    /// As [`Buffer::range`].
    pub fn range_mut<T: Element>(&mut self, offset: usize, count: usize) -> &mut [T] {
        let bytes = self.bytes_mut(&bytes_of::<T>(offset, count));
        view::numbers_mut(bytes, 0, count)
    }

    /// Several ranges of bytes at once, each to read and write.
    ///
    /// # Panics
    /// When they are not all committed, or two of them overlap.
    pub fn disjoint_mut<const N: usize>(&mut self, ranges: [Range<usize>; N]) -> [Part<'_>; N] {
        for (at, one) in ranges.iter().enumerate() {
            let overlaps = |other: &&Range<usize>| one.start < other.end && other.start < one.end;
            let other = ranges[..at].iter().find(overlaps);
            assert!(other.is_none(), "{one:?} overlaps {other:?}");
        }
        let base = self.mapping.start().as_ptr();
        ranges.map(|range| {
            let len = self.check(&range).len();
            let bytes: &mut [u8] = match len {
                0 => &mut [],
                // SAFETY: `check` proved that the range is committed; the buffer is borrowed
                // uniquely for as long as the parts live, and no two of them overlap.
                _ => unsafe { slice::from_raw_parts_mut(base.add(range.start), len) },
            };
            Part { bytes }
        })
    }

    fn bytes(&self, range: &Range<usize>) -> &[u8] {
        if self.check(range).is_empty() {
            return &[];
        }
        let start = self.mapping.start().as_ptr();
        // SAFETY: `check` proved that the range is committed: readable, and initialised by the
        // kernel's zeros or by writes of plain numbers. It lives as long as `self` and is not
        // written while `self` is borrowed shared.
        unsafe { slice::from_raw_parts(start.add(range.start), range.len()) }
    }

    fn bytes_mut(&mut self, range: &Range<usize>) -> &mut [u8] {
        if self.check(range).is_empty() {
            return &mut [];
        }
        let start = self.mapping.start().as_ptr();
        // SAFETY: as in `bytes`; and the buffer is the only owner of its range and is borrowed
        // uniquely.
        unsafe { slice::from_raw_parts_mut(start.add(range.start), range.len()) }
    }

    /// An empty range needs no memory.
    fn check<'a>(&self, range: &'a Range<usize>) -> &'a Range<usize> {
        assert!(
            range.is_empty() || self.committed.holds(range),
            "bytes {range:?} are not committed, {:?} are",
            self.committed.as_slice()
        );
        range
    }
}

fn bytes_of<T>(offset: usize, count: usize) -> Range<usize> {
    let end = count
        .checked_mul(size_of::<T>())
        .and_then(|bytes| bytes.checked_add(offset));
    let Some(end) = end else {
        panic!("{count} numbers at byte {offset} reach past all memory");
    };
    offset..end
}

/// The first byte of a mapping, for pieces of it on several threads.
#[derive(Clone, Copy)]
struct Start(*mut u8);

// SAFETY: an address; what is done with it says why it is sound.
unsafe impl Sync for Start {}

impl Start {
    fn at(&self, offset: usize) -> *mut u8 {
        self.0.wrapping_add(offset)
    }
}

/// Runs some work for each of so many pieces: on a pool, or in turn.
type EachPiece<'a> = &'a dyn Fn(usize, &(dyn Fn(usize) + Sync));

fn in_turn(count: usize, work: &(dyn Fn(usize) + Sync)) {
    (0..count).for_each(work);
}

/// Cuts `parts` into pieces and works on each, until one is refused.
fn on_pieces(
    parts: &[Range<usize>],
    each: EachPiece<'_>,
    work: impl Fn(&Range<usize>) -> io::Result<()> + Sync,
) -> io::Result<()> {
    let cut = |part: &Range<usize>| {
        let end = part.end;
        let pieces = part.clone().step_by(PIECE_BYTES);
        pieces.map(move |start| start..(start + PIECE_BYTES).min(end))
    };
    let pieces: Vec<Range<usize>> = parts.iter().flat_map(cut).collect();
    let refused = Mutex::new(None);
    each(pieces.len(), &|at| {
        let lock = || refused.lock().unwrap_or_else(PoisonError::into_inner);
        if lock().is_some() {
            return;
        }
        if let Err(error) = work(&pieces[at]) {
            *lock() = Some(error);
        }
    });
    let refused = refused.into_inner();
    match refused.unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}
