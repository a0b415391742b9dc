//! Buffers of threads that merge: tests add up how much of them one thread has at once.

use std::ops::{Deref, DerefMut};

/// Given back when it is dropped.
#[derive(Debug)]
pub(super) struct Held<T>(Vec<T>);

impl<T: Clone + Default> Held<T> {
    pub(super) fn new(length: usize) -> Held<T> {
        Held::from(vec![T::default(); length])
    }
}

impl<T> From<Vec<T>> for Held<T> {
    fn from(numbers: Vec<T>) -> Held<T> {
        #[cfg(test)]
        tests::count(numbers.capacity() * size_of::<T>(), true);
        Held(numbers)
    }
}

#[cfg(test)]
impl<T> Drop for Held<T> {
    fn drop(&mut self) {
        tests::count(self.0.capacity() * size_of::<T>(), false);
    }
}

impl<T> Deref for Held<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> DerefMut for Held<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;

    thread_local! {
        /// Bytes that this thread has, and the most that it had.
        static HELD: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
    }

    pub(super) fn count(bytes: usize, more: bool) {
        let (now, most) = HELD.get();
        let now = if more { now + bytes } else { now - bytes };
        HELD.set((now, most.max(now)));
    }

    /// The most bytes that this thread has while `work` is done.
    pub(in super::super) fn most_while(work: impl FnOnce()) -> usize {
        let (now, _) = HELD.get();
        HELD.set((now, now));
        work();
        HELD.get().1 - now
    }
}
