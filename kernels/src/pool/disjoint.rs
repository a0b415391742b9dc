//! `Disjoint`: one mutable slice, parts of which concurrent chunks of an op write.

use std::marker::PhantomData;
use std::ops::Range;
use std::slice;

use super::Pool;

/// A uniquely borrowed slice that chunks cut their own parts out of.
#[derive(Debug)]
pub(crate) struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: parts go to other threads as `&mut [T]`, which is Send when T is; callers of `chunk`
// guarantee that no two overlap.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(data: &'a mut [T]) -> Disjoint<'a, T> {
        Disjoint {
            start: data.as_mut_ptr(),
            len: data.len(),
            borrow: PhantomData,
        }
    }

    /// The part `range`.
    ///
    /// # Safety
    /// Parts that are held at the same time do not overlap (a chunk derives its range from its
    /// own number).
    ///
    /// # Panics
    /// When `range` passes the end.
    #[expect(
        clippy::mut_from_ref,
        reason = "the parts of concurrent chunks do not overlap"
    )]
    pub(crate) unsafe fn chunk(&self, range: Range<usize>) -> &mut [T] {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "{range:?} of {}",
            self.len
        );
        // SAFETY: the range is inside the slice that this value borrows uniquely, and the caller
        // keeps parts that live at the same time apart.
        unsafe { slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

/// [`Pool::run_rows`], whose checks have passed: `data` is a whole number of rows.
pub(super) fn run_rows<T: Send>(
    pool: &Pool,
    data: &mut [T],
    row_len: usize,
    rows_per_chunk: usize,
    work: impl Fn(usize, &mut [T]) + Sync,
) {
    let rows = data.len() / row_len;
    let rows_per_chunk = rows_per_chunk.max(1);
    let parts = Disjoint::new(data);
    pool.run(rows.div_ceil(rows_per_chunk), |chunk| {
        let first = chunk * rows_per_chunk;
        let end = (first + rows_per_chunk).min(rows);
        // SAFETY: chunks are numbered once each, and their row ranges do not overlap.
        work(first, unsafe {
            parts.chunk(first * row_len..end * row_len)
        });
    });
}
