//! Plain numbers as bytes and back: what copies to and from a device take.

use std::slice;

use super::Element;

/// The bytes of `values`.
pub(crate) fn bytes_of<T: Element>(values: &[T]) -> &[u8] {
    // SAFETY: an `Element` has no padding, so every byte of the slice is initialised; the view
    // borrows `values`.
    unsafe { slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The bytes of `values`, to write.
pub(crate) fn bytes_of_mut<T: Element>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: every bit pattern is a value of an `Element`, so any bytes may be written; the view
    // borrows `values` uniquely.
    unsafe { slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}
