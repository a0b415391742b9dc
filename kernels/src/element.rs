//! Plain numbers, which memory holds: as bytes and back, for copies to and from a device.

#[cfg(feature = "cuda")]
use std::slice;

/// Plain numbers: every bit pattern is a value, so that poisoned or fresh memory can be viewed.
pub trait Element: Copy + Send + Sync + sealed::Plain + 'static {}

mod sealed {
    pub trait Plain {}
}

macro_rules! elements {
    ($($t:ty),*) => { $(impl sealed::Plain for $t {} impl Element for $t {})* };
}
elements!(u8, u16, u32, u64, i32, i64, f32);

/// The bytes of `values`.
#[cfg(feature = "cuda")]
pub(crate) fn bytes_of<T: Element>(values: &[T]) -> &[u8] {
    // SAFETY: an `Element` has no padding, so every byte of the slice is initialised; the view
    // borrows `values`.
    unsafe { slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The bytes of `values`, to write.
#[cfg(feature = "cuda")]
pub(crate) fn bytes_of_mut<T: Element>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: every bit pattern is a value of an `Element`, so any bytes may be written; the view
    // borrows `values` uniquely.
    unsafe { slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}
