//! Bytes as numbers, and several parts of one buffer at a time.

use std::ops::Range;
use std::slice;

use crate::element::Element;

/// `count` numbers from byte `offset` of `bytes` on.
///
/// # Panics
/// When they reach past the end, or are not aligned for `T`.
pub(super) fn numbers<T: Element>(bytes: &[u8], offset: usize, count: usize) -> &[T] {
    let bytes = &bytes[span::<T>(bytes.as_ptr().addr(), bytes.len(), offset, count)];
    if count == 0 {
        return &[];
    }
    // SAFETY: `span` proved that `count` aligned numbers lie in `bytes`; every bit pattern is a
    // value of an `Element`; the view borrows `bytes`.
    unsafe { slice::from_raw_parts(bytes.as_ptr().cast(), count) }
}

/// `count` numbers from byte `offset` of `bytes` on, to write.
///
/// # Panics
/// As [`numbers`].
pub(super) fn numbers_mut<T: Element>(bytes: &mut [u8], offset: usize, count: usize) -> &mut [T] {
    let span = span::<T>(bytes.as_ptr().addr(), bytes.len(), offset, count);
    let bytes = &mut bytes[span];
    if count == 0 {
        return &mut [];
    }
    // SAFETY: as in `numbers`; an `Element` has no padding, so what is written are whole bytes;
    // the view borrows `bytes` uniquely.
    unsafe { slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), count) }
}

fn span<T>(address: usize, len: usize, offset: usize, count: usize) -> Range<usize> {
    let end = count
        .checked_mul(size_of::<T>())
        .and_then(|bytes| bytes.checked_add(offset));
    let end = end.filter(|end| *end <= len);
    let Some(end) = end else {
        panic!("{count} numbers at byte {offset} reach past the end of {len} bytes");
    };
    let address = address + offset;
    // What is empty has no address: a rank without a KV head has no rows of one.
    assert!(
        count == 0 || address.is_multiple_of(align_of::<T>()),
        "address {address:#x} is not aligned to {} bytes",
        align_of::<T>()
    );
    offset..end
}

/// A part of a buffer, borrowed uniquely while other parts of it are borrowed, too.
#[derive(Debug)]
pub struct Part<'a> {
    pub(super) bytes: &'a mut [u8],
}

impl Part<'_> {
    /// The first `count` numbers.
    ///
    /// # Panics
    /// When the part is shorter, or not aligned for `T`.
    pub fn first<T: Element>(&self, count: usize) -> &[T] {
        numbers(self.bytes, 0, count)
    }

    /// The first `count` numbers, to write.
    ///
    /// # Panics
    /// As [`Part::first`].
    pub fn first_mut<T: Element>(&mut self, count: usize) -> &mut [T] {
        numbers_mut(self.bytes, 0, count)
    }

    /// All of it as numbers to write (a tail shorter than one number is left out).
    ///
    /// # Panics
    /// When it is not aligned for `T`.
    pub fn all_mut<T: Element>(&mut self) -> &mut [T] {
        self.first_mut(self.bytes.len() / size_of::<T>())
    }
}
